"""The bytes of each type, both ways, and what is refused on either."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import AwareDatetime, Field, ValidationError, create_model

from eventflow.errors import EventDecodeError, EventEncodeError
from eventflow.events import BigInt, Event, FrozenMapping, Int64String, Part


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Level(enum.IntEnum):
    LOW = 1


class Mood(enum.StrEnum):
    GOOD = "good"


class Line(Part):
    sku: str
    count: int = 1
    note: str | None = None


class Card(Part):
    kind: Literal["card"]
    number: str


class Cash(Part):
    kind: Literal["cash"] = "cash"
    paid_at: datetime | None = None


class First(Part):
    version: Literal[1] = 1


class Second(Part):
    version: Literal[2]


class Tree(Part):
    children: tuple[Tree, ...] = ()


Numbered = Annotated[First | Second, Field(discriminator="version")]
Pay = Annotated[Card | Cash, Field(discriminator="kind")]


def event_of(annotation: Any) -> Any:
    return create_model("Wire", __base__=Event, value=(annotation, ...))


WRITTEN: list[tuple[Any, Any, bytes]] = [
    (str, "a", b'"a"'),
    (str, '\x00"\\é\u2028😀</&', '"\\u0000\\"\\\\é\u2028😀</&"'.encode()),
    (int, 2**63 - 1, b"9223372036854775807"),
    (int, -(2**63), b"-9223372036854775808"),
    (BigInt, 10**30, b"1000000000000000000000000000000"),
    (Int64String, -5, b'"-5"'),
    (float, 1.0, b"1.0"),
    (float, 0.1, b"0.1"),
    (float, -0.0, b"-0.0"),
    (float, 5e-324, b"5e-324"),
    (bool, True, b"true"),
    (None, None, b"null"),
    (int | None, None, b"null"),
    (bytes, b"\xfb\xff", b'"+/8="'),
    (bytes, b"", b'""'),
    (Decimal, Decimal("1.50"), b'"1.50"'),
    (Decimal, Decimal("1E+5"), b'"1E+5"'),
    (Decimal, Decimal("-0"), b'"-0"'),
    (UUID, UUID(int=5), b'"00000000-0000-0000-0000-000000000005"'),
    (datetime, datetime(2024, 5, 1, 10, tzinfo=UTC), b'"2024-05-01T10:00:00Z"'),
    (
        datetime,
        datetime(2024, 5, 1, 10, 0, 0, 120, tzinfo=timezone(timedelta(hours=2))),
        b'"2024-05-01T08:00:00.000120Z"',
    ),
    (AwareDatetime, datetime(2024, 5, 1, tzinfo=UTC), b'"2024-05-01T00:00:00Z"'),
    (
        datetime,
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        b'"2024-10-27T01:30:00Z"',
    ),
    (datetime, datetime(1, 1, 1, tzinfo=UTC), b'"0001-01-01T00:00:00Z"'),
    (date, date(2024, 2, 29), b'"2024-02-29"'),
    (time, time(1, 2, 3), b'"01:02:03"'),
    (time, time(1, 2, 3, 40), b'"01:02:03.000040"'),
    (timedelta, timedelta(seconds=1, microseconds=1), b"1000001000"),
    (timedelta, timedelta(microseconds=-1), b"-1000"),
    (Colour, Colour.RED, b'"red"'),
    (Colour, Colour.TWO, b"2"),
    (Level, Level.LOW, b"1"),
    (Mood, Mood.GOOD, b'"good"'),
    (Literal["a", 1, True] | None, "a", b'"a"'),
    (Literal["a", 1], 1, b"1"),
    (Literal[0, True], True, b"true"),
    (Literal[1], Level.LOW, b"1"),
    (Literal[2] | bool, 2, b"2"),
    (Literal[Level.LOW, "a"], Level.LOW, b"1"),
    (Numbered, Second(version=2), b'{"version":2}'),
    (Literal[Mood.GOOD], Mood.GOOD, b'"good"'),
    (int | str, "1", b'"1"'),
    (int | str, 1, b"1"),
    (int | float, 1.5, b"1.5"),
    (tuple[int, ...], (1, 2), b"[1,2]"),
    (tuple[int, ...], (), b"[]"),
    (tuple[int, str], (1, "a"), b'[1,"a"]'),
    (tuple[datetime, ...], (datetime(2024, 1, 1, tzinfo=UTC),), b'["2024-01-01T00:00:00Z"]'),
    (tuple[bytes | None, ...], (b"\xff", None), b'["/w==",null]'),
    (Mapping[str, int], FrozenMapping({"b": 1, "a": 2}), b'{"b":1,"a":2}'),
    (Mapping[str, bytes], FrozenMapping({"b": b"\xff"}), b'{"b":"/w=="}'),
    (Mapping[str, Line], FrozenMapping({"l": Line(sku="x")}), b'{"l":{"sku":"x","count":1}}'),
    (Line, Line(sku="x", note="n"), b'{"sku":"x","count":1,"note":"n"}'),
    (Line | None, Line(sku="x"), b'{"sku":"x","count":1}'),
    (Pay, Card(kind="card", number="1"), b'{"kind":"card","number":"1"}'),
    (
        Pay,
        Cash(paid_at=datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        b'{"kind":"cash","paid_at":"2023-12-31T23:00:00Z"}',
    ),
    (tuple[Pay, ...], (Cash(),), b'[{"kind":"cash"}]'),
    (Tree, Tree(children=(Tree(),)), b'{"children":[{"children":[]}]}'),
    (Annotated[int, Field(gt=1, lt=9)], 5, b"5"),
    (Annotated[str, Field(min_length=1, pattern="^a")], "ab", b'"ab"'),
    (Annotated[Decimal, Field(max_digits=3)], Decimal("1.5"), b'"1.5"'),
    (Annotated[bytes, Field(max_length=2)], b"ab", b'"YWI="'),
    (Annotated[tuple[int, ...], Field(max_length=2)], (1,), b"[1]"),
    (Annotated[Mapping[str, int], Field(min_length=1)], FrozenMapping({"a": 1}), b'{"a":1}'),
    (
        Annotated[datetime, Field(gt=datetime(2020, 1, 1, tzinfo=UTC))],
        datetime(2024, 1, 1, tzinfo=UTC),
        b'"2024-01-01T00:00:00Z"',
    ),
    (Annotated[timedelta, Field(ge=timedelta(0))], timedelta(1), b"86400000000000"),
]


@pytest.mark.parametrize(("annotation", "value", "body"), WRITTEN, ids=lambda v: str(v)[:40])
def test_bytes(annotation: Any, value: Any, body: bytes) -> None:
    """A value is written as these bytes, and read from them as an equal value of its type."""
    cls = event_of(annotation)
    event = cls(value=value)
    assert event.to_json() == b'{"value":' + body + b"}"
    read = cls.from_json(event.to_json())
    assert read == event
    assert hash(read) == hash(event)
    assert type(read.value) is type(event.value)


READ: list[tuple[Any, bytes, Any]] = [
    (float, b"1", 1.0),
    (float, b"1e2", 100.0),
    (datetime, b'"2024-05-01T10:00:00+02:00"', datetime(2024, 5, 1, 8, tzinfo=UTC)),
    (datetime, b'"2024-05-01t10:00:00.5z"', datetime(2024, 5, 1, 10, 0, 0, 500000, tzinfo=UTC)),
    (
        datetime,
        b'"2024-05-01T10:00:00.123456789Z"',
        datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC),
    ),
    (timedelta, b"1999", timedelta(microseconds=1)),
    (timedelta, b"-1999", timedelta(microseconds=-1)),
    (time, b'"10:00:00.123456789"', time(10, 0, 0, 123456)),
    (Decimal, b'"1e2"', Decimal("1e2")),
    (UUID, b'"ABCDEF00-0000-0000-0000-000000000000"', UUID("abcdef00-0000-0000-0000-000000000000")),
    (Line, b'{"sku":"a","new":[1]}', Line(sku="a")),
    (Line, b' {"note" : null , "sku":"\\u0061"}\n', Line(sku="a")),
    (Mapping[str, int], b'{"a":1,"a":2}', FrozenMapping({"a": 2})),
    (str, b'"\\ud83d\\ude00"', "😀"),
]


@pytest.mark.parametrize(("annotation", "body", "value"), READ, ids=lambda v: str(v)[:40])
def test_other_forms_that_are_read(annotation: Any, body: bytes, value: Any) -> None:
    """What Go and JavaScript write for the same value is read, and unknown fields passed over."""
    read = event_of(annotation).from_json(b'{"value":' + body + b',"unknown":{"x":[1]}}')
    assert read.value == value
    assert type(read.value) is type(value)


REFUSED_READING: list[tuple[Any, bytes]] = [
    (str, b"1"),
    (str, b'"\\ud800"'),
    (str, b'"\xff"'),
    (str, b'"\xed\xa0\x80"'),
    (int, b"1.0"),
    (int, b'"1"'),
    (int, b"true"),
    (int, b"9223372036854775808"),
    (int, b"-9223372036854775809"),
    (int | None, b'"1"'),
    (tuple[int, ...], b"[9223372036854775808]"),
    (Mapping[str, int], b'{"a":9223372036854775808}'),
    (int | str, b"9223372036854775808"),
    (BigInt, b"1.5"),
    (Int64String, b"5"),
    (Int64String, b'"05"'),
    (Int64String, b'"+5"'),
    (Int64String, b'"5 "'),
    (Int64String, b'"9223372036854775808"'),
    (float, b"NaN"),
    (float, b"-Infinity"),
    (float, b"1e999"),
    (float, b"true"),
    (float, b'"1.0"'),
    (float, b"1" * 400),
    (bool, b"1"),
    (bool, b'"true"'),
    (bytes, b'"_w=="'),
    (bytes, b'"/w"'),
    (bytes, b'"/w==\\n"'),
    (bytes, b'"/x=="'),
    (bytes, b'"/w==/w=="'),
    (bytes, b'"\xc3\xa9w=="'),
    (bytes, b"[255]"),
    (Decimal, b"1.5"),
    (Decimal, b'"NaN"'),
    (Decimal, b'"1_0"'),
    (Decimal, b'" 1"'),
    (Decimal, b'"\xd9\xa1"'),
    (UUID, b'"00000000000000000000000000000005"'),
    (UUID, b'"{00000000-0000-0000-0000-000000000005}"'),
    (datetime, b'"2024-05-01T10:00:00"'),
    (datetime, b'"2024-05-01 10:00:00Z"'),
    (datetime, b'"2024-05-01T10:00Z"'),
    (datetime, b'"2024-05-01"'),
    (datetime, b'"2024-02-30T00:00:00Z"'),
    (datetime, b'"2024-05-01T10:00:60Z"'),
    (datetime, b'"0001-01-01T00:00:00+02:00"'),
    (datetime, b'"\xef\xbc\x92024-05-01T10:00:00Z"'),
    (datetime, b"1714557600"),
    (datetime, b'"1714557600"'),
    (date, b'"2024-05-01T00:00:00Z"'),
    (date, b"19844"),
    (time, b'"10:00"'),
    (time, b'"10:00:00Z"'),
    (time, b"36000"),
    (timedelta, b'"PT1S"'),
    (timedelta, b"1.5"),
    (timedelta, b"9223372036854775808"),
    (Colour, b'"blue"'),
    (Colour, b"2.0"),
    (Colour, b"true"),
    (Colour, b'"2"'),
    (Level, b"1.0"),
    (Level, b"1e0"),
    (Level, b"true"),
    (Literal["a"], b'"b"'),
    (Literal[1], b"1.0"),
    (Literal[1], b"true"),
    (Literal[0, True], b"1"),
    (Literal[0, True], b"false"),
    (Literal[True], b"1"),
    (Literal["a", 1] | None, b"true"),
    (Literal[Level.LOW], b"true"),
    (Numbered, b'{"version":true}'),
    (Numbered, b'{"version":2.0}'),
    (Numbered, b'{"version":3}'),
    (tuple[int, str], b"[1]"),
    (tuple[int, ...], b'{"0":1}'),
    (Mapping[str, int], b"[]"),
    (Line, b"[]"),
    (Line, b'{"sku":null}'),
    (Pay, b'{"kind":"cheque"}'),
    (Pay, b"{}"),
    (int, b"null"),
]


@pytest.mark.parametrize(("annotation", "body"), REFUSED_READING, ids=lambda v: str(v)[:40])
@pytest.mark.fault("INP-01")
def test_what_is_not_read(annotation: Any, body: bytes) -> None:
    """Anything else is an EventDecodeError that names the field or the offset."""
    with pytest.raises(EventDecodeError) as caught:
        event_of(annotation).from_json(b'{"value":' + body + b"}", event_id="m-1")
    assert caught.value.message_id == "m-1"
    assert caught.value.path.startswith("value") or caught.value.offset is not None
    assert caught.value.expected
    assert caught.value.found


class Text(str):
    __slots__ = ()


class SubLine(Line):
    extra: int = 1


REFUSED_MAKING: list[tuple[Any, Any]] = [
    (str, 1),
    (str, b"a"),
    (str, "\ud800"),
    (str | None, "\udfff"),
    (Mapping[str, int], {"\ud800": 1}),
    (int, "1"),
    (int, 1.0),
    (int, True),
    (int, 2**63),
    (int, -(2**63) - 1),
    (tuple[int, ...], [2**63]),
    (Mapping[str, int], {"a": 2**63}),
    (int | str, 2**63),
    (Int64String, 2**63),
    (Int64String, "5"),
    (float, math.nan),
    (float, math.inf),
    (float, -math.inf),
    (float, 10**400),
    (float, True),
    (float, "1"),
    (tuple[float, ...], (math.nan,)),
    (Mapping[str, float], {"a": math.inf}),
    (float | None, math.nan),
    (bool, 1),
    (bytes, "a"),
    (bytes, bytearray(b"a")),
    (Decimal, Decimal("NaN")),
    (Decimal, Decimal("Infinity")),
    (Decimal, "1"),
    (Decimal, 1.5),
    (UUID, "00000000-0000-0000-0000-000000000005"),
    (datetime, datetime(2024, 5, 1)),  # noqa: DTZ001
    (datetime, "2024-05-01T10:00:00Z"),
    (datetime, 1714557600),
    (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))),
    (AwareDatetime, datetime(2024, 5, 1)),  # noqa: DTZ001
    (date, datetime(2024, 5, 1, 1, tzinfo=UTC)),
    (date, "2024-05-01"),
    (time, time(1, tzinfo=UTC)),
    (time, "10:00:00"),
    (timedelta, timedelta(days=110000)),
    (timedelta, 5),
    (Colour, "red"),
    (Level, 1),
    (Literal["a"], "b"),
    (Literal[1], True),
    (Literal[1], 1.0),
    (Literal[1], Decimal(1)),
    (Literal[0, True], 1),
    (Literal[0, True], False),
    (Literal[True], 1),
    (Literal["a", 1] | None, True),
    (Literal[1] | None, True),
    (tuple[Literal[1], ...], (True,)),
    (Literal[Level.LOW], True),
    (tuple[int, ...], {1}),
    (tuple[int, ...], iter([1])),
    (tuple[int, ...], {1: 1}),
    (tuple[int, ...], "12"),
    (Mapping[str, int], [("a", 1)]),
    (Mapping[str, int], {1: 1}),
    (Line, SubLine(sku="a")),
    (tuple[Line, ...], (SubLine(sku="a"),)),
    (Line, {"sku": "a", "nope": 1}),
    (Line, "a"),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSED_MAKING)
@pytest.mark.fault("INP-01")
def test_what_can_not_be_made(annotation: Any, value: Any) -> None:
    """A value without an exact form on the wire is refused when the event is made."""
    cls = event_of(annotation)
    with pytest.raises(ValidationError):
        cls(value=value)
    with pytest.raises(ValidationError):
        cls.model_construct(value=value)


def test_big_int_has_a_bound_too() -> None:
    """A BigInt has as many digits as Python turns into text by default, and no more."""
    cls = event_of(BigInt)
    largest = cls(value=10**4300 - 1)
    assert cls.from_json(largest.to_json()) == largest
    with pytest.raises(ValidationError):
        cls(value=10**4300)
    with pytest.raises(EventDecodeError):
        cls.from_json(b'{"value":1' + b"0" * 4300 + b"}")


def test_defaults_are_checked() -> None:
    """A default, or what a factory makes, is held to the same rules."""
    wrong: list[dict[str, Any]] = [
        {"default": 2**63},
        {"default_factory": lambda: 1.5},
        {"default": None},
    ]
    for options in wrong:
        cls: Any = create_model("Wire", __base__=Event, value=(int, Field(**options)))
        with pytest.raises(ValidationError):
            cls()
    lists: Any = create_model("Wire", __base__=Event, value=(tuple[int, ...], [1]))
    assert lists().value == (1,)


def test_containers_are_converted() -> None:
    """A list becomes a tuple, a mapping a read-only one of its own; plain text stays plain."""
    source = {"a": [1]}
    event = event_of(Mapping[str, tuple[int, ...]])(value=source)
    source["b"] = []
    assert event.value == {"a": (1,)}
    assert isinstance(event.value, FrozenMapping)
    assert type(event_of(str)(value=Text("x")).value) is str


def test_subclass_without_fields_of_its_own() -> None:
    """A part's subclass that adds nothing is taken, as the declared class."""

    class Same(Line):
        pass

    event = event_of(Line)(value=Same(sku="a"))
    assert type(event.value) is Line


