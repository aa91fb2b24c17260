"""`RabbitMQBroker`."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage] # documented
from collections import Counter
from typing import TYPE_CHECKING, Any, Self, TypeVar

from eventflow._log import EventLogger
from eventflow.brokers.rabbitmq._forwarder import Forwarder
from eventflow.brokers.rabbitmq._link import Link
from eventflow.brokers.rabbitmq._sending import Sender
from eventflow.brokers.rabbitmq._session import Session
from eventflow.brokers.rabbitmq._settings import Settings, from_dsn
from eventflow.brokers.rabbitmq.publisher import RabbitMQPublisher
from eventflow.brokers.rabbitmq.subscriber import RabbitMQSubscriber
from eventflow.brokers.rabbitmq.topology import check_topology
from eventflow.errors import (
    BrokerClosedError,
    BrokerConnectionError,
    BrokerError,
    InvalidDsnError,
    WrongLoopError,
)
from eventflow.events import validate_topic
from eventflow.lifecycle.supervisor import Supervisor
from eventflow.messaging import Broker, Features, check_group
from eventflow.messaging.dsn import read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from types import TracebackType

    from eventflow.brokers.rabbitmq._confirms import ConfirmingChannel
    from eventflow.brokers.rabbitmq._deliveries import RabbitMQDeliveries
    from eventflow.brokers.rabbitmq.topology import Part, Topology
    from eventflow.messaging import Dsn, Group

T = TypeVar("T")

__all__ = ("RabbitMQBroker",)

FRAME_MAX = 131_072
"""What servers allow unless they are told otherwise."""
SAY_S = 60.0
"""Seconds between two lines on messages of a topic that have reached no queue."""
CLOSING_S = 15.0
"""Seconds that entering waits for the end of leaving, which lasts less."""

log = EventLogger("eventflow.rabbitmq")


class RabbitMQBroker(Broker):
    """RabbitMQ, through aiormq; needs the extra ``rabbitmq``.

    Exchanges and queues are declared when they are first used, and again on a new connection.

    Args:
        address: ``amqp://user:password@host:5672/vhost``, or ``amqps://`` with TLS.
        topology: Where messages of a topic go, and where groups get them: `PubSub`, `WorkQueue`,
            `Topics`, or an object of your own with their methods. Publishers and subscribers may
            have another one.
        publish_timeout: Seconds a publish may last; then `PublishTimeoutError`.
        connect_timeout: Seconds of one attempt to connect, or to begin a subscription.
        delays: Whether messages can be published with a delay, and tried again after one. They
            wait in queues of their own, and what is due is handed on by one of the processes
            whose brokers have this set, as they have unless told otherwise.
        heartbeat: Seconds between two signs of life, 1 to 3,600. A server that says nothing is
            given up after twice as many and a little.
        consumer_timeout: Seconds after which the server closes the channel of whoever has not
            settled a message: what its ``consumer_timeout`` says, which is 30 minutes unless it
            was changed. A router warns of handlers that may take longer.
        max_payload_bytes: Largest payload; the server has a limit of its own, 16 MiB by default
            since 4.0.
        tls: ``True``, or a `Tls` that says whom to trust and who we are. An ``amqps://`` address
            says the same.
        username: Who logs in, where the address does not say it.
        password: The password. It shows in no text of ours.
        vhost: The virtual host.

    Raises:
        InvalidDsnError: The address means nothing here.
        InvalidOptionError: An option is unknown, or out of range.

    Example::

        async with RabbitMQBroker("amqp://guest:guest@127.0.0.1/") as broker:
            await broker.publisher().publish("orders.raw", Message(b"…"))

    Attributes:
        loop: The event loop that it was entered in.
        unrouted: How many messages of a topic have reached no queue.
        subscriptions: Those that are open.
        sender: What all its publishers send with.
    """

    loop: asyncio.AbstractEventLoop

    _is_open = False
    _settings = Settings(())  # of one that could not be made

    def __init__(self, address: str, **options: Any) -> None:
        dsn = read(address)
        address = ""  # tracebacks may show local variables
        if isinstance(dsn, InvalidDsnError):
            options.clear()
            raise dsn
        self._begin(dsn, options)

    @classmethod
    def from_dsn(cls, dsn: Dsn, **options: Any) -> Self:
        """Return the broker of ``amqp://host/vhost?publish_timeout=5``.

        Args:
            dsn: Its query has ``publish_timeout``, ``connect_timeout``, ``consumer_timeout``,
                ``delays``, ``heartbeat`` and ``max_payload_bytes``, and with ``amqps://`` also
                ``ca_file``, ``certificate_file`` and ``key_file`` of `Tls`.
            options: Arguments of the class; they go before what the address says.

        Raises:
            InvalidDsnError: It says something that means nothing here.
            InvalidOptionError: An option is unknown, or out of range.
        """
        self = cls.__new__(cls)
        self._begin(dsn, options)
        return self

    def _begin(self, dsn: Dsn, options: dict[str, Any]) -> None:
        settings = from_dsn(dsn, options)
        options.clear()
        if isinstance(settings, Exception):
            raise settings
        self._settings = settings
        self._features = Features(
            backend="rabbitmq",
            groups=True,
            broadcast=True,
            order="topic",
            persistent=True,
            nack_delay=settings.delays,
            publish_delay=settings.delays,
            recorded_failures=settings.delays,
            delivery_count=True,
            headers=True,
            settle_within=settings.consumer_timeout,
            max_payload_bytes=settings.max_payload_bytes,
        )
        self.unrouted: Counter[str] = Counter()
        self._begin_anew()

    def _begin_anew(self) -> None:
        """As one that was never entered."""
        self.subscriptions: set[RabbitMQDeliveries] = set()
        self.sender = Sender(self)
        self._said: dict[str, float] = {}
        self._forwarder: Forwarder | None = None
        self._link: Link | None = None
        self._receiving: Link | None = None
        self._supervisor: Supervisor | None = None
        self._is_entering = self._is_open = False

    def __repr__(self) -> str:
        """Hosts and state."""
        return f"<RabbitMQBroker {self._settings!r}, {'open' if self._is_open else 'closed'}>"

    @property
    def settings(self) -> Settings:
        """What it was told, checked."""
        return self._settings

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    async def __aenter__(self) -> Self:
        """Connect, once it is closed where it is being left.

        Raises:
            BrokerConnectionError: No host answered within ``connect_timeout``.
            BrokerAuthenticationError: The server does not let us in, or we do not trust it.
            BrokerError: It is open already.
        """
        loop = asyncio.get_running_loop()
        if self._has_lost_its_loop(loop):
            self._begin_anew()
        if self._is_open or self._is_entering:
            raise BrokerError(f"{self!r} is open already")
        self._is_entering = True
        try:
            if self._supervisor is not None:
                await self._closed(self._supervisor, loop)
            self.loop = loop
            self._settings.warn()
            session = await Session.begin(self._settings)
            self._supervisor = Supervisor("rabbitmq", on_stop=self._close)
            self._link = Link(self._settings, session)
            self._is_open = True
            if self._settings.delays:
                self._forwarder = Forwarder(self)
        finally:
            self._is_entering = False
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it: subscriptions end as if they were left, then the connections. Bounded.

        Raises:
            WrongLoopError: It is open in another event loop.
        """
        supervisor = self._supervisor
        if supervisor is None or self._has_lost_its_loop(asyncio.get_running_loop()):
            return
        self._check_loop()
        self._is_open = False
        await supervisor.stop(abort=False)

    def _has_lost_its_loop(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop that it was entered in has ended, with all that ran in there."""
        was = getattr(self, "loop", loop)
        return was is not loop and was.is_closed()

    async def _closed(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until it is closed by whoever is leaving it."""
        if self.loop is loop:
            await asyncio.wait([supervisor.request_stop()], timeout=CLOSING_S)
        if self._supervisor is not None:
            raise BrokerError(f"{self!r} is being closed still")

    async def _close(self) -> None:
        forwarder, self._forwarder = self._forwarder, None
        subscriptions = [*self.subscriptions]
        self.subscriptions.clear()
        ending = [one.close() for one in subscriptions]
        if forwarder is not None:
            ending.append(forwarder.close())
        await asyncio.gather(*ending, return_exceptions=True)
        links = [one for one in (self._link, self._receiving) if one is not None]
        await asyncio.gather(*(one.end() for one in links), return_exceptions=True)
        self._link = self._receiving = self._supervisor = None

    # For what was made of it

    def check_open(self) -> None:
        """Raise unless it is entered, in this event loop."""
        if not self._is_open:
            raise BrokerClosedError(f"{self!r} is not open: use it inside `async with broker:`")
        if _get_running_loop() is not self.loop:
            self._check_loop()

    def _check_loop(self) -> None:
        if _get_running_loop() is not self.loop:
            raise WrongLoopError(f"{self!r} belongs to the event loop it was entered in")

    @property
    def link(self) -> Link:
        """The connection that messages are published on.

        Raises:
            BrokerClosedError: The broker is not open.
        """
        if self._link is None:
            self.check_open()
            raise BrokerClosedError("the broker was closed")
        return self._link

    @property
    def receiving(self) -> Link:
        """The connection that messages are received on, made when it is first needed.

        A server that is short of memory reads nothing from who publishes, acks included: so these
        have a connection of their own.

        Raises:
            BrokerClosedError: The broker is not open.
        """
        if self._receiving is None:
            self.check_open()
            self._receiving = Link(self._settings, None)
        return self._receiving

    @property
    def problem(self) -> str:
        """Why nothing can be published at present; empty if nothing is wrong."""
        return "" if self._link is None else self._link.problem

    @property
    def frame_max(self) -> int:
        """Bytes that a frame may have, all in all."""
        session = self.link.session
        return FRAME_MAX if session is None else session.most

    def ready_channel(
        self, exchange: str, parts: tuple[Part, ...], size: int
    ) -> ConfirmingChannel | None:
        """The channel to publish so many bytes on, where nothing has to be waited for."""
        session = self.link.session
        return None if session is None else session.ready_channel(exchange, parts, size)

    async def declare(self, parts: Collection[Part]) -> None:
        """Declare exchanges, queues and bindings.

        Raises:
            TopologyError: Something is there with other properties.
            BrokerConnectionError: The broker can't be reached.
        """

        def declare(session: Session) -> Awaitable[None]:
            session.forget(parts)  # somebody may have deleted them
            return session.declare(parts)

        await self._ask(declare, "nothing was declared")

    async def messages_ready(self, queue: str) -> int:
        """How many messages wait in a queue that nobody has in hand.

        Raises:
            TopologyError: There is no such queue.
            BrokerConnectionError: The broker can't be reached.
        """
        return await self._ask(lambda session: session.messages_ready(queue), "nothing was counted")

    async def _ask(self, ask: Callable[[Session], Awaitable[T]], nothing: str) -> T:
        """Ask once there is a connection, and again where that is lost meanwhile; bounded."""
        self.check_open()
        until = self.loop.time() + self._settings.connect_timeout
        while True:
            try:
                async with asyncio.timeout_at(until):
                    return await ask(await self.link.wait())
            except TimeoutError:
                why = self.problem or "RabbitMQ did not answer in time"
                raise BrokerConnectionError(f"{nothing}: {why}") from None
            except BrokerConnectionError:
                if self.loop.time() >= until:
                    raise
                await asyncio.sleep(0.05)

    def unrouted_in(self, topic: str, count: int) -> None:
        """Messages of a topic have reached no queue."""
        self.unrouted[topic] += count
        now = self.loop.time()
        if now >= self._said.get(topic, 0.0):
            self._said[topic] = now + SAY_S
            log.warning("eventflow.messages_unrouted", topic=topic, count=self.unrouted[topic])

    def publisher(self, *, topology: Topology | None = None) -> RabbitMQPublisher:
        """A publisher.

        Args:
            topology: Where its messages go; by default, where the broker's do.
        """
        return RabbitMQPublisher(self, self._chosen(topology).route)

    def subscriber(
        self, *, group: Group | None = None, topology: Topology | None = None
    ) -> RabbitMQSubscriber:
        """A member of a group.

        Args:
            group: Name of the group. Required where a topology has groups; else it means nothing.
            topology: Where its messages come from; by default, where the broker's do.

        Raises:
            InvalidOptionError: The group is missing, or none.
        """
        chosen = self._chosen(topology)
        if group is None and not chosen.has_groups:
            return RabbitMQSubscriber(self, chosen, group="all")
        return RabbitMQSubscriber(self, chosen, group=check_group(group))

    def _chosen(self, topology: Topology | None) -> Topology:
        return self._settings.topology if topology is None else check_topology(topology)

    async def ensure_topics(self, *topics: str) -> None:
        """Declare what topics are published to.

        Raises:
            InvalidTopicError: One is none.
            TopologyError: Something is there with other properties.
        """
        for topic in topics:
            validate_topic(topic)
        for topic in topics:
            await self.declare(self._settings.topology.route(topic).parts)
