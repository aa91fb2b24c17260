"""`Event`: a frozen Pydantic model with a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from eventflow.errors import EventDecodeError
from eventflow.events._identity import Cell, identify, now, restored
from eventflow.events.topics import validate_topic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ("Event", "event_name")


class Event(BaseModel):
    """A fact: a frozen, strict model with a topic. (First sketch; grows here.)"""

    __slots__ = ("__eventflow_cell__",)

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True)

    topic: ClassVar[str | None] = None
    __eventflow_name__: ClassVar[str] = ""

    if TYPE_CHECKING:
        __eventflow_cell__: Cell

    def __init_subclass__(
        cls, *, topic: str | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.topic = None if topic is None else validate_topic(topic)
        cls.__eventflow_name__ = cls.__name__ if name is None else name

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        kwargs.pop("topic", None)
        kwargs.pop("name", None)
        super().__pydantic_init_subclass__(**kwargs)

    def __init__(self, /, **data: Any) -> None:
        self.__pydantic_validator__.validate_python(data, self_instance=self)
        _set_cell(self, now())

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def id(self) -> str:
        """UUIDv7 of the event."""
        return identify(_get_cell(self))[0]

    @property
    def occurred_at(self) -> datetime:
        """When the event was created, in UTC."""
        return identify(_get_cell(self))[1]

    def to_json(self) -> bytes:
        """Return the event as it goes on the wire."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True)

    @classmethod
    def from_json(
        cls,
        data: bytes,
        *,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> Self:
        """Return the event that was written as these bytes."""
        try:
            event: Self = cls.__pydantic_validator__.validate_json(data)
        except ValueError as exc:
            raise EventDecodeError(str(exc), topic=cls.topic or "") from exc
        _set_cell(event, restored(event_id, occurred_at))
        return event

    def __copy__(self) -> Self:
        copied = super().__copy__()
        _set_cell(copied, _get_cell(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(memo)
        _set_cell(copied, _get_cell(self))
        return copied

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; with ``update``, a new event with a new id and time."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            _set_cell(copied, now())
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__eventflow_identity__": identify(_get_cell(self))}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        event_id, occurred_at = state.pop("__eventflow_identity__")
        super().__setstate__(state)
        _set_cell(self, restored(event_id, occurred_at))


_get_cell = Event.__dict__["__eventflow_cell__"].__get__
_set_cell = Event.__dict__["__eventflow_cell__"].__set__


def event_name(event: Event | type[Event]) -> str:
    """Return the name that stands for the class on the wire."""
    return event.__eventflow_name__
