"""`Subscription`: the handle of a handler that is bound to a bus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from eventflow._cause import current_attempt
from eventflow.bus.statistics import SubscriptionStatistics
from eventflow.errors import BusNotEnteredError, DeadlockError, WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.bus._binding import Binding
    from eventflow.bus._consumer import Consumer
    from eventflow.bus._scope import Scope

__all__ = ("Subscription",)


class Subscription:
    """A handler bound to a bus, as a cancellable scope of its own.

    Made before the bus is entered, it starts with each entry; made while the bus is open, it
    starts at once and ends with it.
    """

    def __init__(
        self, binding: Binding, name: str, withdraw: Callable[[Subscription], None]
    ) -> None:
        self._binding = binding
        self._name = name
        self._withdraw = withdraw
        self._scope: Scope | None = None
        self._consumer: Consumer | None = None

    def __repr__(self) -> str:
        """Name and state."""
        return f"<Subscription {self._name!r}, {'closed' if self.closed else 'open'}>"

    @property
    def name(self) -> str:
        """Name in logs and in the ledger."""
        return self._name

    @property
    def binding(self) -> Binding:
        """What is bound to what, and how it is run."""
        return self._binding

    @property
    def closed(self) -> bool:
        """Whether it takes nothing in: stopped, or its bus is not open."""
        return self._consumer is None or self._consumer.inbox.closed

    def attach(self, scope: Scope, consumer: Consumer) -> None:
        """Tie the handle to the subscription that runs; called by the bus."""
        self._scope = scope
        self._consumer = consumer

    def statistics(self) -> SubscriptionStatistics:
        """The counts, now; of the last stay in the bus after it was left."""
        if self._consumer is None:
            return SubscriptionStatistics(name=self._name)
        return self._consumer.inbox.statistics()

    async def wait_ready(self) -> None:
        """Wait until events are being handled: until the resource is open, where there is one.

        Raises:
            BusNotEnteredError: The bus has not been entered.
            ResourceError: The resource could not be opened.
        """
        if self._consumer is None:
            raise BusNotEnteredError(
                f"subscription {self._name!r} starts when its bus is entered: `async with bus:`"
            )
        self._check_loop()
        if self._consumer.ready is not None:
            await asyncio.shield(self._consumer.ready)

    def cancel(self) -> None:
        """End it now, without waiting: its handlers are cancelled, what is buffered is released.

        Nothing else on the bus is touched. May be called from the handler itself. Calling it
        again does nothing.
        """
        running = None if self._stopped() else self._consumer
        if running is not None:
            self._check_loop()
        self._withdraw(self)
        if running is not None:
            running.begin_stop(drain=False)

    async def aclose(self, *, drain: bool = True) -> None:
        """End it: take nothing in, let handlers finish, then cancel them.

        It ends within the bus's ``drain_timeout`` + ``cancel_grace`` + 1 s. If the caller is
        cancelled meanwhile, the drain ends and the handlers are cancelled; the cancellation
        is raised when that is done. Closing twice does nothing.

        Args:
            drain: Whether what is buffered is still handled, for at most ``drain_timeout``.

        Raises:
            DeadlockError: Called from its own handler, which could only wait for itself.
        """
        consumer = self._consumer
        if consumer is None or self._stopped():
            self._withdraw(self)
            return
        self._check_loop()
        attempt = current_attempt()
        assert self._scope is not None
        if attempt is not None and attempt.lane is consumer.inbox and self._scope.runs(attempt):
            raise DeadlockError(
                f"{self._name} can't wait for its own end; call `subscription.cancel()`, which "
                "does not wait"
            )
        self._withdraw(self)
        stopping = consumer.begin_stop(drain=drain)
        cancelled: asyncio.CancelledError | None = None
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError as exc:
            if not stopping.cancelled():
                cancelled = exc
                consumer.begin_stop(drain=False)
        with anyio.CancelScope(shield=True):
            while not stopping.done():
                try:
                    await asyncio.shield(stopping)
                except asyncio.CancelledError as exc:
                    if not stopping.cancelled():
                        cancelled = exc
                        consumer.begin_stop(drain=False)
        if cancelled is not None:
            raise cancelled

    def _stopped(self) -> bool:
        return self._scope is None or self._scope.state == "closed"

    def _check_loop(self) -> None:
        assert self._scope is not None
        if asyncio._get_running_loop() is not self._scope.loop:
            raise WrongLoopError(
                f"subscription {self._name!r} belongs to the event loop that its bus was entered in"
            )
