"""The connection of a broker, made again when it is lost."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._errors import reason_of
from eventflow.brokers.rabbitmq._session import Session
from eventflow.errors import BrokerClosedError, BrokerError
from eventflow.lifecycle.supervisor import Supervisor, cancel_and_wait
from eventflow.lifecycle.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from eventflow.brokers.rabbitmq._settings import Settings

__all__ = ("BLOCKED", "Link")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 1.0
"""Seconds between two attempts, so that all is back within 5 s of the server."""
REFUSED_WAIT_S = 5.0
"""The same where it does not let us in."""
WELL_S = 5.0
"""Seconds after which a connection that ends was a good one."""
END_S = 2.0
BLOCKED = "RabbitMQ takes no messages, for want of memory or of room on disk"

log = EventLogger("eventflow.rabbitmq")


class Link:
    """Keeps one connection.

    Args:
        settings: Of the broker.
        session: The connection; ``None`` to make one.
    """

    def __init__(self, settings: Settings, session: Session | None) -> None:
        self._problem = "" if session is not None else "there is no connection yet"
        self._settings = settings
        self._session: Session | None = session
        self._is_ended = False
        self._changed = Waiters()
        self._supervisor = Supervisor("rabbitmq", on_stop=self._stop)
        self._keeping = self._supervisor.spawn(self._keep(session), "link")

    @property
    def problem(self) -> str:
        """Why nothing can be done at present; empty while nothing is wrong."""
        if not self._problem and (session := self._session) is not None:
            if not session.is_open:
                return "the connection was lost"
            if session.sifter.is_blocked:
                return BLOCKED
        return self._problem

    @property
    def session(self) -> Session | None:
        """The connection, if there is one now."""
        session = self._session
        return session if session is not None and session.is_open else None

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[Any]:
        """Run something for as long as the link lasts."""
        return self._supervisor.spawn(work, name)

    async def wait(self, until: float | None = None) -> Session:
        """Wait for a connection, until loop time ``until``.

        Raises:
            TimeoutError: There was none until then.
            BrokerClosedError: The link was ended.
        """
        while True:
            if self._is_ended:
                raise BrokerClosedError("the broker was closed")
            if (session := self.session) is not None:
                return session
            if until is not None and asyncio.get_running_loop().time() >= until:
                raise TimeoutError
            await self._changed.wait(until)

    async def _keep(self, session: Session | None) -> None:
        loop = asyncio.get_running_loop()
        wait = 0.0
        if session is None:
            self._session = session = await self._connect()
            self._problem = ""
            self._changed.wake_all()
        while True:
            began = loop.time()
            error = await asyncio.shield(session.lost)
            self._session = None
            self._problem = f"the connection was lost: {reason_of(error)}"
            log.warning(
                "eventflow.broker_lost", where=repr(self._settings), reason=reason_of(error)
            )
            session.abort()
            # What ends each connection soon again does not do so more than once a second.
            wait = 0.0 if loop.time() - began > WELL_S else min(wait * 2 + 0.05, LONGEST_WAIT_S)
            await asyncio.sleep(wait)
            self._session = session = await self._connect()
            self._problem = ""
            log.warning("eventflow.broker_back", where=repr(self._settings))
            self._changed.wake_all()

    async def _connect(self) -> Session:
        wait = FIRST_WAIT_S
        while True:
            try:
                return await Session.begin(self._settings)
            except BrokerError as exc:
                if str(exc) != self._problem:
                    self._problem = str(exc)
                    log.warning("eventflow.broker_away", reason=self._problem)
                longest = LONGEST_WAIT_S if exc.retriable else REFUSED_WAIT_S
                wait = min(wait * 2, longest) if exc.retriable else longest
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - not for secrets

    async def _stop(self) -> None:
        self._is_ended = True
        self._keeping.cancel()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        self._changed.wake_all()
        await cancel_and_wait(self._supervisor.tasks, grace=END_S)

    async def end(self) -> None:
        """Close the connection, and end all that runs for it. Bounded."""
        await self._supervisor.stop(abort=False)
