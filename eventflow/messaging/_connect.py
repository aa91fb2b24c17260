"""`connect`: a broker from its address, with backends that are found by their entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from eventflow.errors import ConfigurationError, InvalidDsnError, UnknownSchemeError
from eventflow.messaging.dsn import Dsn, read
from eventflow.messaging.protocols import Broker

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

__all__ = ("connect",)

GROUP = "eventflow.brokers"
"""Group of the entry points: name = scheme, value = a callable of a `Dsn` and options."""

DISTRIBUTION = "eventflow-asyncio"

EXTRAS = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "kafka": "kafka",
    "nats": "nats",
    "postgres": "postgres",
    "postgresql": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "sqlite": "sqlite",
}
"""Which extra brings the backend of a scheme."""


def connect(dsn: str | Dsn, **options: Any) -> Broker:
    """Return the broker that an address stands for; it is connected when it is entered.

    The backend is found by the address's scheme among the entry points of the group
    ``eventflow.brokers``, so any installed distribution can bring one: the entry point is named
    like the scheme, and is a callable ``from_dsn(dsn: Dsn, **options) -> Broker``.

    No password is in what this raises, in what that carries, or in a log line.

    Args:
        dsn: Such as ``kafka://user:password@host:9092``, ``memory://``; see `Dsn`.
        options: For the backend: see its page.

    Raises:
        UnknownSchemeError: No backend for the scheme is installed. The text names the extra
            to install, or the schemes that there are.
        InvalidDsnError: The address can't be read, or is not one for this backend.
        InvalidOptionError: An option is unknown to the backend, or out of range.
        ConfigurationError: Several distributions bring a backend for the scheme, or what one
            brings is none.

    Example::

        async with connect("memory://") as broker:
            await broker.publisher().publish("orders.raw", Message(b"…"))
    """
    found = dsn if isinstance(dsn, Dsn) else read(dsn)
    del dsn  # tracebacks may show local variables
    if isinstance(found, InvalidDsnError):
        raise found
    point = _entry_point(found.scheme)
    try:
        from_dsn: Callable[..., object] = point.load()
    except ModuleNotFoundError as exc:
        if found.scheme not in EXTRAS or (exc.name or "").startswith("eventflow"):
            raise
        raise _not_installed(found.scheme) from None  # the backend is there, its driver is not
    try:
        broker = from_dsn(found, **options)
    finally:
        options.clear()  # one may be a password
    if not isinstance(broker, Broker):
        raise ConfigurationError(
            f"the entry point {point.value!r} for {found.scheme}:// returned "
            f"{type(broker).__name__}, not a Broker"
        )
    return broker


def _entry_point(scheme: str) -> EntryPoint:
    points = tuple(entry_points(group=GROUP, name=scheme))
    if len(points) > 1:
        values = ", ".join(sorted(point.value for point in points))
        raise ConfigurationError(
            f"several backends answer to {scheme}://: {values}. Uninstall all but one"
        )
    if points:
        return points[0]
    if scheme in EXTRAS:
        raise _not_installed(scheme)
    installed = {point.name for point in entry_points(group=GROUP)}
    known = ", ".join(f"{name}://" for name in sorted(installed | EXTRAS.keys()))
    raise UnknownSchemeError(
        f"no backend that is installed answers to {scheme}://. Known are: {known}",
        scheme=scheme,
    )


def _not_installed(scheme: str) -> UnknownSchemeError:
    return UnknownSchemeError(
        f"the backend for {scheme}:// is not installed: "
        f'pip install "{DISTRIBUTION}[{EXTRAS[scheme]}]"',
        scheme=scheme,
    )