class Omitted(Event, topic="omitted"):
    b: int | None = None
    a: int | None
    line: Line
    c: int | None = 5
    d: str = Field(alias="D-é", default="x")


def test_what_is_left_out() -> None:
    """None is left out where it is the default, and null where it is not; order is declared."""
    event = Omitted(a=None, line=Line(sku="s"), c=None)
    body = '{"a":null,"line":{"sku":"s","count":1},"c":null,"D-é":"x"}'.encode()
    assert event.to_json() == body
    assert Omitted.from_json(body) == event
    assert event.model_dump_json(by_alias=True).encode() == body


def test_model_dump_has_every_field() -> None:
    """In Python mode nothing is left out, nested or not; in JSON mode the wire's rules hold."""
    event = Omitted(a=1, line=Line(sku="s"))
    assert event.model_dump() == {
        "b": None,
        "a": 1,
        "line": {"sku": "s", "count": 1, "note": None},
        "c": 5,
        "d": "x",
    }
    assert event.model_dump(mode="json") == json.loads(event.model_dump_json())
    assert "b" not in event.model_dump(mode="json")
    assert Omitted.model_validate(event.model_dump(by_alias=True)) == event


def test_too_deep_to_be_read_is_not_written() -> None:
    """A recursive part deeper than what is read is an EventEncodeError, at any depth."""
    cls = event_of(Tree)
    tree = Tree()
    for depth in range(1, 400):
        event = cls(value=tree)
        try:
            body = event.to_json()
        except EventEncodeError:
            assert depth > 99
        else:
            assert cls.from_json(body) == event
            assert depth <= 100
        tree = Tree(children=(tree,))


