"""`RouterHandler`: the handle of a handler that was added to a router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow._cause import current_attempt
from eventflow.errors import DeadlockError, RouterError
from eventflow.messaging.statistics import HandlerHealth, HandlerStatistics

if TYPE_CHECKING:
    from eventflow.messaging._runner import Runner
    from eventflow.messaging.router import Router

__all__ = ("RouterHandler",)


class RouterHandler:
    """A handler of a router, to be paused, stopped and looked at."""

    def __init__(self, router: Router, name: str) -> None:
        self._router = router
        self._name = name

    def __repr__(self) -> str:
        """Name and state."""
        return f"<RouterHandler {self._name!r}, {self.health().state}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def _runner(self) -> Runner:
        scope = self._router.scope
        runner = None if scope is None else scope.runners.get(self._name)
        if runner is None:
            raise RouterError(f"handler {self._name!r} does not run: its router is not entered")
        return runner

    def pause(self) -> None:
        """Start and receive nothing more until `resume`; what runs goes on.

        Handlers that read the same topic through the same group are not received for either.

        Raises:
            RouterError: It does not run.
        """
        self._runner().pause(self, "paused")

    def resume(self) -> None:
        """Go on. Does nothing if it was not paused.

        Raises:
            RouterError: It does not run.
        """
        self._runner().resume(self)

    async def wait_running(self) -> None:
        """Wait until it receives.

        Raises:
            RouterError: It does not run.
            EventFlowError: It can't.
        """
        await self._runner().wait_running()

    async def aclose(self) -> None:
        """Stop it, and no other; it can be added again afterwards.

        It takes nothing in any more, finishes what it has begun, for at most the router's
        ``drain_timeout``, and gives the rest back. Its publisher is left alone. Its counts stay in
        the ledger, a row for each name that there was.

        Raises:
            DeadlockError: Called from itself.
        """
        attempt, scope = current_attempt(), self._router.scope
        if attempt is not None and scope is not None and scope.has(attempt.lane, self._name):
            raise DeadlockError(f"handler {self._name!r} can't wait for its own end")
        await self._router.stop_handler(self._name)

    def statistics(self) -> HandlerStatistics:
        """The counts, now."""
        scope = self._router.scope
        return HandlerStatistics(name=self._name) if scope is None else scope.row(self._name)

    def health(self) -> HandlerHealth:
        """How it is."""
        scope = self._router.scope
        if scope is None:
            return HandlerHealth(name=self._name, state="stopped")
        return scope.health_of(self._name)
