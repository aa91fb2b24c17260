"""`Router`: binds the topics of brokers to handlers, and acks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from eventflow._cause import current_attempt
from eventflow.errors import DeadlockError, InvalidOptionError, RouterError
from eventflow.events import Event
from eventflow.lifecycle.options import check_name, check_seconds, check_whole
from eventflow.messaging._binding import Binding
from eventflow.messaging._including import bindings_of
from eventflow.messaging._options import DEFAULT_POLICY, check_middlewares, policy
from eventflow.messaging._places import Places
from eventflow.messaging._scope import Scope
from eventflow.messaging.codec import JsonCodec, check_codec
from eventflow.messaging.handler import RouterHandler
from eventflow.messaging.statistics import RouterHealth, RouterStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

    from eventflow.bus import Listeners
    from eventflow.failure import FailurePolicy
    from eventflow.messaging._options import CommonOptions, HandlerOptions
    from eventflow.messaging.batch import Batch
    from eventflow.messaging.codec import Codec
    from eventflow.messaging.message import Message
    from eventflow.messaging.middleware.protocol import Middleware, MiddlewareFactory
    from eventflow.messaging.protocols import Publisher, Subscriber

__all__ = ("Router",)

E = TypeVar("E", bound=Event)
H = TypeVar("H", bound=Callable[..., Any])
R = TypeVar("R")

_JSON = JsonCodec()


class Router:
    """Runs handlers on the messages of brokers: an async context manager.

    A message is acked once its handler returned and what it gave is confirmed; or once its dead
    letter is stored; or where the user chose another end by name. In every other case it comes
    again. The order of things is fixed: decode → failure policy → per attempt: timeout →
    middlewares → handler → outputs → ack.

    Entering opens the resources and subscribes. Leaving normally takes nothing in any more, lets
    handlers finish for at most ``drain_timeout``, cancels them, gives back what was not handled,
    flushes the acks and leaves the subscriptions. Leaving by an error or a cancellation skips
    the first part. Either way it ends within ``drain_timeout + cancel_grace + 1`` seconds, short
    of a blocked event loop; resources and subscriptions that refuse to end may take a second
    more. `ledger` tells what became of every message. Brokers are not the router's: they are
    entered before it, and left after it.

    A router may be entered in one task and left in another of the same loop, and entered again.

    Args:
        name: Name in logs and in the ledger.
        on_failure: Policy of handlers that have none of their own. Default: five attempts, from
            0.1 s apart, then a dead letter.
        middlewares: Around every handler, outermost first.
        drain_timeout: Seconds for handlers to finish what they have begun; 0 or more.
        cancel_grace: Seconds from a handler's first cancellation to its second; above 0.
        max_threads: Most sync handlers that run at once, on threads of the router's own.
        codec: Reads the bodies of events, and writes those that transforms return. Default:
            JSON, as Watermill's services read and write it.

    Example::

        router = Router()
        router.add_handler(
            "receipts", OrderPlaced, send_receipt, subscriber=broker.subscriber(group="receipts")
        )
        async with broker, router:
            ...
    """

    def __init__(
        self,
        name: str = "router",
        *,
        on_failure: FailurePolicy = DEFAULT_POLICY,
        middlewares: Sequence[Middleware | MiddlewareFactory] = (),
        drain_timeout: float = 20.0,
        cancel_grace: float = 5.0,
        max_threads: int = 40,
        codec: Codec = _JSON,
    ) -> None:
        check_name(name)
        check_seconds("drain_timeout", drain_timeout)
        check_seconds("cancel_grace", cancel_grace, least=0.001)
        check_whole("max_threads", max_threads)
        self._name = name
        self._policy = policy(on_failure)
        self._middlewares = list(check_middlewares(middlewares))
        self._drain_timeout = drain_timeout
        self._cancel_grace = cancel_grace
        self._max_threads = max_threads
        self._codec = check_codec(codec)
        self._bindings: dict[str, Binding] = {}
        self._places = Places()
        self._scope: Scope | None = None

    def __repr__(self) -> str:
        """Name and state."""
        return f"<Router {self._name!r}, {self._state}>"

    @property
    def _state(self) -> str:
        return "new" if self._scope is None else self._scope.state

    @property
    def name(self) -> str:
        """Name in logs and in the ledger."""
        return self._name

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that its handlers read, what those need beside them, and each ``publish_topic``.

        What they need beside them are topics for dead letters, and where the backend puts messages
        off, such as Kafka with ``delays=True``, those where they wait to be tried again.

        Each once, sorted. Not among them: what events are published to by themselves, and dead
        letters that go through a publisher of their own, which is perhaps another broker's.
        """
        found: set[str] = set()
        for binding in self._bindings.values():
            letters = binding.dead_letters
            for topic in binding.topics:
                found.update(binding.subscriber.required_topics(topic))
            if letters.publisher is None:
                found.update(map(letters.topic_for, binding.topics))
            if binding.publish_topic is not None:
                found.add(binding.publish_topic)
        return tuple(sorted(found))

    # Handlers

    @overload
    def add_handler(
        self,
        name: str,
        source: type[E],
        handler: Callable[[E], object],
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        **options: Unpack[CommonOptions[E]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: type[E],
        handler: Callable[[E, R], object],
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[CommonOptions[E]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: type[E],
        handler: Callable[[Batch[E]], object],
        *,
        subscriber: Subscriber,
        batch: int,
        max_wait: float = 0.05,
        **options: Unpack[CommonOptions[E]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: type[E],
        handler: Callable[[Batch[E], R], object],
        *,
        subscriber: Subscriber,
        batch: int,
        max_wait: float = 0.05,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[CommonOptions[E]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: str,
        handler: Callable[[Message], object],
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        **options: Unpack[CommonOptions[Message]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: str,
        handler: Callable[[Message, R], object],
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        resources: Callable[[], AbstractAsyncContextManager[R]],
        **options: Unpack[CommonOptions[Message]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: str,
        handler: Callable[[Batch[Message]], object],
        *,
        subscriber: Subscriber,
        batch: int,
        max_wait: float = 0.05,
        **options: Unpack[CommonOptions[Message]],
    ) -> RouterHandler: ...
    @overload
    def add_handler(
        self,
        name: str,
        source: Sequence[type[Event]],
        handler: Callable[..., Any],
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        **options: Unpack[HandlerOptions],
    ) -> RouterHandler: ...
    def add_handler(
        self,
        name: str,
        source: Any,
        handler: Callable[..., Any],
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        **options: Any,
    ) -> RouterHandler:
        """Bind a handler to what comes from a broker.

        While the router is open it starts by itself; `RouterHandler.wait_running` tells when.

        Args:
            name: Its name, unique in the router.
            source: A subclass of `Event`, or several: the handler gets events; messages are told
                apart by their metadata's ``name``, and one without it is taken for the only
                class there is. Or a topic: the handler gets each `Message` as it came.
            handler: A callable of one event, or message; an ``async def`` runs on the event loop,
                a plain function in a thread. It is called as it is, never wrapped.
            subscriber: What it receives through. Handlers with equal subscribers share the
                subscription of a topic.
            publisher: Makes it a transform: the messages or events it returns are published
                there, and confirmed before the ack.
            publish_topic: Topic of its outputs. Default: that of each event.
            options: See `HandlerOptions`.

        Raises:
            InvalidHandlerError: It can't be called like that.
            InvalidOptionError: An option is unknown, out of range, or without meaning on a
                router; the name is taken; or another handler gets the same messages.
            InvalidTopicError: Neither class nor topic, or a base without a topic.
            RouterError: The router is stopping.
        """
        binding = Binding.check(
            name,
            source,
            handler,
            subscriber=subscriber,
            publisher=publisher,
            publish_topic=publish_topic,
            options=options,
            default_policy=self._policy,
        )
        self._add((binding,))
        return RouterHandler(self, name)

    def on(
        self,
        name: str,
        source: type[Event] | Sequence[type[Event]] | str,
        *,
        subscriber: Subscriber,
        publisher: Publisher | None = None,
        publish_topic: str | None = None,
        **options: Unpack[HandlerOptions],
    ) -> Callable[[H], H]:
        """Decorator for `add_handler`; the function stays as it is, and directly callable."""

        def bind(handler: H) -> H:
            given: Any = {
                **options,
                "subscriber": subscriber,
                "publisher": publisher,
                "publish_topic": publish_topic,
            }
            self.add_handler(name, source, handler, **given)
            return handler

        return bind

    def include(
        self,
        listeners: Listeners,
        *,
        subscriber: Subscriber | Callable[[str], Subscriber],
        events: Iterable[type[Event]] = (),
        **options: Unpack[HandlerOptions],
    ) -> list[RouterHandler]:
        """Add everything that a module offers; all of it or, on an error, nothing.

        Args:
            listeners: The collection; its options are those of the handlers, as far as they have
                a meaning on a router.
            subscriber: What they receive through. A function gets the name of each listener, and
                returns its subscriber: one group for each, so that each gets every event.
            events: The classes that there are, for listeners that are bound to a base class, a
                topic or a pattern.
            options: Further options, for those that don't say otherwise.

        Raises:
            InvalidOptionError: A listener has an option of the in-process bus alone, or two of
                them would get the same messages in one group.
            InvalidTopicError: A listener is bound to a base or a pattern, and no class in
                ``events`` fits.
        """
        bindings = bindings_of(
            listeners,
            subscriber=subscriber,
            events=tuple(events),
            options=options,
            default_policy=self._policy,
            is_taken=self._bindings.__contains__,
        )
        self._add(bindings)
        return [RouterHandler(self, binding.name) for binding in bindings]

    def add_middleware(self, middleware: Middleware | MiddlewareFactory) -> None:
        """Put a middleware around every handler, inside those that are there.

        Raises:
            InvalidOptionError: It is none.
            RouterError: The router is open: handlers that run would not have it.
        """
        if self._is_entered():
            raise RouterError("add middlewares before the router is entered")
        checked = check_middlewares((middleware,))
        if any(binding.options.batch is not None for binding in self._bindings.values()):
            raise RouterError("a middleware sees one delivery, and a batch has many")
        self._middlewares += checked

    def _add(self, bindings: Sequence[Binding]) -> None:
        for binding in bindings:
            check_name(binding.name)
            if binding.options.batch is not None and self._middlewares:
                raise InvalidOptionError(
                    f"{binding.name}: a middleware sees one delivery, and a batch has many: put "
                    "batch handlers on a router without middlewares",
                    option="batch",
                )
            if binding.name in self._bindings:
                raise InvalidOptionError(
                    f"router {self._name!r} has a handler named {binding.name!r} already",
                    option="name",
                )
        scope = self._open_scope() if self._is_entered() else None
        self._places.take(bindings)
        try:
            if scope is not None:
                scope.add(bindings)
        except BaseException:
            for binding in bindings:
                self._places.free(binding)
            raise
        self._bindings.update({binding.name: binding for binding in bindings})

    async def stop_handler(self, name: str) -> None:
        """Stop one handler; what `RouterHandler.aclose` does."""
        scope = self._open_scope() if self._is_entered() else None
        binding = self._bindings.pop(name, None)
        if binding is not None:
            self._places.free(binding)
        if scope is not None:
            await scope.stop_handler(name)

    # Lifecycle

    async def __aenter__(self) -> Self:
        """Open resources and subscribe; returns when every handler receives.

        Raises:
            ResourceError: A resource could not be opened.
            BrokerError: Subscribing failed, or dead letters could not be stored.
            RouterError: The router is open already.
        """
        if self._is_entered():
            raise RouterError(f"router {self._name!r} is open already")
        scope = self._scope = Scope(
            self._name,
            drain_timeout=self._drain_timeout,
            cancel_grace=self._cancel_grace,
            max_threads=self._max_threads,
            middlewares=self._middlewares,
            codec=self._codec,
        )
        try:
            scope.add(tuple(self._bindings.values()))
            await scope.wait_running()
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
        """Stop the handlers; see the class.

        Raises:
            DeadlockError: Called from a handler of the router.
            RouterError: It was not entered, or is left in another event loop.
        """
        scope = self._scope
        if scope is None:
            raise RouterError(f"router {self._name!r} was not entered: use `async with router:`")
        if scope.state == "closed":
            return
        if asyncio._get_running_loop() is not scope.loop:
            raise RouterError(f"router {self._name!r} must be left in the loop it was entered in")
        attempt = current_attempt()
        if attempt is not None and scope.has(attempt.lane):
            raise DeadlockError(f"router {self._name!r} can't be left from one of its own handlers")
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
        scope = self._scope
        assert scope is not None
        if scope.state != "open":
            raise RouterError(f"router {self._name!r} is stopping: it takes no more handlers")
        if asyncio._get_running_loop() is not scope.loop:
            raise RouterError(f"router {self._name!r} belongs to the event loop it was entered in")
        return scope

    # Looking at it

    async def wait_running(self) -> None:
        """Wait until every handler receives, those that were added meanwhile included.

        Raises:
            RouterError: The router is not open.
            EventFlowError: A handler can't receive.
        """
        if not self._is_entered():
            raise RouterError(f"router {self._name!r} is not open")
        assert self._scope is not None
        await self._scope.wait_running()

    @property
    def scope(self) -> Scope | None:
        """What exists of it since it was entered; for its handlers' handles."""
        return self._scope

    def statistics(self) -> RouterStatistics:
        """The counts, now."""
        if self._scope is None:
            return RouterStatistics(name=self._name, state="new")
        return self._scope.statistics()

    @property
    def ledger(self) -> RouterStatistics:
        """The counts; once the router was left, what became of every message."""
        return self.statistics()

    def health(self) -> RouterHealth:
        """How it is: whether it is ready, and what is the matter with which handler."""
        if self._scope is None:
            return RouterHealth(name=self._name, state="new")
        return self._scope.health()

    @property
    def is_ready(self) -> bool:
        """Whether every handler receives, and nothing that has to be stored can't be."""
        return self.health().is_ready