def test_json_schema() -> None:
    """model_json_schema describes the wire."""
    properties = {
        annotation: event_of(annotation).model_json_schema()["properties"]["value"]
        for annotation in (datetime, date, time, timedelta, bytes, Decimal, UUID, Int64String, str)
    }
    described = {
        k: (v["type"], v.get("format", v.get("contentEncoding"))) for k, v in properties.items()
    }
    assert described == {
        datetime: ("string", "date-time"),
        date: ("string", "date"),
        time: ("string", "time"),
        timedelta: ("integer", "int64"),
        bytes: ("string", "base64"),
        Decimal: ("string", "decimal"),
        UUID: ("string", "uuid"),
        Int64String: ("string", "int64"),
        str: ("string", None),
    }
    shown: dict[Any, Any] = {
        Literal[1]: {"const": 1, "type": "integer", "title": "Value"},
        Literal["a", True]: {"enum": ["a", True], "title": "Value"},
        Level: {"$ref": "#/$defs/Level"},
        Colour: {"$ref": "#/$defs/Colour"},
    }
    for annotation, schema in shown.items():
        for mode in ("validation", "serialization"):
            made: Any = event_of(annotation)
            assert made.model_json_schema(mode=mode)["properties"]["value"] == schema
    numbered = event_of(Numbered).model_json_schema()["properties"]["value"]["discriminator"]
    assert numbered["mapping"].keys() == {"1", "2"}
    assert "additionalProperties" not in json.dumps(event_of(Line).model_json_schema())
