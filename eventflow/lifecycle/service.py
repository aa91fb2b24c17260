"""`Service`: what a process consists of, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Self

from eventflow._log import EventLogger
from eventflow.errors import (
    InvalidMemberError,
    InvalidOptionError,
    MemberEndedError,
    ServiceError,
)
from eventflow.lifecycle.callables import is_asgi_app
from eventflow.lifecycle.ledger import ServiceLedger, ledger_of
from eventflow.lifecycle.supervisor import LAST_WAIT_S, Supervisor, cancel_and_wait

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from eventflow.lifecycle.ledger import Ledger

__all__ = ("Service",)

log = EventLogger("eventflow.service")

START_GRACE_S = 3.0
"""Most that a start which is given up takes to cancel what it had begun."""
LAST_GRACE_S = 0.6
"""From the cancellation of everything that still runs to a last one."""
GIVE_UP_S = LAST_GRACE_S + LAST_WAIT_S
"""From there until what refuses is given up."""


class Service:
    """Async context managers that are entered in order and left in reverse.

    A member can be anything with ``async with``: a bus, a broker, a database pool, the result
    of an ``@asynccontextmanager`` function, an object around a task group. Each is entered
    and left in one task of its own, so it may hold cancel scopes, while the service itself may
    be entered in one task and left in another of the same loop. The members share one context:
    what one sets in a context variable, the later ones see.

    Leaving normally drains: members are left in reverse, each when the one before has ended,
    under one deadline for all. After ``drain_timeout`` the member being left is cancelled, and
    so are the others when their turn comes; ``cancel_grace`` later everything that still runs is
    cancelled, whatever its turn, and what refuses is given up, by name, within a second. So
    leaving ends within ``drain_timeout + cancel_grace + 1`` seconds, short of a blocked event
    loop. Leaving by an error or a cancellation skips the drain, and a cancellation while it
    drains ends it.

    A member that fails, or ends by itself, stops the service in the same good order: it is
    logged at once (``eventflow.member_failed``), the others are drained, and leaving raises
    the error. `wait_stopping` tells whoever holds the service. A member that is a service
    itself takes this one with it as soon as its own stop begins.

    Nothing starts at construction. A service that was left can be entered again if its members
    can; the result of an ``@asynccontextmanager`` function can't.

    Args:
        members: In the order they are entered; what others rely on comes first.
        name: Name in logs and in the ledger.
        drain_timeout: Seconds for all members together to end in good order, 0 or more; 0 cuts
            at once. Not below that of a bus among them.
        cancel_grace: Seconds from the first cancellation to the last one; above 0.

    Raises:
        InvalidMemberError: An argument is not an async context manager.
        InvalidOptionError: An option is out of range.

    Example::

        service = Service(database, bus, name="shop")
        async with service:
            await service.wait_stopping()
    """

    __slots__ = ("__weakref__", "_cancel_grace", "_drain_timeout", "_members", "_name", "_stay")

    def __init__(
        self,
        *members: AbstractAsyncContextManager[Any],
        name: str = "service",
        drain_timeout: float = 20.0,
        cancel_grace: float = 5.0,
    ) -> None:
        for position, member in enumerate(members, 1):
            _check_member(member, position)
        given: object = name
        if not (isinstance(given, str) and given and given.isprintable()):
            raise InvalidOptionError(
                f"name must be a printable text of one character or more, not {given!r}",
                option="name",
            )
        _check_seconds("drain_timeout", drain_timeout, least=0.0)
        _check_seconds("cancel_grace", cancel_grace, least=0.001)
        self._members = members
        self._name = name
        self._drain_timeout = drain_timeout
        self._cancel_grace = cancel_grace
        self._stay: _Stay | None = None

    def __repr__(self) -> str:
        """Name and state."""
        return f"<Service {self._name!r}, {self.ledger.state}>"

    @property
    def name(self) -> str:
        """Name in logs and in the ledger."""
        return self._name

    @property
    def drain_timeout(self) -> float:
        """Seconds for all members together to end in good order."""
        return self._drain_timeout

    @property
    def cancel_grace(self) -> float:
        """Seconds from the first cancellation to the last one."""
        return self._cancel_grace

    async def __aenter__(self) -> Self:
        """Enter the members in order; returns when all are entered.

        If one can't be entered, those before it are cancelled and left in reverse, within 4
        seconds, and its error comes out. A cancellation does the same.

        Raises:
            ServiceError: The service is entered already.
            MemberEndedError: A member that was entered ended while a later one was not.
            ExceptionGroup: Several members failed.
        """
        if self._is_entered():
            raise ServiceError(
                f"service {self._name!r} is entered already; a second one needs its own object"
            )
        stay = self._stay = _Stay(self)
        try:
            await stay.enter(self._members)
        except BaseException:
            await self._leave(stay, abort=True)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the members; see the class.

        Raises the error of a member that failed, unless an error or a cancellation is on its
        way already; each has been logged.

        Raises:
            ServiceError: Not entered, another event loop than it was entered in, or called by
                a member.
            MemberEndedError: A member ended by itself.
            ExceptionGroup: Several members failed.
        """
        stay = self._entered()
        if asyncio.current_task() in stay.tasks:
            raise ServiceError(
                f"service {self._name!r} can't be left by one of its members; "
                "call its request_stop() there"
            )
        await self._leave(stay, abort=exc_type is not None)
        if exc_type is None:
            stay.raise_errors()

    async def _leave(self, stay: _Stay, *, abort: bool) -> None:
        try:
            await stay.supervisor.stop(abort=abort)
        finally:
            stay.is_left = True

    def request_stop(self) -> None:
        """Begin the stop, without waiting: from a handler, a member or a signal's callback.

        Members are drained as if the service was left; whoever holds it still has to leave it.
        Returns at once, and does nothing where it stops already. While the service starts, the
        members that are left are entered first.

        Raises:
            ServiceError: Not entered, or called outside its event loop.
        """
        self._entered().request_stop()

    async def wait_stopping(self) -> None:
        """Wait until the stop begins: it was requested, a member failed, or it is being left.

        Raises:
            ServiceError: Not entered, or called outside its event loop.
        """
        await asyncio.wait({self._entered().stopping})

    @property
    def is_ready(self) -> bool:
        """Whether all members are entered, and no stop has begun."""
        return self._is_entered() and self._stay is not None and self._stay.state == "open"

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """The ledgers of those members that have one, or whose ``async with`` gave what has one."""
        return self.ledger.ledgers

    @property
    def ledger(self) -> ServiceLedger:
        """What became of everything; final, and kept, once the service has stopped."""
        if self._stay is None:
            found = (ledger_of(member) for member in self._members)
            ledgers = tuple(ledger for ledger in found if ledger is not None)
            return ServiceLedger(name=self._name, state="new", ledgers=ledgers)
        return self._stay.ledger()

    def _is_entered(self) -> bool:
        stay = self._stay
        return (
            stay is not None
            and not stay.is_left
            and stay.pid == os.getpid()
            and not stay.loop.is_closed()
        )

    def _entered(self) -> _Stay:
        stay = self._stay
        if stay is None or not self._is_entered():
            raise ServiceError(
                f"service {self._name!r} is not entered"
                + ("; use `async with` first" if stay is None else ": it was left")
            )
        if asyncio._get_running_loop() is not stay.loop:
            raise ServiceError(
                f"service {self._name!r} belongs to the event loop it was entered in; "
                "from a thread use loop.call_soon_threadsafe(service.request_stop)"
            )
        return stay


