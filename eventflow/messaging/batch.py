"""`Batch`: several events at once, with an outcome for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, cast, overload

if TYPE_CHECKING:
    from eventflow.messaging.delivery import Delivery

__all__ = ("Batch",)

T = TypeVar("T")


class Batch(Sequence[T], Generic[T]):
    """What a handler with ``batch=`` gets: a sequence of events, or of messages, in order.

    Each item has an outcome of its own. When the handler returns, all are handled that it did
    not name in `fail`. When it raises, or times out, all are failed that it did not name in
    `succeed`. What failed goes through the failure policy by itself.

    Example::

        async def store(batch: Batch[OrderPlaced]) -> None:
            for event, error in await database.insert(batch):
                batch.fail(event, error)
    """

    def __init__(self, items: Sequence[T], deliveries: Sequence[Delivery]) -> None:
        self._items = tuple(items)
        self._deliveries = tuple(deliveries)
        self._outcomes: dict[int, BaseException | None] = {}

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The deliveries that the items came with, in the same order."""
        return self._deliveries

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """An item by its place, or several."""
        return self._items[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Batch of {len(self._items)}>"

    def fail(self, item: T, error: BaseException) -> None:
        """Say that an item was not handled, and why.

        Args:
            item: One of the items: the object itself, not one that is equal to it.
            error: What the failure policy is to know of it.

        Raises:
            ValueError: It is not one of them.
            TypeError: ``error`` is none.
        """
        if not isinstance(cast("object", error), BaseException):
            raise TypeError(f"an item fails with an error, not with {error!r}")
        for place in self._places(item):
            self._outcomes[place] = error

    def succeed(self, item: T) -> None:
        """Say that an item was handled, whatever happens to the rest.

        Raises:
            ValueError: It is not one of the items.
        """
        for place in self._places(item):
            self._outcomes[place] = None

    def _places(self, item: object) -> list[int]:
        """Where it is: a message that was published twice can be there as one object."""
        found = [place for place, own in enumerate(self._items) if own is item]
        if not found:
            raise ValueError(f"{type(item).__name__} is not one of this batch's items")
        return found

    def outcome(self, place: int, default: BaseException | None) -> BaseException | None:
        """What became of an item: ``None`` where it was handled; for the router."""
        return self._outcomes.get(place, default)
