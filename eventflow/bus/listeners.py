"""`Listeners`: bindings that a module offers, before there is a bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

from eventflow.bus._binding import Binding
from eventflow.errors import InvalidOptionError
from eventflow.events import Event
from eventflow.lifecycle.callables import handler_name

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from typing import Unpack

    from eventflow.bus.options import SubscribeOptions
    from eventflow.typing import Handler, ResourceHandler

__all__ = ("Listeners",)

E = TypeVar("E", bound=Event)
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., Any])


class Listeners:
    """A plain collection of bindings; nothing starts until a bus includes it.

    Bindings are checked when they are made, exactly as by `EventBus.subscribe`. One
    collection may be included in several buses.

    Example::

        listeners = Listeners()

        @listeners.on(OrderPlaced)
        async def send_receipt(event: OrderPlaced) -> None: ...

        bus.include(listeners)
    """

    def __init__(self) -> None:
        self._bindings: list[Binding] = []

    def __iter__(self) -> Iterator[Binding]:
        """The bindings, in the order they were made."""
        return iter(tuple(self._bindings))

    def __len__(self) -> int:
        """How many bindings there are."""
        return len(self._bindings)

    def only(self, *names: str) -> Listeners:
        """A collection of those of these names; to run some here, and the others elsewhere.

        Raises:
            InvalidOptionError: One is the name of none.
        """
        return self._chosen(names, wanted=True)

    def without(self, *names: str) -> Listeners:
        """A collection of all but those of these names.

        Raises:
            InvalidOptionError: One is the name of none.
        """
        return self._chosen(names, wanted=False)

    def _chosen(self, names: tuple[str, ...], *, wanted: bool) -> Listeners:
        named = [(b.options.name or handler_name(b.handler), b) for b in self._bindings]
        known = {name for name, _ in named}
        for name in names:
            if name not in known:
                raise InvalidOptionError(
                    f"no listener is named {name!r}. Their names are: {', '.join(sorted(known))}",
                    option="names",
                )
        chosen = Listeners()
        chosen._bindings = [binding for name, binding in named if (name in names) is wanted]
        return chosen

    @overload
    def subscribe(
        self, event: type[E], handler: Handler[E], **options: Unpack[SubscribeOptions[E]]
    ) -> None: ...
    @overload
    def subscribe(
        self, event: str, handler: Handler[Any], **options: Unpack[SubscribeOptions[Any]]
    ) -> None: ...
    @overload
    def subscribe(
        self,
        event: type[E],
        handler: ResourceHandler[E, R],
        *,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[SubscribeOptions[E]],
    ) -> None: ...
    @overload
    def subscribe(
        self,
        event: str,
        handler: ResourceHandler[Any, R],
        *,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[SubscribeOptions[Any]],
    ) -> None: ...
    def subscribe(self, event: Any, handler: Callable[..., Any], **options: Any) -> None:
        """Bind a handler; arguments and errors are those of `EventBus.subscribe`."""
        self._bindings.append(Binding.check(event, handler, options))

    def on(self, event: type[Event] | str, **options: Any) -> Callable[[H], H]:
        """Decorator for `subscribe`; the function stays as it is."""

        def bind(handler: H) -> H:
            self._bindings.append(Binding.check(event, handler, options))
            return handler

        return bind
