"""Topic, name, identity, copies and pickle of an event."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from multiprocessing import get_context
from typing import Any, Generic, TypeVar, cast

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from eventflow.errors import EventDefinitionError, InvalidOptionError, InvalidTopicError
from eventflow.events import Event, EventPublisher, Part, event_name
from eventflow.events.identity import new_id

T = TypeVar("T")


class OrderPlaced(Event, topic="orders.placed"):
    order_id: str
    amount_cents: int
    coupon: str | None = None


class Named(Event, topic="people.named", name="events.Named"):
    name: str


class Base(Event):
    order_id: str


class Child(Base, topic="orders.child"):
    pass


class Grandchild(Child):
    pass


class Boxed(Event, Generic[T], topic="boxes"):
    value: T


class BoxedByName(Event, Generic[T], topic="boxes", name="events.Boxed"):
    value: T


def placed() -> OrderPlaced:
    return OrderPlaced(order_id="A-1", amount_cents=100)


def test_topic_of_class_and_instance() -> None:
    """The topic can be read from both."""
    assert OrderPlaced.topic == placed().topic == "orders.placed"


def test_topic_is_not_inherited() -> None:
    """A subclass without a topic of its own is a base again."""
    assert Base.topic is None
    assert Child.topic == "orders.child"
    assert Grandchild.topic is None


def test_name() -> None:
    """The wire name is the class's, or the one given; a field can still be called name."""
    assert event_name(OrderPlaced) == event_name(placed()) == "OrderPlaced"
    assert event_name(Named) == "events.Named"
    assert Named(name="Ann").name == "Ann"


def test_parametrised_class_has_the_topic() -> None:
    """Boxed[int] is published where Boxed says, under an exact name or the one given."""
    assert Boxed[int].topic == "boxes"
    assert event_name(Boxed[int]) == "Boxed[int]"
    assert event_name(BoxedByName[int]) == "events.Boxed"
    assert Boxed[int](value=1).to_json() == b'{"value":1}'


@pytest.mark.parametrize("topic", ["orders placed", "orders.*", ""])
def test_bad_topic(topic: str) -> None:
    """A class statement with something that is not a topic fails."""
    with pytest.raises(InvalidTopicError):
        type("Bad", (Event,), {"__module__": __name__}, topic=topic)


@pytest.mark.parametrize("name", ["", "x" * 256, "two\nlines", "\x1b[31m"])
def test_bad_name(name: str) -> None:
    """A name is short and printable, since it stands in metadata and logs."""
    with pytest.raises(EventDefinitionError, match="name="):
        type("Bad", (Event,), {"__module__": __name__}, topic="a", name=name)


