"""`bus.explain`: who would get an event, and why."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from contextlib import asynccontextmanager
from types import new_class
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Event
from eventflow.bus import EventBus, Explanation, Overflow
from eventflow.bus._explaining import fits
from eventflow.bus.matching import Matcher
from eventflow.errors import BufferFullError, InvalidTopicError
from tests.unit.bus.support import Base, Left, Ping, Pong, Right, turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


def why(explanation: Explanation) -> dict[str, tuple[bool | None, str]]:
    return {row.name: (row.matches, row.reason) for row in explanation.subscriptions}


class Handler:
    """Of any event; waits at the gate where there is one."""

    def __init__(self, *, gate: asyncio.Event | None = None) -> None:
        self.gate = gate

    async def __call__(self, event: Event) -> None:
        if self.gate is not None:
            await self.gate.wait()


def subscribe_all(bus: EventBus) -> None:
    """One of each kind of selector."""
    selectors: dict[str, Any] = {
        "left": Left,
        "right": Right,
        "base": Base,
        "every": Event,
        "topic": "test.base.left",
        "other": "test.ping",
        "one": "test.base.*",
        "rest": "test.>",
        "short": "test.*",
        "all": ">",
    }
    for name, selector in selectors.items():
        bus.subscribe(selector, Handler(), name=name)


LEFT = {
    "left": (True, "class"),
    "right": (False, "other_class"),
    "base": (True, "subclass"),
    "every": (True, "subclass"),
    "topic": (True, "topic"),
    "other": (False, "other_topic"),
    "one": (True, "pattern"),
    "rest": (True, "pattern"),
    "short": (False, "other_topic"),
    "all": (True, "pattern"),
}


@pytest.mark.parametrize("what", [Left, Left(n=1)], ids=["class", "event"])
async def test_why_a_class_of_events_goes_where_it_goes(what: Any) -> None:
    """Before the bus is entered as while it is, and as publish then does."""
    bus = EventBus(name="shop")
    subscribe_all(bus)
    before = bus.explain(what)
    assert why(before) == LEFT
    assert (before.state, before.hindrance, before.receivers) == ("new", "not_entered", ())
    async with bus:
        explained = bus.explain(what)
        assert why(explained) == LEFT
        assert (explained.event, explained.topic) == ("Left", "test.base.left")
        assert (explained.state, explained.hindrance) == ("open", None)
        await bus.publish(Left())
        await bus.wait_idle()
        got = tuple(row.name for row in bus.statistics().subscriptions if row.handled)
    assert got == explained.receivers == explained.matching == before.matching
    after = bus.explain(what)
    assert (after.state, after.hindrance, after.receivers) == ("closed", "closed", ())
    assert after.matching == got


async def test_why_a_topic_goes_where_it_goes() -> None:
    """Topics and patterns match it or not; for classes it depends on the event's."""
    bus = EventBus()
    subscribe_all(bus)
    explained = bus.explain("test.base.left")
    depends = dict.fromkeys(("left", "right", "base", "every"), (None, "depends_on_class"))
    assert why(explained) == LEFT | depends
    assert explained.event is None
    assert "whose own topic this is" in explained["left"].text
    assert "whose own topic this is" not in explained["right"].text


async def test_a_class_without_a_topic_can_only_be_a_base() -> None:
    """Where its subclasses go depends on their topics; it goes nowhere itself."""
    async with EventBus() as bus:
        subscribe_all(bus)
        explained = bus.explain(Base)
        assert (explained.hindrance, explained.topic, explained.receivers) == ("no_topic", None, ())
        assert explained.matching == ("base", "every")
        assert explained["topic"].reason == explained["all"].reason == "depends_on_topic"
        assert explained["left"].reason == "other_class"


def number_of(event: Ping) -> int:
    return event.n


@pytest.mark.parametrize(
    ("overflow", "hindrance", "receives"),
    [
        (Overflow.BLOCK, "blocks", True),
        (Overflow.DROP_NEWEST, "drops_it", False),
        (Overflow.DROP_OLDEST, "drops_another", True),
        (Overflow.KEEP_LATEST, "drops_another", True),
        (Overflow.RAISE, "refuses", False),
    ],
)
async def test_a_full_buffer_stands_in_the_way(
    overflow: Overflow, hindrance: str, receives: bool
) -> None:
    """What its policy then does; and the others have nothing to do with it, but for ``RAISE``."""
    gate = asyncio.Event()
    async with EventBus() as bus:
        options: dict[str, Any] = {"overflow": overflow}
        if overflow is Overflow.KEEP_LATEST:
            options["latest_key"] = number_of
        bus.subscribe(Ping, Handler(gate=gate), name="full", capacity=1, **options)
        bus.subscribe(Ping, Handler(), name="other")
        assert bus.explain(Ping)["full"].hindrance is None
        for n in range(2):
            await bus.publish(Ping(n=n))
            await turns()
        explained = bus.explain(Ping)
        assert explained["full"].hindrance == hindrance
        assert "(1 of 1)" in explained["full"].text
        assert explained.matching == ("full", "other")
        if overflow is Overflow.RAISE:
            assert (explained.hindrance, explained.receivers) == ("refused", ())
            with pytest.raises(BufferFullError):
                await bus.publish(Ping())
        else:
            assert explained.receivers == (("full", "other") if receives else ("other",))
        gate.set()


