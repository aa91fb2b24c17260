"""decode(encode(event)) == event, for every type that a field can have."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import to_json

from eventflow.errors import EventDecodeError
from eventflow.events import BigInt, Event, Int64String, Part, RawJson, canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Line(Part):
    sku: str
    when: datetime
    data: bytes
    note: str | None = None


class Card(Part):
    kind: Literal["card"] = "card"
    price: Decimal


class Cash(Part):
    kind: Literal["cash"] = "cash"
    at: time


class Tree(Part):
    value: float
    children: tuple[Tree, ...] = ()


class All(Event, topic="all"):
    text: str
    whole: int
    big: BigInt
    as_text: Int64String
    real: float
    flag: bool
    data: bytes
    price: Decimal
    ident: UUID
    moment: datetime
    day: date
    clock: time
    span: timedelta
    colour: Colour
    literal: Literal["a", 1, True] | None
    either: int | str | bool | None
    number: int | float
    numbers: tuple[int | None, ...]
    pair: tuple[str, Decimal]
    labels: Mapping[str, datetime]
    nested: Mapping[str, tuple[Mapping[str, bytes], ...]]
    line: Line
    lines: tuple[Line, ...]
    pay: Annotated[Card | Cash, Field(discriminator="kind")]
    tree: Tree
    raw: RawJson
    maybe_raw: RawJson | None = None
    maybe: int | None = None
    named: str = Field(alias="Named-ä")
    small: Annotated[int, Field(ge=0, lt=10)]


INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
MOMENT = st.datetimes(
    datetime.fromisoformat("0002-01-01"),
    datetime.fromisoformat("9998-12-31"),
    timezones=st.timezones(),
)
SPAN = st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000))
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
DECIMAL = st.decimals(allow_nan=False, allow_infinity=False)
LINE = st.builds(Line, sku=TEXT, when=MOMENT, data=st.binary(max_size=20), note=st.none() | TEXT)
TREE: Any = st.recursive(
    st.builds(Tree, value=FLOAT),
    lambda inner: st.builds(Tree, value=FLOAT, children=st.lists(inner, max_size=3).map(tuple)),
    max_leaves=5,
)
RAW = st.sampled_from([b"1e2", b"null", b'"}"', b"[1, {}]", b'{"a":1,"a":2}']).map(RawJson)

VALUES: dict[str, Any] = {
    "text": TEXT,
    "whole": INT64,
    "big": st.integers(),
    "as_text": INT64,
    "real": FLOAT | INT64,
    "flag": st.booleans(),
    "data": st.binary(),
    "price": DECIMAL,
    "ident": st.uuids(),
    "moment": MOMENT,
    "day": st.dates(),
    "clock": st.times(),
    "span": SPAN,
    "colour": st.sampled_from(Colour),
    "literal": st.sampled_from(["a", 1, True, None]),
    "either": INT64 | TEXT | st.booleans() | st.none(),
    "number": INT64 | FLOAT,
    "numbers": st.lists(st.none() | INT64, max_size=5),
    "pair": st.tuples(TEXT, DECIMAL),
    "labels": st.dictionaries(TEXT, MOMENT, max_size=3),
    "nested": st.dictionaries(
        TEXT, st.lists(st.dictionaries(TEXT, st.binary(), max_size=2), max_size=2), max_size=2
    ),
    "line": LINE,
    "lines": st.lists(LINE, max_size=3),
    "pay": st.builds(Card, price=DECIMAL) | st.builds(Cash, at=st.times()),
    "tree": TREE,
    "raw": RAW,
    # null in the place of an optional raw value is None.
    "maybe_raw": st.none() | RAW.filter(lambda raw: bytes(raw) != b"null"),
    "maybe": st.none() | INT64,
    "Named-ä": TEXT,
    "small": st.integers(0, 9),
}
assert len(VALUES) == len(All.model_fields)
ALL_CHECKS = cast("list[HealthCheck]", list(HealthCheck))  # its iteration has no types


@settings(suppress_health_check=ALL_CHECKS, deadline=None)
@given(values=st.fixed_dictionaries(VALUES))
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    """The event that is read equals the one written, has its hash, and is written the same."""
    event = All(**values)
    body = event.to_json()
    read = All.from_json(body)
    assert read == event
    assert hash(read) == hash(event)
    assert read.to_json() == body
    assert [type(value) for _, value in read] == [type(value) for _, value in event]
    assert (
        All.from_json(canonical_json(body)).model_copy(
            update={"raw": event.raw, "maybe_raw": event.maybe_raw}
        )
        == event
    )


ANYTHING: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.datetimes()
    | MOMENT
    | st.timedeltas()
    | st.times(timezones=st.none() | st.timezones())
    | st.dates()
    | st.uuids()
    | RAW,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


NOON = datetime.fromisoformat("2024-01-01T12:00:00Z")
EXAMPLE: dict[str, Any] = {
    "text": "",
    "whole": 0,
    "big": 0,
    "as_text": 0,
    "real": 0.0,
    "flag": True,
    "data": b"",
    "price": Decimal(1),
    "ident": UUID(int=1),
    "moment": NOON,
    "day": date(2024, 1, 1),
    "clock": time(),
    "span": timedelta(),
    "colour": Colour.RED,
    "literal": "a",
    "either": 1,
    "number": 1,
    "numbers": (),
    "pair": ("", Decimal(1)),
    "labels": {},
    "nested": {},
    "line": Line(sku="", when=NOON, data=b""),
    "lines": (),
    "pay": Card(price=Decimal(1)),
    "tree": Tree(value=1),
    "raw": RawJson(b"1"),
    "maybe_raw": None,
    "maybe": None,
    "Named-ä": "",
    "small": 1,
}


@settings(suppress_health_check=ALL_CHECKS, deadline=None, max_examples=300)
@given(field=st.sampled_from(sorted(VALUES)), value=ANYTHING)
def test_anything_is_refused_or_read_again(field: str, value: Any) -> None:
    """A value of any type in any field is refused when made, or survives the wire."""
    try:
        event = All(**{**EXAMPLE, field: value})
    except ValidationError:
        return
    read = All.from_json(event.to_json())
    assert read == event
    assert hash(read) == hash(event)


def same(value: Any) -> Any:
    return value


def passed_on(value: Any, handler: Callable[[Any], Any]) -> Any:
    return handler(value)


def passed_on_by_model(cls: Any, value: Any, handler: Callable[[Any], Any]) -> Any:
    return handler(value)


FIELD_VALIDATORS: dict[str, Any] = {
    "before": BeforeValidator(same),
    "wrap": WrapValidator(passed_on),
    "after": AfterValidator(same),
}
CLASSMETHOD: Any = classmethod  # pydantic's types know none of a function that stands by itself
MODEL_VALIDATORS: dict[str, Any] = {
    "before": model_validator(mode="before")(same),
    "wrap": model_validator(mode="wrap")(CLASSMETHOD(passed_on_by_model)),
    "after": model_validator(mode="after")(same),
}
TYPES: dict[str, Any] = {
    name: Annotated[cast("Any", info.annotation), info] for name, info in All.model_fields.items()
}
LOOKED_AT = [
    (name, level, mode)
    for name in sorted(VALUES.keys() - {"Named-ä"})
    for level in ("field", "event", "part", "field of the part", "the part")
    for mode in ("before", "wrap", "after")
    # RawJson is for an event's own field, and what runs before it is refused.
    if "raw" not in name or (mode == "after" and level in ("field", "event"))
]


def looked_at(name: str, level: str, mode: str) -> type[Event]:
    """A class whose field has validators that change nothing on one level."""
    made: Any = create_model  # whose overloads don't know what is passed on
    of_field, of_model = FIELD_VALIDATORS[mode], {"same": MODEL_VALIDATORS[mode]}
    field = {"value": (Annotated[TYPES[name], of_field], ...)}
    plain = {"value": (TYPES[name], ...)}
    if level == "field":
        return cast("type[Event]", made("Made", __base__=Event, **field))
    if level == "event":
        return cast("type[Event]", made("Made", __base__=Event, __validators__=of_model, **plain))
    if level == "part":
        part = made("Inner", __base__=Part, __validators__=of_model, **plain)
    else:
        part = made("Inner", __base__=Part, **(plain if level == "the part" else field))
    several: Any = tuple.__class_getitem__((part, ...))
    parts = Annotated[several, of_field] if level == "the part" else several
    return cast("type[Event]", made("Made", __base__=Event, parts=(parts, ...)))


@pytest.mark.parametrize(("name", "level", "mode"), LOOKED_AT)
def test_validators_that_change_nothing(name: str, level: str, mode: str) -> None:
    """With a validator of any kind anywhere, what is written is read again as it was."""
    cls = looked_at(name, level, mode)
    made: Any = cls
    parts = cls.model_fields.get("parts")
    part: Any = None if parts is None else get_args(parts.annotation)[0]

    @settings(suppress_health_check=ALL_CHECKS, deadline=None, max_examples=8)
    @given(value=VALUES[name])
    def check(value: Any) -> None:
        event = made(value=value) if part is None else made(parts=(part(value=value),))
        body = event.to_json()
        read = cls.from_json(body)
        assert read == event
        assert hash(read) == hash(event)
        assert read.to_json() == body
        assert cls.model_validate_json(body) == event

    check()


LONE = "\udce9"


class Named(Part):
    name: str = ""
    names: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}


def wrapped(before: Callable[[Any], Any]) -> dict[str, Any]:
    """Validators of a field and of a model that hand on something else than what they got."""

    def around(value: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(before(value))

    def around_model(cls: Any, value: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(before(value))

    return {
        "field before": BeforeValidator(before),
        "field wrap": WrapValidator(around),
        "model before": model_validator(mode="before")(before),
        "model wrap": model_validator(mode="wrap")(CLASSMETHOD(around_model)),
    }


@pytest.mark.parametrize("mode", ["before", "wrap"])
@pytest.mark.parametrize("level", ["event", "part", "field", "field of the event"])
@pytest.mark.parametrize(
    "spoiled",
    [{"name": LONE}, {"names": ["a", LONE]}, {"labels": {"a": LONE}}, {"labels": {LONE: "a"}}],
    ids=ascii,
)
def test_a_validator_lets_in_no_text_without_utf8(
    spoiled: dict[str, Any], level: str, mode: str
) -> None:
    """A lone surrogate from a validator that runs first is refused, made or read."""
    made: Any = create_model
    key, value = next(iter(spoiled.items()))
    info = Named.model_fields[key]
    of_model = {"spoil": wrapped(lambda _: spoiled)[f"model {mode}"]}
    values: dict[str, Any] = {"part": {}}
    if level == "event":
        field = {key: (info.annotation, info.default)}
        bad = made("Bad", __base__=Event, __validators__=of_model, **field)
        values = {key: info.default}
    elif level == "part":
        part = made("Inner", __base__=Named, __validators__=of_model)
        bad = made("Bad", __base__=Event, part=(part, ...))
    elif level == "field":
        validator = wrapped(lambda _: spoiled)[f"field {mode}"]
        bad = made("Bad", __base__=Event, part=(Annotated[Named, validator], ...))
    else:
        validator = wrapped(lambda _: value)[f"field {mode}"]
        bad = made("Bad", __base__=Event, **{key: (Annotated[info.annotation, validator], ...)})
        values = {key: info.default}
    with pytest.raises(EventDecodeError, match="unicode"):
        bad.from_json(to_json(values))
    with pytest.raises(ValidationError):
        bad(**values)


@pytest.mark.parametrize(
    "handed_on",
    [{"a"}, iter("a"), {"a": 1}.keys(), re.match("a", "a"), "a", b"a"],
    ids=lambda value: type(value).__name__,
)
def test_a_validator_hands_on_an_array_or_none(handed_on: object) -> None:
    """For a tuple a validator that runs first gives a list or a tuple, made or read."""
    validator = BeforeValidator(lambda _: handed_on)
    bad: Any = create_model(
        "Bad", __base__=Event, field=(Annotated[tuple[str, ...], validator], ...)
    )
    with pytest.raises(EventDecodeError, match=r"valid (tuple|array)"):
        bad.from_json(b'{"field":[]}')
    with pytest.raises(ValidationError):
        bad(field=())
