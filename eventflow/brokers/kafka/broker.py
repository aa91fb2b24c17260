"""`KafkaBroker`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from eventflow.brokers.kafka._admin import create_topics, lag_of, record_limit
from eventflow.brokers.kafka._calls import SLICE_S, in_thread
from eventflow.brokers.kafka._errors import (
    NOT_FOUND,
    code_name,
    distrust,
    is_distrust,
    may_pass,
    not_found,
    not_made,
    unreachable,
)
from eventflow.brokers.kafka._forwarder import Forwarder
from eventflow.brokers.kafka._giving_way import GivingWay
from eventflow.brokers.kafka._ladder import DELAYS, STEPS, is_ladder
from eventflow.brokers.kafka._producer import Sender
from eventflow.brokers.kafka._settings import HEADROOM, Settings, check_topic, from_dsn
from eventflow.brokers.kafka._trust import Trust
from eventflow.brokers.kafka.publisher import KafkaPublisher
from eventflow.brokers.kafka.subscriber import KafkaSubscriber
from eventflow.errors import (
    BrokerClosedError,
    BrokerConnectionError,
    BrokerError,
    ConfigurationError,
    InvalidOptionError,
    TopicNotFoundError,
)
from eventflow.lifecycle.options import check_whole
from eventflow.messaging import Broadcast, Broker, Features, check_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from eventflow.brokers.kafka._feed import Feed
    from eventflow.messaging import Dsn, Group

__all__ = ("KafkaBroker",)

KEPT = {"retention.ms": str(7 * 86_400_000), "cleanup.policy": "delete"}
"""Of topics where messages wait, a day at most on one step."""
TOKEN_S = 15.0
LAG_S = 2.0
"""Seconds of one attempt at a lag, which has to connect first."""


class KafkaBroker(Broker):
    """Apache Kafka, through librdkafka; needs the extra ``kafka``.

    Topics have to exist: neither publishing nor subscribing creates one. A topic is received by
    one consumer for each group, which all subscriptions of this object share; a new group begins
    with the oldest message.

    Args:
        hosts: Where to find the cluster: ``"host:9092"``, or several with commas between them.
        publish_timeout: Seconds a publish may last, 1 or more; then `PublishTimeoutError`.
        connect_timeout: Seconds to find the cluster when the broker is entered, or a topic when
            it is first used.
        session_timeout: Seconds after which the group takes a process for dead that says nothing;
            1 or more, and within the cluster's own bounds (by default 6 to 1,800).
        revoke_timeout: Seconds that a partition which goes to another member waits for what is
            being handled; what takes longer comes again there.
        max_payload_bytes: Largest payload. Topics whose ``max.message.bytes`` is smaller than
            this and 48,588 bytes more refuse what is too large for them.
        assignor: How a group shares its partitions: ``"cooperative-sticky"``, ``"range"`` (to
            share a group with Watermill) or ``"roundrobin"``.
        partitioner: Which partition a key belongs to: ``"murmur2"``, as Java clients have it,
            ``"fnv1a"``, as Watermill and Sarama have it, or ``"crc32"``, as librdkafka has it.
        delays: Whether messages can be published with a delay, and tried again after one. They
            wait in topics of their own, and what is due is handed on by one of the processes
            whose brokers have this set.
        tls: ``True``, or a `Tls` that says whom to trust and who we are.
        sasl: Who logs in: a `Sasl` with user and password, or an `OAuthBearer`.
        properties: Other properties of librdkafka, by name.

    Raises:
        InvalidOptionError: An option is none of these, or a secret would go out readable.

    Example::

        async with KafkaBroker("127.0.0.1:9092") as broker:
            await broker.publisher().publish("orders.raw", Message(b"…", key="customer-7"))

    Attributes:
        is_open: Whether it is entered.
        topics: Topics that are known to exist, and can be published to.
        has_delays: Whether there is a topic where delayed messages can wait, as far as is known.
        loop: The event loop that it was entered in.
    """

    loop: asyncio.AbstractEventLoop

    is_open = has_delays = False
    _settings = Settings(())  # of one that could not be made

    def __init__(self, hosts: str, **options: Any) -> None:
        settings = Settings.read(hosts, options)
        options.clear()  # tracebacks may show local variables
        hosts = ""
        if isinstance(settings, InvalidOptionError):
            raise settings
        self._begin(settings)

    def _begin(self, settings: Settings) -> None:
        self._settings = settings
        self._features = Features(
            backend="kafka",
            groups=True,
            broadcast=True,
            order="key",
            partitions=True,
            persistent=True,
            old_messages=True,
            nack_delay=settings.delays,
            publish_delay=settings.delays,
            recorded_failures=True,
            delivery_count=True,
            headers=True,
            lag=True,
            max_payload_bytes=self._settings.max_payload_bytes,
        )
        self.topics: set[str] = set()
        self.feeds: dict[tuple[str, ...], Feed] = {}
        self._ending: set[asyncio.Future[None]] = set()
        self._forwarder: Forwarder | None = None
        self._producer: Sender | None = None
        self._giving_way: GivingWay | None = None
        self._is_entering = False
        self._renewing = asyncio.Lock()

    @classmethod
    def from_dsn(cls, dsn: Dsn, **options: Any) -> Self:
        """Return the broker of ``kafka://host:9092,other:9092?publish_timeout=5&linger.ms=2``.

        Args:
            dsn: Its query has options of the class, and properties of librdkafka. With a user and
                a password it logs in, by the mechanism ``sasl=`` or `Sasl`'s own; ``tls=true``,
                or ``ca_file=``, ``certificate_file=`` and ``key_file=``, are those of `Tls`.
            options: Arguments of the class; they go before what the address says.

        Raises:
            InvalidDsnError: It says something that means nothing here.
            InvalidOptionError: An option is unknown, or out of range.
        """
        settings = from_dsn(dsn, options)
        options.clear()  # tracebacks may show local variables
        if isinstance(settings, Exception):
            raise settings
        self = cls.__new__(cls)
        self._begin(settings)
        return self

    def __repr__(self) -> str:
        """Hosts and state."""
        state = "open" if self.is_open else "closed"
        return f"<KafkaBroker {','.join(self._settings.hosts)}, {state}>"

    @property
    def settings(self) -> Settings:
        """What it was told, checked."""
        return self._settings

    @property
    def features(self) -> Features:
        """What the backend can do."""
        return self._features

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BrokerConnectionError: No broker of the cluster answered within ``connect_timeout``.
            BrokerAuthenticationError: It does not trust us, or we do not trust it.
            BrokerError: It is open already.
            InvalidOptionError: A property is unknown to librdkafka.
        """
        if self._producer is not None or self._is_entering:
            raise BrokerError(f"{self!r} is open already")
        self._is_entering = True
        self.loop = asyncio.get_running_loop()
        giving_way = self._giving_way = GivingWay(self.loop)
        try:
            await self._ends()
            producer = self._producer = await self._new_producer()
            try:
                await self._look(producer, None, self._settings.connect_timeout)
            except BaseException:  # a cancellation too: nothing may stay
                self._producer = None
                await asyncio.shield(self.ends(producer.end()))
                raise
        except BaseException:
            giving_way.end()
            raise
        finally:
            self._is_entering = False
        self._settings.warn()
        self.is_open = True
        if self._settings.delays:
            self._forwarder = Forwarder(self)
        return self

    async def _new_producer(self) -> Sender:
        settings, trust = self._settings, Trust(self._settings.hosts)

        def make(_: float = 0) -> Producer:  # its own frame, as the configuration has secrets
            return Producer({**settings.producer(), "error_cb": trust.heard})

        try:
            if settings.makes_tokens:
                # The client library waits for the first token: 1 s, or 10 if there is none.
                async with asyncio.timeout(TOKEN_S):
                    client = await in_thread(make, within=TOKEN_S)
            else:
                client = make()
            return Sender(
                client, trust, asyncio.get_running_loop(), may_block=settings.makes_tokens
            )
        except KafkaException as exc:
            error = exc.args[0]
        except TimeoutError:
            error = KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED)
        except Exception:  # noqa: BLE001 - whatever the library's own reading of them raises
            error = KafkaError(KafkaError._INVALID_ARG)
        # Outside of the block: the library's error has frames with the configuration.
        raise not_made(error, hosts=settings.hosts, properties=settings.properties)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it: subscriptions end as if they were left; what is on its way is waited for.

        Bounded: after 2 s the publishes that were not confirmed are refused.
        """
        giving_way, self._giving_way = self._giving_way, None  # it may be entered again meanwhile
        try:
            await self._close()
        finally:
            if giving_way is not None:
                giving_way.end()

    async def _close(self) -> None:
        self.is_open = self.has_delays = False
        self.topics.clear()
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is not None:
            self.ends(forwarder.end())
        feeds, self.feeds = [*self.feeds.values()], {}
        is_postponing = any(feed.is_postponing for feed in feeds)
        for feed in feeds:
            self.ends(feed.end())
        try:
            if is_postponing:
                await self._ends()  # what was put off a moment ago is stored yet
        finally:
            producer, self._producer = self._producer, None
            if producer is not None:
                self.ends(producer.end())
        await self._ends()

    # For what was made of it

    def check_open(self) -> None:
        """Raise unless it is entered."""
        if not self.is_open:
            raise BrokerClosedError(f"{self!r} is not open: use it inside `async with broker:`")

    def sound_producer(self) -> Sender | None:
        """The producer; ``None`` where it has given up, or the broker is closed."""
        producer = self._producer
        return producer if self.is_open and producer is not None and producer.is_sound else None

    @property
    def last_producer(self) -> Sender | None:
        """The same, also while the broker is being closed."""
        producer = self._producer
        return producer if producer is not None and producer.is_sound else None

    async def producer(self) -> Sender:
        """The producer; another one where the last one has given up.

        Raises:
            BrokerClosedError: The broker is not open.
        """
        self.check_open()
        producer = self._producer
        assert producer is not None
        if producer.is_sound:
            return producer
        async with self._renewing:
            await self._renew(producer)
        self.check_open()
        assert self._producer is not None
        return self._producer

    async def _renew(self, broken: Sender) -> None:
        if self._producer is not broken:
            return  # somebody was faster, or has closed the broker
        producer = await self._new_producer()
        if self._producer is broken:
            self._producer = producer
            self.ends(broken.end())
        else:
            self.ends(producer.end())

    async def look_up(self, topic: str, *, within: float | None = None) -> int:
        """How many partitions a topic has.

        Args:
            topic: Its name.
            within: Seconds, if fewer than ``connect_timeout``, until the cluster has to say.

        Raises:
            InvalidTopicError: It is none, or Kafka takes no name as long.
            TopicNotFoundError: There is no such topic.
            BrokerConnectionError: The cluster did not say.
        """
        check_topic(topic)
        longest = self._settings.connect_timeout
        bound = longest if within is None else min(within, longest)
        found = (await self._look(await self.producer(), topic, bound)).topics[topic]
        if found.error is not None:
            if found.error.code() in NOT_FOUND:
                raise not_found(topic)
            raise BrokerError(f"topic {topic!r} can't be used: {code_name(found.error)}")
        self.check_open()
        if topic != DELAYS:
            self.topics.add(topic)
        elif self._forwarder is not None:
            self.has_delays = len(found.partitions) >= STEPS
            self._forwarder.look()
        return len(found.partitions)

    async def check_limit(self, topic: str) -> None:
        """Make sure that a topic takes messages as large as ours may be, as far as we may know.

        Raises:
            ConfigurationError: It does not.
            BrokerConnectionError: The cluster did not say.
        """
        settings, longest = self._settings, self._settings.connect_timeout
        limit = await self._ask(
            lambda seconds: record_limit(settings, topic, within=seconds), longest, longest
        )
        least = settings.max_payload_bytes + HEADROOM
        if limit is not None and limit < least:
            raise ConfigurationError(
                f"topic {topic!r} takes {limit:,} bytes a record, and a message can have {least:,} "
                f"here: raise its max.message.bytes, or say max_payload_bytes="
                f"{max(limit - HEADROOM, 1)}"
            )

    async def _look(self, producer: Sender, topic: str | None, within: float) -> Any:
        try:
            return await self._ask(lambda seconds: producer.look(topic, seconds), within)
        except RuntimeError:
            if self._producer is None:
                self.check_open()  # closed meanwhile
            raise BrokerConnectionError("the client was closed while it was asked") from None
        except BrokerConnectionError:
            if (refusal := producer.trust.refusal) is not None:
                raise distrust(self._settings.hosts, refusal) from None
            raise

    async def lag(self, topic: str, group: str) -> int:
        """How many messages of a topic a group has not settled.

        Raises:
            TopicNotFoundError: There is no such topic.
            BrokerConnectionError: The cluster did not say.
        """
        partitions = await self.look_up(topic)
        settings = self._settings
        lag = await self._ask(
            lambda seconds: lag_of(settings, group, topic, partitions, within=seconds),
            settings.connect_timeout,
            LAG_S,
        )
        return int(lag)

    async def ensure_topics(
        self,
        *topics: str,
        partitions: int = -1,
        replication_factor: int = -1,
        properties: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Create the topics that there are not yet; those that there are stay as they are.

        With ``delays=True`` that is also ``eventflow.delays``. It, and what ends in ``.retries``,
        gets as many partitions as there are steps to wait on, 16, and keeps records for a week,
        whatever the arguments say.

        Args:
            topics: Their names.
            partitions: How many each gets, 1 or more; -1 for the cluster's default.
            replication_factor: How many brokers keep a copy; -1 for the cluster's default.
            properties: Kafka's own, by name, such as ``{"retention.ms": "604800000"}``.

        Raises:
            InvalidTopicError: A name is none.
            InvalidOptionError: A number is none.
            BrokerConnectionError: The cluster did not answer.
            BrokerError: The cluster refuses it.
        """
        self.check_open()
        for topic in topics:
            check_topic(topic)
        for option, number in (
            ("partitions", partitions),
            ("replication_factor", replication_factor),
        ):
            if number != -1:
                check_whole(option, number)
        settings, longest = self._settings, self._settings.connect_timeout
        wanted = dict.fromkeys(topics, (partitions, properties))
        if settings.delays:
            wanted[DELAYS] = (partitions, properties)
            for topic in filter(is_ladder, wanted):
                wanted[topic] = STEPS, {**properties, **KEPT}
        if not wanted:
            return
        await self._ask(
            lambda seconds: create_topics(
                settings, wanted, replication_factor=replication_factor, within=seconds
            ),
            longest,
            longest,
        )
        # Others than the one who made it may not know it yet.
        for topic in wanted:
            await self._is_there(topic)

    async def _is_there(self, topic: str) -> None:
        until = asyncio.get_running_loop().time() + self._settings.connect_timeout
        while True:
            try:
                await self.look_up(topic)
            except TopicNotFoundError:
                if asyncio.get_running_loop().time() >= until:
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def _ask(
        self, call: Callable[[float], Any], within: float, slices: float = SLICE_S
    ) -> Any:
        try:
            return await in_thread(call, within=within, slices=slices)
        except KafkaException as exc:
            error = exc.args[0]
        # Outside of the block, so that ours does not keep the library's, with all its frames.
        settings = self._settings
        if may_pass(error):
            is_secured = bool(settings.tls or settings.sasl)
            raise unreachable(settings.hosts, within, error, is_secured=is_secured)
        if is_distrust(error):
            raise distrust(settings.hosts, error)
        about = f": {error.str()}" if error.code() == KafkaError.TOPIC_EXCEPTION else ""
        raise BrokerError(f"Kafka refuses it: {code_name(error)}{about}")

    @property
    def problem(self) -> str:
        """What is wrong with what its subscriptions share; empty if nothing is."""
        return "" if self._forwarder is None else self._forwarder.problem

    def leave(self, feeds: Iterable[Feed]) -> list[asyncio.Future[None]]:
        """End the feeds that nobody receives from any more; returns their ends."""
        left = [feed for feed in feeds if not feed.members]
        self.feeds = {place: feed for place, feed in self.feeds.items() if feed not in left}
        return [self.ends(feed.end()) for feed in left]

    def ends(self, ending: asyncio.Future[None]) -> asyncio.Future[None]:
        """Have leaving the broker wait for the end of something."""
        if not ending.done():
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        return ending

    async def _ends(self) -> None:
        """Wait until everything that was closed has ended."""
        while self._ending:
            await asyncio.wait([*self._ending])

    # What it is for

    def publisher(self) -> KafkaPublisher:
        """A publisher; all share one connection."""
        return KafkaPublisher(self, self._features, timeout=self._settings.publish_timeout)

    def subscriber(self, *, group: Group, transactional: bool = False) -> KafkaSubscriber:
        """A member of a consumer group.

        Args:
            group: The group, or ``Broadcast()``.
            transactional: Whether what handlers publish through `KafkaSubscriber.publisher`,
                their dead letters and the group's offsets are committed together, so that readers
                of committed records see the outputs of each message once. What a handler does
                elsewhere stays at least once.

        Raises:
            InvalidOptionError: The group is empty; or a transactional one is a ``Broadcast()``,
                which has no offsets, or is to read what was never committed.
        """
        group = check_group(group)
        if not transactional:
            return KafkaSubscriber(self, self._features, group=group)
        if isinstance(group, Broadcast):
            raise InvalidOptionError(
                "a Broadcast() keeps no place, so that there is nothing to commit together with "
                "what is published: transactional=True needs a group with a name",
                option="transactional",
            )
        level = self._settings.properties.get("isolation.level", "read_committed")
        if level != "read_committed":
            raise InvalidOptionError(
                "transactional=True needs isolation.level=read_committed, as it is by default: "
                "else a group could go on from a place that is never committed",
                option="transactional",
            )
        return KafkaSubscriber(self, replace(self._features, transactional=True), group=group)
