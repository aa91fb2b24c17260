"""Between a broker and an in-process bus: `Bridge` to the bus, `forward` from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from eventflow._cause import Envelope, Receipt, current_attempt
from eventflow._log import EventLogger, shown
from eventflow.bus import EventBus
from eventflow.bus._bringing import bring, is_open, origin_of
from eventflow.errors import (
    BufferFullError,
    BusClosedError,
    BusError,
    BusNotEnteredError,
    InvalidOptionError,
)
from eventflow.events import Event, event_name
from eventflow.failure import DeadLetter, FailurePolicy, Retry
from eventflow.messaging import metadata as meta
from eventflow.messaging.codec import JsonCodec, check_codec, message_of
from eventflow.messaging.protocols import Publisher, check_publisher
from eventflow.messaging.router import Router

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Unpack

    from eventflow.bus import SubscribeOptions, Subscription
    from eventflow.messaging.codec import Codec
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.protocols import Subscriber
    from eventflow.messaging.statistics import RouterHealth, RouterStatistics

__all__ = ("Bridge", "forward")

log = EventLogger("eventflow.bridge")

AGAIN_S = (1, 2, 5, 10, 20, 30)
"""Seconds until an event comes again, by how often it came."""

LOOK_S = 0.5
"""Between two looks whether a bus that was left is entered again."""

FORWARDING = FailurePolicy(retry=Retry(attempts=10))
FORWARD_TIMEOUT_S = 60.0


class Bridge:
    """Brings events from a broker to the subscribers of an in-process bus.

    An async context manager, entered after the broker and the bus, and left before them. A
    message is acked once every subscription that was offered its event is done with it: has
    handled it, or its failure policy went through (logged, or called somebody who returned). If
    one lost it (it was dropped or rejected, a stop cut the handler, or the process ended) the
    message comes again, and the others get it again too: later each time, from 1 s to 30 s, and
    after ``max_deliveries`` as a dead letter. A message that can't be read is dead-lettered at
    once. What a stream has not read when its reader leaves it in good order was not wanted, and
    is not lost.

    Each subscription gets the events in the order in which they came, except for those that
    come again. Id, time, correlation, causation and metadata are those of the message. An event
    that `forward` sent from the same bus is acked, and not offered again.

    Args:
        subscriber: Where the messages come from: what ``broker.subscriber(group=…)`` returns.
        bus: Where the events go.
        events: The classes to bring; each has a topic, which is read.
        ack: ``"when_done"``, the default: as said above. ``"when_offered"``: once every
            subscription has its copy, which is at most once: what is then lost stays lost.
        max_in_flight: Most events that subscriptions are not done with. Not above the smallest
            ``capacity`` of a subscription whose policy drops or rejects what it has no room for.
        max_deliveries: Deliveries after which a message is dead-lettered, unhandled.
        unknown: What becomes of messages of these topics whose name is that of no class here:
            ``"dead_letter"``, the default, or ``"skip"``.
        dead_letter: Where dead letters go. Default: ``<topic>.dead_letter`` at the same broker.
        name: Name in logs and in the ledger.
        drain_timeout: Seconds for subscriptions to be done with what was brought; 0 or more.
        cancel_grace: As a `Router`'s; above 0.
        codec: How bodies become events. Default: JSON.

    Raises:
        ConfigurationError: An argument is not what it should be.

    Example::

        bridge = Bridge(broker.subscriber(group="shop"), bus, events=[OrderPlaced])
        service = Service(broker, bus, bridge)
    """

    def __init__(
        self,
        subscriber: Subscriber,
        bus: EventBus,
        *,
        events: Iterable[type[Event]],
        ack: Literal["when_done", "when_offered"] = "when_done",
        max_in_flight: int = 100,
        max_deliveries: int = 20,
        unknown: Literal["dead_letter", "skip"] = "dead_letter",
        dead_letter: DeadLetter | None = None,
        name: str = "bridge",
        drain_timeout: float = 20.0,
        cancel_grace: float = 5.0,
        codec: Codec | None = None,
    ) -> None:
        _check_bus(bus)
        if ack not in ("when_done", "when_offered"):
            raise InvalidOptionError(
                f"ack must be 'when_done' or 'when_offered', not {ack!r}", option="ack"
            )
        self._bus = bus
        self._subscriber = subscriber
        self._waits = ack == "when_done"
        self._is_leaving: asyncio.Event | None = None
        if dead_letter is not None and not isinstance(cast("object", dead_letter), DeadLetter):
            raise InvalidOptionError(
                f"dead_letter takes a DeadLetter(…), not {dead_letter!r}", option="dead_letter"
            )
        self._look: asyncio.TimerHandle | None = None
        self._router = Router(
            name, drain_timeout=drain_timeout, cancel_grace=cancel_grace, codec=codec or JsonCodec()
        )
        self._handler = self._router.add_handler(
            name,
            _classes(events),
            self._bring,
            subscriber=subscriber,
            # A worker for each event that somebody still handles. They offer in the order in
            # which they take, as nothing is awaited in between; so no lanes are needed.
            concurrency=max_in_flight,
            max_in_flight=max_in_flight,
            order="relaxed",
            timeout=None,  # the subscriptions have their own
            max_deliveries=max_deliveries,
            unknown=unknown,
            on_failure=FailurePolicy(retry=Retry(), then=dead_letter or DeadLetter()),
        )

    def __repr__(self) -> str:
        """Name and state."""
        return f"<Bridge {self.name!r}, {self._router.health().state}>"

    @property
    def name(self) -> str:
        """Name in logs and in the ledger."""
        return self._router.name

    async def __aenter__(self) -> Self:
        """Subscribe; returns when messages are received.

        Raises:
            BusNotEnteredError: The bus is not open.
            BrokerError: Subscribing failed, or dead letters could not be stored.
            RouterError: The bridge is open already.
        """
        if not is_open(self._bus):
            raise BusNotEnteredError(
                f"bridge {self.name!r} brings events to bus {self._bus.name!r}, which is not open: "
                "enter the bus first, as in Service(broker, bus, bridge)"
            )
        self._is_leaving = asyncio.Event()
        await self._router.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Bring nothing more, wait for what was brought, give the rest back; see `Router`."""
        if self._is_leaving is not None:
            self._is_leaving.set()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if not is_open(self._bus):
            exc_type = exc_type or BusClosedError  # nothing that waits here can end: don't wait
        await self._router.__aexit__(exc_type, exc, traceback)

    async def _bring(self, event: Event) -> None:
        attempt = current_attempt()
        assert attempt is not None
        delivery, bus = cast("Delivery", attempt.item), self._bus
        item = delivery.carried
        metadata = None if item.metadata is None else MappingProxyType(item.metadata)
        receipt = Receipt()
        refused = ""
        try:
            if delivery.message.metadata.get(meta.FROM_BUS) == _mark(bus, event):
                return
            await bring(bus, Envelope(event, item.correlation, item.causation, metadata, receipt))
        except BufferFullError as exc:
            refused = shown(exc)
        except BusError as exc:
            # Nobody can have it until the bus is entered again: take nothing in until then.
            log.error("eventflow.bridge_stalled", error=exc, bridge=self.name, bus=bus.name)
            self._handler.pause()
            delivery.release()
            if self._look is None:
                self._look_again()
            return
        if self._waits:
            await receipt.wait()
            if not receipt.is_done:
                refused = refused or "a subscription lost it"
        if refused:
            await self._have_it_again(delivery, refused)

    def _look_again(self) -> None:
        """Go on when the bus is open."""
        if is_open(self._bus):
            self._look = None
            self._handler.resume()
        elif self._is_leaving is not None and not self._is_leaving.is_set():
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    async def _have_it_again(self, delivery: Delivery, reason: str) -> None:
        delay = AGAIN_S[min(delivery.deliveries or 1, len(AGAIN_S)) - 1]
        log.info(
            "eventflow.event_given_back",
            bridge=self.name,
            topic=delivery.topic,
            event_id=delivery.message.id,
            reason=reason,
            delay_s=delay,
        )
        if self._subscriber.features.nack_delay:
            delivery.nack(delay=delay)
            return
        # The backend would deliver it again at once, and at once, and at once.
        assert self._is_leaving is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._is_leaving.wait()
        delivery.nack()

    # Looking at it

    def statistics(self) -> RouterStatistics:
        """The counts of its messages, now: one row, where ``released`` are those to come again."""
        return self._router.statistics()

    @property
    def ledger(self) -> RouterStatistics:
        """The counts; once the bridge was left, what became of every message."""
        return self._router.ledger

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that it reads, and those of their dead letters; see `Router.topics`."""
        return self._router.topics

    def health(self) -> RouterHealth:
        """How it is, as a `Router` says it."""
        return self._router.health()

    @property
    def is_ready(self) -> bool:
        """Whether it receives, and the bus takes in."""
        return self._router.is_ready and is_open(self._bus)


def forward(
    bus: EventBus,
    publisher: Publisher,
    *,
    events: Iterable[type[Event]],
    key: Callable[[Any], str | None] | None = None,
    codec: Codec | None = None,
    **options: Unpack[SubscribeOptions[Any]],
) -> list[Subscription]:
    """Let the events of a bus go to a broker too: one subscription for each class.

    Each keeps its order, and its id, time, correlation, causation and metadata. An event that a
    `Bridge` brought from a broker is not sent to one again: nothing goes round in circles. While
    the broker is away, events wait in the subscription's buffer, and are lost with the process;
    a service that can't afford that publishes to the broker itself, by `BrokerEventPublisher`.

    Args:
        bus: Where the events come from.
        publisher: Where they go: what ``broker.publisher()`` returns.
        events: Classes to forward; a base stands for its subclasses.
        key: Gives the key of an event, by which the broker keeps order. Default: no key.
        codec: How events become bytes. Default: their JSON.
        options: Of the subscriptions, as for `EventBus.subscribe`. Default: ten attempts, within
            60 s each, and then the event counts as failed and is logged.

    Raises:
        ConfigurationError: An argument is not what it should be.

    Example::

        forward(bus, broker.publisher(), events=[OrderPaid])
    """
    _check_bus(bus)
    check_publisher(publisher)
    classes = _classes(events)
    encoder = JsonCodec() if codec is None else check_codec(codec)

    async def send(event: Event) -> None:
        attempt = current_attempt()
        carried = attempt.item if attempt is not None else None
        if not isinstance(carried, Envelope):
            carried = None
        elif carried.receipt is not None:
            return
        message = message_of(event, carried, encoder, key=None if key is None else key(event))
        metadata = {**message.metadata, meta.FROM_BUS: _mark(bus, event)}
        await publisher.publish(event.topic or "", message.copy(metadata=metadata))

    made: list[Subscription] = []
    try:
        for event_class in classes:
            if any(c is not event_class and issubclass(event_class, c) for c in classes):
                continue  # its base's subscription gets it
            chosen: Any = {
                "name": f"forward({event_class.__name__})",
                "timeout": FORWARD_TIMEOUT_S,
                "on_failure": FORWARDING,
                **options,
            }
            made.append(bus.subscribe(event_class, send, **chosen))
    except BaseException:
        for subscription in made:
            subscription.cancel()
        raise
    return made


def _mark(bus: EventBus, event: Event) -> str:
    """Says that this very event came from this bus; one that was made of it did not."""
    return f"{origin_of(bus)} {event_name(event)} {event.id}"


def _classes(events: object) -> tuple[type[Event], ...]:
    given: tuple[object, ...] = ()
    if isinstance(events, Iterable) and not isinstance(events, type):
        given = tuple(cast("Iterable[object]", events))
    classes = [c for c in given if isinstance(c, type) and issubclass(c, Event)]
    if not given or len(classes) < len(given):
        raise InvalidOptionError(
            f"events takes one event class or more, as in [OrderPlaced], not {events!r}",
            option="events",
        )
    return tuple(dict.fromkeys(classes))


def _check_bus(bus: object) -> None:
    if not isinstance(bus, EventBus):
        raise InvalidOptionError(f"bus takes an EventBus, not {type(bus).__name__}", option="bus")
