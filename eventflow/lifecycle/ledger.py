"""What a service can say, once it has stopped, about everything its members were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from eventflow._log import EventLogger

__all__ = ("Ledger", "ServiceLedger", "ledger_of")

log = EventLogger("eventflow.service")


class Ledger(Protocol):
    """The account of one member: what a bus's ``ledger`` is, and a router's."""

    @property
    def name(self) -> str:
        """Whose it is."""
        ...

    @property
    def adds_up(self) -> bool:
        """Whether everything it was given is accounted for."""
        ...

    @property
    def abandoned(self) -> tuple[str, ...]:
        """Names of tasks and threads that could not be stopped."""
        ...

    def summary(self) -> dict[str, Any]:
        """Facts for one log line: plain values, few of them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLedger:
    """The account of a service; a `Ledger` itself, as a service can be a member of another.

    Attributes:
        name: Name of the service.
        state: ``new``, ``starting``, ``open``, ``closing`` or ``closed``.
        ledgers: Those of its members that have one.
        failed: Names of members that failed, or ended by themselves.
        given_up: Names of members that could not be left in time.
    """

    name: str
    state: str
    ledgers: tuple[Ledger, ...] = ()
    failed: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()

    @property
    def adds_up(self) -> bool:
        """Whether every member's ledger adds up."""
        return all(ledger.adds_up for ledger in self.ledgers)

    @property
    def abandoned(self) -> tuple[str, ...]:
        """What could not be stopped: members, and the tasks and threads of their ledgers."""
        members = (f"member {name}" for name in self.given_up)
        return (
            *members,
            *(f"{ledger.name}: {what}" for ledger in self.ledgers for what in ledger.abandoned),
        )

    def summary(self) -> dict[str, Any]:
        """The facts for one log line."""
        return {
            "name": self.name,
            "state": self.state,
            "adds_up": self.adds_up,
            "failed": list(self.failed),
            "abandoned": list(self.abandoned),
            "ledgers": [ledger.summary() for ledger in self.ledgers],
        }


def ledger_of(thing: object) -> Ledger | None:
    """The ledger of a member or of what it yields; ``None`` where there is none."""
    try:
        found: Any = getattr(thing, "ledger", None)
        # Some other attribute of that name, of an accounting service perhaps, is none.
        if isinstance(found.abandoned, tuple) and found.adds_up in (True, False):
            return found if found.name and callable(found.summary) else None
    except AttributeError:
        pass
    except Exception as exc:  # noqa: BLE001 - a member's own code; it must not end a stop
        log.error("eventflow.ledger_unreadable", member=type(thing).__qualname__, error=exc)
    return None
