"""What can be set from outside."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Settings:
    """Settings of the service.

    Attributes:
        database: File of the activity feed.
        secret: What deliveries are signed with; made up when there is none.
        notify_s: Seconds that telling the chat takes.
        address: Where it listens; another one than this machine's own lets others in.
        port: Where it listens, or the next one that is free.
        broker: Address of the broker that carries the events; ``None``: they stay in the process.
    """

    database: Path
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    notify_s: float = 0.1
    address: str = "127.0.0.1"
    port: int = 8000
    broker: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, database: Path) -> Settings:
        """Read what the environment says; each of the variables may be absent.

        ``DATABASE``, ``WEBHOOK_SECRET``, ``NOTIFY_SECONDS``, ``ADDRESS``, ``PORT``,
        ``EVENTFLOW_BROKER``.

        Raises:
            ValueError: One is not a number that should be.
        """
        try:
            return cls(
                database=Path(environment.get("DATABASE") or database),
                secret=environment.get("WEBHOOK_SECRET") or secrets.token_hex(16),
                notify_s=float(environment.get("NOTIFY_SECONDS") or cls.notify_s),
                address=environment.get("ADDRESS") or cls.address,
                port=int(environment.get("PORT") or cls.port),
                broker=environment.get("EVENTFLOW_BROKER") or None,
            )
        except ValueError as exc:
            raise ValueError(f"PORT and NOTIFY_SECONDS are numbers: {exc}") from exc

    @classmethod
    def of_several(cls, environment: Mapping[str, str]) -> Settings:
        """Read what it says to one of several processes: they meet at a broker and a database.

        Raises:
            ValueError: One of the two is not named, or as `from_environment`.
        """
        names = ("EVENTFLOW_BROKER", "DATABASE")
        if missing := [name for name in names if not environment.get(name)]:
            raise ValueError(f"{' and '.join(missing)} must be set: several processes share them")
        return cls.from_environment(environment, database=Path())
