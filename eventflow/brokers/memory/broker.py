"""`MemoryBroker`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

from eventflow.brokers.memory._store import Store
from eventflow.brokers.memory.publisher import MemoryPublisher
from eventflow.brokers.memory.subscriber import MemorySubscriber
from eventflow.errors import BrokerError, InvalidDsnError, InvalidOptionError
from eventflow.lifecycle.options import check_name, check_seconds, check_whole
from eventflow.messaging import Broker, Features, check_group

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from eventflow.messaging import Dsn, Group

__all__ = ("MemoryBroker",)

_NUMBERS: dict[str, type[int | float]] = {
    "capacity": int,
    "publish_timeout": float,
    "max_payload_bytes": int,
}
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


class MemoryBroker(Broker):
    """A broker inside the process, with consumer groups, order by key, delays and redelivery.

    It does what a broker does, except outlive the process: its `Features` say so. The messages
    stay while the object lives, also between leaving it and entering it again.

    Args:
        name: Name in messages to people.
        capacity: Most messages of a topic that a group has not acked, 1 or more; then publishers
            wait.
            What all groups have acked stays within this bound, for groups that come later.
        publish_timeout: Seconds a publish waits for room, then `PublishTimeoutError`.
        max_payload_bytes: Largest payload, 1 or more; ``None`` for no bound.

    Raises:
        InvalidOptionError: An option is none of these.

    Example::

        async with MemoryBroker() as broker:
            await broker.publisher().publish("orders.raw", Message(b"…"))
    """

    def __init__(
        self,
        name: str = "memory",
        *,
        capacity: int = 100_000,
        publish_timeout: float = 30.0,
        max_payload_bytes: int | None = None,
    ) -> None:
        check_name(name)
        check_whole("capacity", capacity)
        check_seconds("publish_timeout", publish_timeout)
        if max_payload_bytes is not None:
            check_whole("max_payload_bytes", max_payload_bytes)
        self._name = name
        self._timeout = publish_timeout
        self._features = Features(
            backend="memory",
            groups=True,
            broadcast=True,
            order="key",
            old_messages=True,
            nack_delay=True,
            publish_delay=True,
            recorded_failures=True,
            delivery_count=True,
            headers=True,
            atomic_publish=True,
            lag=True,
            max_payload_bytes=max_payload_bytes,
        )
        self._store = Store(name, capacity=capacity, max_payload_bytes=max_payload_bytes)

    @classmethod
    def from_dsn(cls, dsn: Dsn, **options: Any) -> Self:
        """Return the broker of ``memory://name?capacity=1000&publish_timeout=5``.

        Each call makes one of its own, whatever its name.

        Args:
            dsn: Name and numbers may be absent; ``max_payload_bytes`` is the third of these.
            options: Keyword arguments of the class; they go before what the address says.

        Raises:
            InvalidDsnError: It says something that means nothing here.
            InvalidOptionError: An option is unknown, or out of range.
        """
        unknown = options.keys() - {"name", *_NUMBERS}
        if unknown:
            raise InvalidOptionError(
                f"a memory broker has no option {min(unknown)!r}. Options are: "
                f"name, {', '.join(_NUMBERS)}",
                option=min(unknown),
            )
        given = _numbers(dsn.query)
        if given is None:
            # What it says is not repeated: it may be a password in the wrong place.
            raise InvalidDsnError(
                f"the query of a memory:// address has numbers, such as capacity=1000, "
                f"for {', '.join(_NUMBERS)}, and nothing else",
                scheme=dsn.scheme,
            )
        names = [host for host, port in dsn.hosts if port is None]
        if len(names) < len(dsn.hosts) or len(names) > 1 or dsn.path.strip("/"):
            raise InvalidDsnError(
                "a memory:// address has at most a name, as in memory://orders", scheme=dsn.scheme
            )
        if dsn.user is not None or dsn.password is not None:
            raise InvalidDsnError(
                "a memory:// address has neither user nor password", scheme=dsn.scheme
            )
        if names:
            given["name"] = names[0]
        return cls(**{**given, **options})

    def __repr__(self) -> str:
        """Name and state."""
        return f"<MemoryBroker {self._name!r}, {'open' if self._store.is_open else 'closed'}>"

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            BrokerError: It is open already.
        """
        if self._store.is_open:
            raise BrokerError(f"broker {self._name!r} is open already")
        self._store.is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it: subscriptions end as if they were left, and whoever waits in it ends."""
        self._store.close()

    def publisher(self) -> MemoryPublisher:
        """A publisher."""
        return MemoryPublisher(self._store, self._features, timeout=self._timeout)

    def subscriber(self, *, group: Group) -> MemorySubscriber:
        """A member of a consumer group; a new group begins with the oldest message there is."""
        return MemorySubscriber(
            self._store, self._features, group=check_group(group), publisher=self.publisher()
        )


def _numbers(query: Mapping[str, str]) -> dict[str, Any] | None:
    """The numbers of a query by name; ``None`` if something else is in it."""
    found = {name: _number(_NUMBERS.get(name), text) for name, text in query.items()}
    return None if None in found.values() else found


def _number(kind: type[int | float] | None, text: str) -> float | None:
    """A number as the address has it; ``None`` for what is none."""
    if kind is None or len(text) > 20 or not _DECIMAL.fullmatch(text):
        return None
    return None if kind is int and "." in text else kind(text)