def _check_seconds(option: str, value: object, *, least: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value < float("inf")
    ):
        raise InvalidOptionError(
            f"{option} must be {least} or more, and finite, not {value!r}", option=option
        )


def _check_member(member: object, position: int) -> None:
    kind = type(member)
    if not isinstance(member, type) and all(
        callable(getattr(kind, method, None)) for method in ("__aenter__", "__aexit__")
    ):
        return
    if hasattr(kind, "__aiter__"):
        hint = "; put @contextlib.asynccontextmanager on the function that made it"
    elif hasattr(kind, "__enter__"):
        hint = "; it is a plain context manager: enter it in an @asynccontextmanager function"
    elif is_asgi_app(member):
        hint = "; an ASGI app is run by its server, e.g. uvicorn app:app"
    elif callable(member):
        hint = "; call it, if it returns one"
    else:
        hint = ""
    raise InvalidMemberError(
        f"argument {position} of Service must be an async context manager, not {member!r}{hint}",
        position=position,
    )


class _Held:
    """One member between its entry and its end.

    Attributes:
        entered: Done when it was entered.
        leave: Done when it is to be left.
        is_inside: It was entered.
        asked: The service has asked it to end.
        cancelled: The service has cancelled it.
        value: What its ``async with`` gave.
    """

    __slots__ = (
        "asked",
        "cancelled",
        "entered",
        "is_inside",
        "leave",
        "member",
        "name",
        "task",
        "value",
    )

    def __init__(
        self, member: AbstractAsyncContextManager[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.member = member
        self.name = _member_name(member)
        self.entered: asyncio.Future[None] = loop.create_future()
        self.leave: asyncio.Future[None] = loop.create_future()
        self.task: asyncio.Task[None] | None = None
        self.is_inside = self.asked = self.cancelled = False
        self.value: Any = None

    @property
    def is_running(self) -> bool:
        return self.task is not None and not self.task.done()

    def ask(self) -> None:
        self.asked = True
        if not self.leave.done():
            self.leave.set_result(None)

    def cancel(self) -> None:
        self.asked = self.cancelled = True
        assert self.task is not None
        self.task.cancel()


def _member_name(member: object) -> str:
    """Its own name where it has one, else that of its class or of the function that made it."""
    generator = getattr(member, "gen", None)  # of an @asynccontextmanager function
    for name in (getattr(member, "name", None), getattr(generator, "__qualname__", None)):
        if isinstance(name, str) and name and name.isprintable():
            return name.rpartition("<locals>.")[2]
    return type(member).__qualname__


class _Stay:
    """What exists of a service between entering and leaving it."""

    def __init__(self, service: Service) -> None:
        self._name = service.name
        self._drain_timeout = service.drain_timeout
        self._cancel_grace = service.cancel_grace
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self.state = "starting"
        # Not the same as closed: a service that has stopped by itself is still to be left.
        self.is_left = False
        self._is_asked_to_stop = False
        self.stopping: asyncio.Future[None] = self.loop.create_future()
        self.supervisor = Supervisor(self._name, on_stop=self._stop)
        self._context = self.supervisor.copy_context()
        self._held: list[_Held] = []
        self._errors: list[BaseException] = []
        self._failed: list[str] = []
        self._given_up: list[str] = []
        self._stop_began: float | None = None
        self._cut_at: float | None = None

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """Those that hold the members."""
        return {held.task for held in self._held if held.task is not None}

    # Entering

    async def enter(self, members: tuple[AbstractAsyncContextManager[Any], ...]) -> None:
        for member in members:
            held = _Held(member, self.loop)
            self._held.append(held)
            held.task = self.supervisor.spawn(self._hold(held), held.name, self._context)
            await asyncio.wait({held.entered, self.stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping.done():
                # One has failed, this one or an earlier one, or is about to: known at the end.
                await self.supervisor.stop(abort=True)
                self.raise_errors()
                raise ServiceError(f"service {self._name!r} was stopped while it started")
        self.state = "open"
        if self._is_asked_to_stop:
            self.begin_stop()

    async def _hold(self, held: _Held) -> None:
        """Enter a member, stay until it is to be left, and leave it: all in this task."""
        error: BaseException | None = None
        try:
            async with held.member as held.value:
                held.is_inside = True
                held.entered.set_result(None)
                if isinstance(held.value, Service):
                    inner: Any = held.value
                    inner._entered().stopping.add_done_callback(self._follow)
                try:
                    await held.leave
                except BaseException:
                    # Somebody cancels this task: the service, or a cancel scope of the member.
                    if not held.asked:
                        self.begin_stop()
                    raise
        except BaseException as exc:  # noqa: BLE001 - kept, and raised to whoever leaves
            error = exc
        self._note_end(held, error)

    def _follow(self, stopping: asyncio.Future[None]) -> None:
        self.begin_stop()

    def _note_end(self, held: _Held, error: BaseException | None) -> None:
        if error is None or isinstance(error, asyncio.CancelledError):
            if held.asked or self.supervisor.is_being_cancelled:
                return
            ended = MemberEndedError(
                f"member {held.name} of service {self._name!r} ended by itself",
                member=held.name,
            )
            ended.__cause__ = error
            error = ended
        self._errors.append(error)
        self._failed.append(held.name)
        # One that could not be entered is told of by the error that comes out of entering.
        if held.is_inside or held.asked:
            log.error("eventflow.member_failed", service=self._name, member=held.name, error=error)
        self.begin_stop()

    def raise_errors(self) -> None:
        """Raise what members have failed with, once."""
        errors, self._errors = self._errors, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup(f"members of service {self._name!r} failed", errors)

    # Leaving

    def request_stop(self) -> None:
        if self.state == "starting":
            self._is_asked_to_stop = True
        else:
            self.begin_stop()

    def begin_stop(self) -> None:
        """Let the stop begin; it goes on by itself."""
        if self.stopping.done():
            return
        if self.state == "starting":
            # Nobody relies on it yet: cut instead of drained, and sooner.
            self._cancel_grace = min(self._cancel_grace, START_GRACE_S)
            self.supervisor.abort()
        self.state = "closing"
        self.stopping.set_result(None)
        self.supervisor.request_stop()

    async def _stop(self) -> None:
        """Runs in the supervisor; again, without draining, if it is cancelled itself."""
        if self._stop_began is None:
            self.begin_stop()
            self._stop_began = self.loop.time()
        for held in reversed(self._held):
            if held.is_running:
                await self._leave(held, self._stop_began + self._drain_timeout)
        await self._give_up()
        self.state = "closed"
        took_s = round(self.loop.time() - self._stop_began, 3)
        facts = self.ledger().summary()
        log.info("eventflow.service_stopped", service=facts.pop("name"), took_s=took_s, **facts)

    async def _leave(self, held: _Held, drain_until: float) -> None:
        """Leave one member; returns when it has ended, or when the grace is over."""
        assert held.task is not None
        aborting = self.supervisor.aborting
        left = drain_until - self.loop.time()
        if left > 0 and not aborting.done():
            held.ask()
            await asyncio.wait(
                {held.task, aborting}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if held.task.done():
                return
        self.supervisor.abort()
        if self._cut_at is None:
            self._cut_at = self.loop.time()
        # Who cancels the supervisor has cancelled every task.
        if not held.cancelled and not (self.supervisor.cancelled and held.task.cancelling()):
            held.cancel()
        left = self._cut_at + self._cancel_grace - self.loop.time()
        if left > 0:
            await asyncio.wait({held.task}, timeout=left)

    async def _give_up(self) -> None:
        """Cancel whatever still runs, a last time; then go without it."""
        running = [held for held in self._held if held.is_running]
        for held in running:
            held.asked = held.cancelled = True
        await cancel_and_wait(
            {held.task for held in running if held.task is not None}, grace=LAST_GRACE_S
        )
        for held in running:
            if held.is_running:
                self._given_up.append(held.name)
                log.error("eventflow.member_abandoned", service=self._name, member=held.name)

    def ledger(self) -> ServiceLedger:
        """What became of everything, so far."""
        found = (ledger_of(held.member) or ledger_of(held.value) for held in self._held)
        return ServiceLedger(
            name=self._name,
            state=self.state,
            ledgers=tuple(ledger for ledger in found if ledger is not None),
            failed=tuple(self._failed),
            given_up=tuple(self._given_up),
        )