async def test_a_subscription_that_is_being_stopped_gets_nothing() -> None:
    """It says so, until it is gone; the others go on."""
    gate = asyncio.Event()
    async with EventBus() as bus:
        sub = bus.subscribe(Ping, Handler(gate=gate), name="going")
        bus.subscribe(Ping, Handler(), name="staying")
        await bus.publish(Ping())
        closing = asyncio.ensure_future(sub.aclose())
        await turns()
        explained = bus.explain(Ping)
        assert explained["going"].hindrance == "closing"
        assert explained.receivers == ("staying",)
        gate.set()
        await closing
        assert bus.explain(Ping).matching == ("staying",)


async def test_a_bus_that_is_stopping_says_so() -> None:
    """From outside nobody gets anything any more."""
    gate = asyncio.Event()
    seen: list[Explanation] = []
    bus = EventBus()

    async def look(event: Ping) -> None:
        await gate.wait()
        seen.append(bus.explain(Ping))

    async with bus:
        bus.subscribe(Ping, look)
        await bus.publish(Ping())
        asyncio.get_running_loop().call_later(1, gate.set)
    assert (seen[0].state, seen[0].hindrance, seen[0].receivers) == ("closing", "closing", ())
    assert seen[0].matching == ("look",)


async def test_streams_are_explained_too() -> None:
    """While they are open."""
    async with EventBus() as bus:
        async with bus.stream("test.*", overflow=Overflow.DROP_OLDEST) as events:
            row = bus.explain(Ping)[events.inbox.name]
            assert (row.kind, row.selector, row.matches) == ("stream", "test.*", True)
        assert bus.explain(Ping).subscriptions == ()


async def test_a_subscription_whose_resource_is_not_open_yet_gets_it() -> None:
    """What is published meanwhile waits in its buffer."""
    opened = asyncio.Event()

    @asynccontextmanager
    async def resource() -> AsyncGenerator[int]:
        await opened.wait()
        yield 1

    async def handler(event: Ping, number: int) -> None:
        pass

    async with EventBus() as bus:
        bus.subscribe(Ping, handler, resources=resource, name="later")
        assert bus.explain(Ping).receivers == ("later",)
        opened.set()


async def test_it_reads_well() -> None:
    """A line for each, those that get it first."""
    gate = asyncio.Event()
    async with EventBus(name="shop") as bus:
        bus.subscribe(Pong, Handler(), name="pong")
        bus.subscribe("test.>", Handler(gate=gate), name="audit", capacity=1)
        bus.subscribe(Base, Handler(), name="base")
        for _ in range(2):
            await bus.publish(Left())
            await turns()
        full = "but its buffer is full (1 of 1), so publish waits for room, at most 5 s"
        assert str(bus.explain(Left)).splitlines() == [
            "Left on 'test.base.left', published on bus 'shop' (open)",
            f"  goes to  audit  pattern 'test.>' fits topic 'test.base.left'; {full}",
            "  goes to  base   Left is a subclass of Base",
            "  not to   pong   it is subscribed to class Pong",
        ]
        assert str(bus.explain("test.pong")).splitlines() == [
            "an event on 'test.pong', published on bus 'shop' (open)",
            f"  goes to  audit  pattern 'test.>' fits topic 'test.pong'; {full}",
            "  depends  pong   if it is of class Pong, whose own topic this is",
            "  depends  base   if it is of class Base",
        ]
        gate.set()
    assert str(EventBus().explain(Ping)).splitlines() == [
        "Ping on 'test.ping', published on bus 'bus' (new)",
        "  nobody gets it now: the bus has not been entered; these would start with it",
        "  nobody is subscribed to anything",
    ]


async def test_what_it_returns_can_not_be_changed() -> None:
    """Frozen, with rows by name."""
    bus = EventBus()
    bus.subscribe(Ping, Handler(), name="r")
    explained = bus.explain(Ping)
    with pytest.raises(dataclasses.FrozenInstanceError):
        explained.bus = "x"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        explained["r"].name = "x"  # type: ignore[misc]
    with pytest.raises(KeyError):
        explained["nobody"]


@pytest.mark.parametrize("wrong", [None, 3, object, int, "", "a b", "test.*", ">", "a..b", b"a"])
async def test_what_can_not_be_explained(wrong: Any) -> None:
    """A typed error that says what it takes; a pattern is no topic."""
    with pytest.raises(InvalidTopicError, match=r"explain takes|refused") as caught:
        EventBus().explain(wrong)
    assert re.search(r"Event|segments|pattern", str(caught.value))


SEGMENT = st.sampled_from(["a", "b", "*"])


def joined(segments: list[str], rest: list[str]) -> str:
    return ".".join(segments + rest)


PATTERN = st.builds(
    joined,
    st.lists(SEGMENT, min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
)
TOPIC = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5).map(".".join)
CLASSES: dict[str, type[Event]] = {}


def class_on(topic: str) -> type[Event]:
    if topic not in CLASSES:
        CLASSES[topic] = new_class("On", (Event,), {"topic": topic})
    return CLASSES[topic]


@given(pattern=PATTERN | st.just(">"), topic=TOPIC)
def test_patterns_are_read_as_publish_reads_them(pattern: str, topic: str) -> None:
    """`explain` and the routes of the bus never disagree."""
    matcher: Matcher[int] = Matcher()
    matcher.add(pattern, 1)
    assert fits(pattern, topic) == (matcher.match(class_on(topic)) == (1,))
