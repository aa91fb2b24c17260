"""`EventBus`: events from whoever announces them to whoever reacts, inside one process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from eventflow._cause import current_attempt
from eventflow.bus._binding import Binding, check_selector, selector_name
from eventflow.bus._consumer import Consumer
from eventflow.bus._dispatch import Dispatch
from eventflow.bus._explaining import explain
from eventflow.bus._names import Names
from eventflow.bus._options import STREAM_OPTIONS, Options
from eventflow.bus._scope import Scope
from eventflow.bus.statistics import BusStatistics
from eventflow.bus.stream import EventStream
from eventflow.bus.subscription import Subscription
from eventflow.errors import (
    BusClosedError,
    BusError,
    DeadlockError,
    InvalidOptionError,
    WrongLoopError,
)
from eventflow.events import Event
from eventflow.lifecycle.callables import handler_name
from eventflow.lifecycle.home import noting_loop, process
from eventflow.lifecycle.options import check_name, finite

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

    from eventflow.bus.explanation import Explanation
    from eventflow.bus.listeners import Listeners
    from eventflow.bus.options import StreamOptions, SubscribeOptions
    from eventflow.typing import Handler, ResourceHandler

__all__ = ("EventBus",)

E = TypeVar("E", bound=Event)
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., Any])


class EventBus(Dispatch):
    """An in-process bus: an async context manager in which every subscriber is a task.

    Entering starts the subscribers. Leaving normally stops them in good order: nothing is
    taken in from outside any more, handlers finish for at most ``drain_timeout``, then they
    are cancelled, once more after ``cancel_grace``, and what still runs is abandoned by name.
    Leaving by an error or a cancellation skips the first part. Either way it ends within
    ``drain_timeout + cancel_grace + 1`` seconds, short of a blocked event loop, and `ledger`
    tells what became of every event.

    A bus may be entered in one task and left in another of the same loop, and entered again
    after it was left. It belongs to the loop and process it was entered in.

    Args:
        name: Name in logs and in the ledger.
        drain_timeout: Seconds for handlers to finish what was published; 0 or more.
        cancel_grace: Seconds from a handler's first cancellation to its second; above 0.
        max_threads: Most sync handlers that run at once, on threads of the bus's own.

    Example::

        async with EventBus(name="shop") as bus:
            bus.subscribe(OrderPlaced, send_receipt)
            await bus.publish(OrderPlaced(order_id="A-1", amount_cents=1990))
    """

    __slots__ = ("_cancel_grace", "_declared", "_drain_timeout", "_max_threads", "_names")

    def __init__(
        self,
        name: str = "bus",
        *,
        drain_timeout: float = 20.0,
        cancel_grace: float = 5.0,
        max_threads: int = 40,
    ) -> None:
        check_name(name)
        for option, value, least in (
            ("drain_timeout", drain_timeout, 0.0),
            ("cancel_grace", cancel_grace, 0.001),
            ("max_threads", max_threads, 1),
        ):
            whole = option != "max_threads" or isinstance(value, int)
            if not (whole and least <= finite(value) < float("inf")):
                raise InvalidOptionError(
                    f"{option} must be {least} or more, and finite, not {value!r}", option=option
                )
        self._name = name
        self._drain_timeout = drain_timeout
        self._cancel_grace = cancel_grace
        self._max_threads = max_threads
        self._declared: dict[str, Subscription] = {}
        self._names = Names(name, self._declared.__contains__)
        self._scope: Scope | None = None
        self._routes = {}
        self._loop = self._noting_loop = None
        self._forks = 0
        self._until_checkpoint = 1

    def __repr__(self) -> str:
        """Name and state."""
        return f"<EventBus {self._name!r}, {self._state}>"

    @property
    def _state(self) -> str:
        return "new" if self._scope is None else self._scope.state

    @property
    def name(self) -> str:
        """Name in logs and in the ledger."""
        return self._name

    # Lifecycle

    async def __aenter__(self) -> Self:
        """Start the subscribers; returns when all their resources are open.

        Raises:
            ResourceError: A resource could not be opened; the others are closed again.
            BusError: The bus is open already.
        """
        if self._is_entered():
            raise BusError(f"bus {self._name!r} is open already; a second one needs its own object")
        scope = self._scope = Scope(
            self._name,
            drain_timeout=self._drain_timeout,
            cancel_grace=self._cancel_grace,
            max_threads=self._max_threads,
        )
        self._routes, self._loop = scope.routes, scope.loop
        self._noting_loop, self._forks = noting_loop(scope.loop), process.forks
        try:
            for subscription in tuple(self._declared.values()):
                self._start(subscription, scope)
            for consumer in tuple(scope.consumers.values()):
                if consumer.ready is not None:
                    await asyncio.shield(consumer.ready)
        except BaseException:
            await scope.supervisor.stop(abort=True)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the subscribers; see the class.

        Raises:
            DeadlockError: Called from a handler of the bus.
            WrongLoopError: Called in another event loop than it was entered in.
        """
        if (
            self._scope is not None
            and self._scope.state == "closed"
            and self._scope.supervisor.cancelled
        ):
            return  # asyncio.run() cancelled all tasks; the bus's own was faster than its owner's
        scope = self._entered()
        if asyncio._get_running_loop() is not scope.loop:
            raise WrongLoopError(
                f"bus {self._name!r} must be left in the event loop it was entered in"
            )
        if scope.runs(current_attempt()):
            raise DeadlockError(f"bus {self._name!r} can't be left from one of its own handlers")
        await scope.supervisor.stop(abort=exc_type is not None)

    def _is_entered(self) -> bool:
        scope = self._scope
        return (
            scope is not None
            and scope.state != "closed"
            and scope.pid == os.getpid()
            and not scope.loop.is_closed()
        )

    def _open_scope(self) -> Scope:
        """The scope, for something that needs a bus which takes in."""
        scope = self._entered()
        if asyncio._get_running_loop() is not scope.loop:
            raise WrongLoopError(f"bus {self._name!r} belongs to the event loop it was entered in")
        if scope.state != "open":
            raise scope.closed_error()
        return scope

    # Subscribing

    @overload
    def subscribe(
        self, event: type[E], handler: Handler[E], **options: Unpack[SubscribeOptions[E]]
    ) -> Subscription: ...
    @overload
    def subscribe(
        self, event: str, handler: Handler[Any], **options: Unpack[SubscribeOptions[Any]]
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        event: type[E],
        handler: ResourceHandler[E, R],
        *,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[SubscribeOptions[E]],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        event: str,
        handler: ResourceHandler[Any, R],
        *,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[SubscribeOptions[Any]],
    ) -> Subscription: ...
    def subscribe(self, event: Any, handler: Callable[..., Any], **options: Any) -> Subscription:
        """Let a handler get events of a class (subclasses included), a topic or a pattern.

        Before the bus is entered this only notes it down, and the subscription starts with
        every entry; while it is open it starts at once, gets the events published from now
        on, and ends with the bus. The handler is called as it is: an ``async def`` on the
        event loop, a plain function in a thread. Its return value is ignored.

        Args:
            event: A subclass of `Event`, a topic such as ``orders.placed``, or a pattern:
                ``*`` stands for one segment, ``>`` at the end for one or more.
            handler: A callable of one event; of the event and the resource with ``resources``.
            options: See `SubscribeOptions`; and ``resources``, a function that returns an
                async context manager, opened and closed with the subscription, in a task of
                its own. What it yields is the handler's second argument.

        Raises:
            InvalidHandlerError: It can't be called like that.
            InvalidOptionError: An option is unknown, out of range, or its name is taken.
            InvalidTopicError: Neither class nor topic nor pattern.
            BusClosedError: The bus is stopping.
            WrongLoopError: The bus is open in another event loop or thread.
        """
        return self._bind(Binding.check(event, handler, options))

    def on(self, event: type[Event] | str, **options: Any) -> Callable[[H], H]:
        """Decorator for `subscribe`; the function stays as it is, and directly callable."""

        def bind(handler: H) -> H:
            self._bind(Binding.check(event, handler, options))
            return handler

        return bind

    def include(self, listeners: Listeners) -> None:
        """Subscribe everything in a collection; all of it or, on an error, none."""
        made: list[Subscription] = []
        try:
            for binding in listeners:
                made.append(self._bind(binding))  # noqa: PERF401 - undone below if one fails
        except BaseException:
            for subscription in made:
                subscription.cancel()
            raise

    def _bind(self, binding: Binding) -> Subscription:
        default = handler_name(binding.handler)
        if self._is_entered():
            scope = self._open_scope()
            name = scope.names.find(binding.options.name, default)
            subscription = Subscription(binding, name, self._withdraw)
            self._start(subscription, scope)
            return subscription
        name = self._names.find(binding.options.name, default)
        subscription = self._declared[name] = Subscription(binding, name, self._withdraw)
        return subscription

    def _start(self, subscription: Subscription, scope: Scope) -> None:
        binding = subscription.binding
        consumer = Consumer(
            subscription.name, binding.selector, binding.handler, binding.options, scope
        )
        scope.consumers[subscription.name] = consumer
        subscription.attach(scope, consumer)
        scope.route(consumer)
        consumer.start()

    def _withdraw(self, subscription: Subscription) -> None:
        """Forget a subscription that was made before the bus was entered."""
        if self._declared.get(subscription.name) is subscription:
            del self._declared[subscription.name]

    @overload
    def stream(self, event: type[E], **options: Unpack[StreamOptions[E]]) -> EventStream[E]: ...
    @overload
    def stream(self, event: str, **options: Unpack[StreamOptions[Any]]) -> EventStream[Event]: ...
    def stream(self, event: Any, **options: Any) -> EventStream[Any]:
        """Events as an async iterator, for ``async with … as events: async for event in events``.

        Args:
            event: As for `subscribe`.
            options: See `StreamOptions`.

        Raises:
            InvalidOptionError: An option is unknown or out of range.
            InvalidTopicError: Neither class nor topic nor pattern.
        """
        checked = Options.check(options, allowed=STREAM_OPTIONS)
        return EventStream(self._open_scope, check_selector(event), checked)

    @overload
    async def wait_for(
        self,
        event: type[E],
        *,
        where: Callable[[E], bool] | None = None,
        timeout: float | None,  # noqa: ASYNC109 - part of what is asked for
    ) -> E: ...
    @overload
    async def wait_for(
        self,
        event: str,
        *,
        where: Callable[[Event], bool] | None = None,
        timeout: float | None,  # noqa: ASYNC109
    ) -> Event: ...
    async def wait_for(
        self,
        event: Any,
        *,
        where: Callable[[Any], bool] | None = None,
        timeout: float | None,  # noqa: ASYNC109
    ) -> Event:
        """Wait for the next event that fits; only those published after the call begins count.

        Args:
            event: As for `subscribe`.
            where: Called with each event; the first for which it is true is returned.
            timeout: Seconds to wait; ``None`` for no limit.

        Raises:
            TimeoutError: None came in time.
            BusClosedError: The bus stopped first.
        """
        async with asyncio.timeout(timeout), self.stream(event) as events:
            async for candidate in events:
                if where is None or where(candidate):
                    return candidate  # type: ignore[no-any-return]
        raise BusClosedError(f"the bus stopped before {selector_name(check_selector(event))} came")

    # Looking at it

    async def wait_idle(self) -> None:
        """Wait until nothing is buffered or being handled. For tests.

        Events that handlers publish meanwhile are waited for too, and threads that outlived
        the timeout of their attempt.

        Raises:
            DeadlockError: Called from a handler of the bus.
            BusNotEnteredError: The bus has not been entered.
            BusClosedError: The bus was left.
        """
        scope = self._entered()
        if asyncio._get_running_loop() is not scope.loop:
            raise WrongLoopError(f"bus {self._name!r} belongs to the event loop it was entered in")
        if scope.runs(current_attempt()):
            raise DeadlockError("a handler can't wait until no handler runs")
        await scope.wait_idle(scope)

    def explain(self, event: Event | type[Event] | str) -> Explanation:
        """Say who would get an event if it were published now, and why; who would not, and why not.

        For people who look for an event that did not arrive, and for tests. It publishes nothing,
        and is on the bus alone: a publisher that depends on `EventPublisher` can't ask. Before the
        bus is entered it tells of the subscriptions that start with it.

        Args:
            event: An event, a class of events, or a topic; for the latter, whether subscriptions to
                classes get it depends on the event's class, which it says.

        Raises:
            InvalidTopicError: Neither; a pattern is no topic.

        Example::

            print(bus.explain(OrderPlaced))
            assert bus.explain("orders.placed").receivers == ("audit",)
        """
        entered = self._is_entered()
        return explain(
            event,
            bus=self._name,
            state=self._state if entered or self._scope is None else "closed",
            declared=tuple(self._declared.values()),
            scope=self._scope if entered else None,
        )

    def statistics(self) -> BusStatistics:
        """The counts of the bus, now; those of the last stay after it was left."""
        if self._scope is None:
            return BusStatistics(name=self._name, state="new")
        return self._scope.statistics()

    @property
    def ledger(self) -> BusStatistics:
        """What became of every event; final, and kept, once the bus has stopped."""
        return self.statistics()