def test_id_is_a_uuid7_of_occurred_at() -> None:
    """The id is a UUIDv7 in its usual form, and its milliseconds are those of occurred_at."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    event = placed()
    after = datetime.now(UTC)
    parsed = uuid.UUID(event.id)
    assert str(parsed) == event.id
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    milliseconds = parsed.int >> 80
    assert (
        datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds) == event.occurred_at
    )
    assert event.occurred_at.tzinfo is UTC
    assert before <= event.occurred_at <= after


def test_time_is_of_creation_not_of_the_first_read() -> None:
    """An event that waits before anyone reads its id keeps the order of creation."""
    events = [placed() for _ in range(500)]
    by_read = [(event.occurred_at, event) for event in reversed(events)]
    assert [event for _, event in reversed(by_read)] == events
    assert [e.id for e in events] == sorted(e.id for e in events)
    assert len({e.id for e in events}) == 500


def test_identity_is_stable() -> None:
    """Reading again gives the same."""
    event = placed()
    assert (event.id, event.occurred_at) == (event.id, event.occurred_at)


@pytest.mark.stress
def test_first_read_from_many_threads() -> None:
    """Threads that race for the first read all see one id."""
    rounds = 2000 if os.environ.get("EVENTFLOW_STRESS") == "1" else 200
    threads = 8
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        events = [placed() for _ in range(rounds)]
        seen: list[list[tuple[str, datetime]]] = [[] for _ in range(threads)]
        barrier = threading.Barrier(threads)

        def read(mine: list[tuple[str, datetime]]) -> None:
            barrier.wait()
            mine.extend((event.id, event.occurred_at) for event in events)

        workers = [threading.Thread(target=read, args=(mine,)) for mine in seen]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(mine == seen[0] for mine in seen)
    assert len(set(seen[0])) == rounds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_forked_child_draws_ids_of_its_own() -> None:
    """What the parent has fetched ahead is not drawn twice."""
    program = (
        "import os\n"
        "from eventflow.events.identity import new_id\n"
        "new_id(0)\n"
        "child = os.fork()\n"
        "ids = [new_id(0) for _ in range(1_000)]\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "print('\\n'.join(ids), flush=True)\n"
        "os._exit(0)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    ids = ran.stdout.split()
    assert len(set(ids)) == len(ids) == 2_000


def test_threads_draw_ids_of_their_own() -> None:
    """At once, over many fetches."""

    def draw(count: int) -> list[str]:
        return [new_id(0) for _ in range(count)]

    with ThreadPoolExecutor(8) as threads:
        ids = [one for part in threads.map(draw, [5_000] * 8) for one in part]
    assert len(set(ids)) == 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_first_read_after_a_fork_that_met_one() -> None:
    """A child forked while a thread made its first read can make its own."""
    program = (
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from eventflow.events import Event\n"
        "from eventflow.events.event import _first_read\n"
        "class E(Event, topic='e'): pass\n"
        "event = E()\n"
        "_first_read.lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if event.id else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize("read_first", [False, True])
def test_copies_are_the_same_event(read_first: bool) -> None:
    """Copy, deepcopy, pickle and model_copy keep id and time, whoever reads first."""
    event = placed()
    if read_first:
        assert event.id
    copies = [
        copy.copy(event),
        copy.deepcopy(event),
        pickle.loads(pickle.dumps(event)),
        event.model_copy(),
        event.model_copy(update={}),
        event.model_copy(deep=True),
    ]
    for copied in copies:
        assert copied == event
        assert hash(copied) == hash(event)
        assert (copied.id, copied.occurred_at) == (event.id, event.occurred_at)
        assert copied.model_fields_set == event.model_fields_set


def test_update_makes_a_new_event() -> None:
    """model_copy with an update is another fact: a new id, and the update is validated."""
    event = placed()
    other = event.model_copy(update={"amount_cents": 5})
    assert other.amount_cents == 5
    assert other.id != event.id
    assert other.model_fields_set == {"order_id", "amount_cents"}
    with pytest.raises(ValidationError):
        event.model_copy(update={"amount_cents": "5"})
    with pytest.raises(ValidationError):
        event.model_copy(update={"nope": 1})


def id_in_another_process(event: OrderPlaced) -> tuple[str, datetime, OrderPlaced]:
    return event.id, event.occurred_at, event


def test_pickle_to_another_process() -> None:
    """An event keeps its identity in a spawned process and back."""
    event = placed()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        event_id, occurred_at, returned = pool.submit(id_in_another_process, event).result(60)
    assert (event_id, occurred_at) == (event.id, event.occurred_at) == (returned.id, occurred_at)
    assert returned == event


def test_equality_and_hash_are_of_the_fields() -> None:
    """Two events that say the same are equal, with ids of their own."""
    one, two = placed(), placed()
    assert one == two
    # Pyright doesn't read model_config: to it a model is not frozen, thus has no hash.
    assert len({one, two}) == 1  # pyright: ignore[reportUnhashable]
    assert one.id != two.id
    assert one != one.model_copy(update={"coupon": "X"})


def test_identity_from_the_wire() -> None:
    """from_json takes the id and the time that came; the time is kept in UTC."""
    body = placed().to_json()
    when = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    event = OrderPlaced.from_json(body, event_id="foreign-id", occurred_at=when)
    assert event.id == "foreign-id"
    assert event.occurred_at == when
    assert event.occurred_at.tzinfo is UTC
    dated = OrderPlaced.from_json(body, occurred_at=when)
    assert uuid.UUID(dated.id).int >> 80 == int(when.timestamp() * 1000)
    assert OrderPlaced.from_json(body, event_id="").id
    with pytest.raises(ValueError, match="naive"):
        OrderPlaced.from_json(body, occurred_at=datetime(2024, 5, 1))  # noqa: DTZ001


def test_identity_of_events_that_pydantic_made() -> None:
    """Events made by an adapter, or as a field of another model, have a stable identity."""

    class Request(BaseModel):
        event: OrderPlaced

    body = placed().to_json()
    made = [
        TypeAdapter(OrderPlaced).validate_json(body),
        TypeAdapter(list[OrderPlaced]).validate_json(b"[" + body + b"]")[0],
        Request.model_validate_json(b'{"event":' + body + b"}").event,
        OrderPlaced.model_validate({"order_id": "A-1", "amount_cents": 100}),
        OrderPlaced.model_validate_json(body),
        OrderPlaced.model_construct(order_id="A-1", amount_cents=100),
    ]
    for event in made:
        assert event == placed()
        assert uuid.UUID(event.id).version == 7
        assert event.id == event.id
    kept = placed()
    assert TypeAdapter(OrderPlaced).validate_python(kept).id == kept.id
    assert Request(event=kept).event.id == kept.id


def test_an_event_can_not_be_changed() -> None:
    """Fields and identity are read-only, and no attribute can be added."""
    event = placed()
    for name in ("order_id", "id", "occurred_at", "topic", "other"):
        with pytest.raises((ValidationError, AttributeError, ValueError)):
            setattr(event, name, "x")
    with pytest.raises((ValidationError, AttributeError)):
        del event.order_id


def test_unknown_names_are_refused_when_made() -> None:
    """A misspelt name is not passed over, while reading passes it over."""
    with pytest.raises(ValidationError, match="cupon"):
        OrderPlaced(order_id="A", amount_cents=1, cupon="X")  # type: ignore[call-arg]
    read = OrderPlaced.from_json(b'{"order_id":"A","amount_cents":1,"cupon":"X"}')
    assert read == OrderPlaced(order_id="A", amount_cents=1)


def test_base_can_be_made_but_has_no_topic() -> None:
    """A base is a class like any other; only publishing asks for a topic."""
    assert Base(order_id="A").topic is None


def test_whatever_publishes_is_a_publisher() -> None:
    """EventPublisher is a protocol: no base class is needed."""

    class Silent:
        async def publish(self, event: Event) -> None:
            pass

    assert isinstance(Silent(), EventPublisher)
    assert not isinstance(object(), EventPublisher)


class Doubled(Event, topic="doubled"):
    a: int = 0

    @cached_property
    def twice(self) -> int:
        return self.a * 2


def test_copy_after_a_cached_property() -> None:
    """What a cached property has kept is no field, and is not taken into a changed copy."""
    event = Doubled(a=2)
    assert event.twice == 4
    copied = event.model_copy(update={"a": 3})
    assert (copied.a, copied.twice) == (3, 6)
    with pytest.raises(ValidationError):
        event.model_copy(update={"twice": 1})


class Holds(Event, Generic[T], topic="holds"):
    value: T


@pytest.mark.parametrize(
    "value",
    [
        "x",
        3,
        1.5,
        b"x",
        Decimal("1.5"),
        uuid.UUID(int=7, is_safe=uuid.SafeUUID.safe),
        date(2024, 1, 2),
        datetime(2024, 1, 2, 3, 4, 5, 6, UTC),
        time(1, 2, 3, 4, fold=1),
        timedelta(days=-1, seconds=2, microseconds=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_of_values_become_plain(value: Any) -> None:
    """A subclass can have attributes that change; its value is taken."""
    kind = cast("Any", type(value))
    subclass = cast("Any", type("Subclass", (kind,), {}))
    if kind is uuid.UUID:
        given = subclass(int=value.int, is_safe=value.is_safe)
    elif kind is timedelta:
        given = subclass(value.days, value.seconds, value.microseconds)
    elif isinstance(value, date | time):
        shown = ("year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo")
        given = subclass(*(getattr(value, name) for name in shown if hasattr(value, name)))
        given = given.replace(fold=value.fold) if isinstance(value, time) else given
    else:
        given = subclass(value)
    object.__setattr__(given, "mutable", [])
    holds = cast("Any", Holds)[kind]
    event = holds(value=given)
    assert type(event.value) is kind
    assert event.value == value
    assert getattr(event.value, "fold", 0) == getattr(value, "fold", 0)
    assert getattr(event.value, "is_safe", None) == getattr(value, "is_safe", None)


class Inside(Part):
    text: str = ""


@pytest.mark.parametrize("cls", [OrderPlaced, Inside])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("model_validate_strings", {}),
        ("model_validate", {"strict": False}),
        ("model_validate_json", {"strict": False}),
        ("model_validate", {"extra": "allow"}),
        ("model_validate_json", {"extra": "allow"}),
    ],
)
def test_options_that_would_bend_the_rules(
    method: str, options: dict[str, Any], cls: type[Event]
) -> None:
    """What pydantic would relax for one call is refused, by name."""
    refused = next(iter(options), method)
    with pytest.raises(InvalidOptionError, match=refused) as caught:
        getattr(cls, method)(b"{}" if method == "model_validate_json" else {}, **options)
    assert caught.value.option == refused


def test_options_that_keep_the_rules() -> None:
    """strict=True changes nothing, and extra= can be chosen among what keeps nothing."""
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)

    class At(Event, topic="at"):
        moment: datetime
        inside: tuple[Inside, ...] = ()

    body = b'{"moment":"2024-05-01T12:00:00Z","inside":[{}],"new":1}'
    at = At(moment=noon, inside=(Inside(),))
    assert At.model_validate_json(body, strict=True) == at
    assert At.model_validate({"moment": noon, "inside": [Inside()]}, strict=True) == at
    with pytest.raises(ValidationError, match="new"):
        At.model_validate_json(body, extra="forbid")
