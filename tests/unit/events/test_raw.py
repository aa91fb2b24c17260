"""Values that are kept as the bytes they came in."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)

from eventflow.errors import EventDecodeError, EventDefinitionError
from eventflow.events import Event, Part, RawJson
from eventflow.events._cut import value_spans
from tests.unit.events.cpu import PROMISED_S, SLACK, cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable

WEBHOOKS = Path(__file__).parents[4] / "shared" / "data" / "github-webhooks.jsonl"


class Address(Part):
    city: str


class Shipped(Event, topic="shipped"):
    first: int = 0
    shipping: RawJson
    note: str | None = None
    extra: RawJson | None = None
    other: RawJson | None = Field(alias="Other")
    last: int = 1


class Envelope(Event, topic="envelope"):
    event: str
    payload: RawJson


VALUES = [
    b"1e2",
    b"-0.0",
    b"100000000000000000000000",
    b'"\\u00e9 \\" ] } , "',
    b'""',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'{ "a" : [ 1 , { "b" : "}" } ] }',
    b'[[[[[[[[[[[[1]]]]]]]]]]],"]"]',
    '{"é":"😀"}'.encode(),
    b'{"a":1,"a":2}',
    b"[" * 198 + b"]" * 198,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: v[:30].decode())
def test_bytes_are_cut_and_put_back(value: bytes) -> None:
    """The value's bytes are what stood in the body, and stand in the body again."""
    body = b'{"first":7,"shipping":' + value + b',"Other":' + value + b',"last":1}'
    event = Shipped.from_json(body)
    assert bytes(event.shipping) == value
    assert event.other == (None if value == b"null" else RawJson(value))
    assert event.to_json() == body
    assert Shipped.from_json(event.to_json()) == event
    blanks = b' {\n"last" :1 , "shipping"\t:  ' + value + b'\r\n ,"Other":' + value + b"} "
    assert bytes(Shipped.from_json(blanks).shipping) == value


@pytest.mark.parametrize(
    "event",
    [
        Shipped(shipping=RawJson(b"1"), Other=None),
        Shipped(shipping=RawJson(b"null"), note="n", extra=RawJson(b"2"), Other=RawJson(b"3")),
    ],
    ids=["none", "all"],
)
def test_order_and_omission(event: Shipped) -> None:
    """Raw fields stand in declared order, and are left out or null by the common rule."""
    keys = ["first", "shipping", "note", "extra", "Other", "last"]
    written = json.loads(event.to_json())
    expected = [k for k in keys if k in written]
    assert list(written) == expected
    assert ("extra" in written) == (event.extra is not None)
    assert written["Other"] is None or event.other is not None
    assert Shipped.from_json(event.to_json()) == event


@pytest.mark.skipif(not WEBHOOKS.exists(), reason="the recorded webhooks are not here")
def test_recorded_webhooks_are_byte_identical() -> None:
    """Every recorded body comes out of an event as the bytes that went in."""
    lines = WEBHOOKS.read_bytes().splitlines()
    assert lines
    for line in lines:
        event = Envelope.from_json(line)
        start = line.index(b'"payload":') + len(b'"payload":')
        assert bytes(event.payload) == line[start:-1]
        assert event.to_json() == line
        assert json.loads(bytes(event.payload)) == json.loads(line)["payload"]
    bodies = [b'{"event":"x","payload": ' + line + b" }" for line in lines]
    for body, line in zip(bodies, lines, strict=True):
        assert bytes(Envelope.from_json(body).payload) == line


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"event":"e","payl\\u006fad":[1]}', b"[1]"),
        (b'{"payload":[1],"event":"e","payload":[2]}', b"[2]"),
        (b'{"x":{"payload":3},"event":"payload","payload":4}', b"4"),
        (b'{"event":"\\"payload\\":5","payload":"}"}', b'"}"'),
        (b'{"unknown":[{"a":"]"}],"event":"e","payload":0}', b"0"),
    ],
)
def test_keys_are_found_where_they_are(body: bytes, value: bytes) -> None:
    """Only a key of the object itself counts, escaped or not, and of two the last one."""
    assert bytes(Envelope.from_json(body).payload) == value


BROKEN = [
    b'{"event":"e","payload":}',
    b'{"event":"e","payload":[1,]}',
    b'{"event":"e","payload":[1}}',
    b'{"event":"e","payload":{1]}',
    b'{"event":"e","payload":[NaN]}',
    b'{"event":"e","payload":Infinity}',
    b'{"event":"e","payload":"\xff"}',
    b'{"event":"e","payload":"\\ud800"}',
    b'{"event":"e","payload":01}',
    b'{"event":"e","payload":1 2}',
    b'{"event":"e","payload":1,"x":2,}',
    b'{"event":"e","payload":1} x',
    b'{"event":"e","payload":1',
    b'{"event":"e","payload":"a',
    b'{"event":"e","payload":[[[1]]',
    b'{"event":"e","payload":tru}',
    b'{"event":"e" "payload":1}',
    b'{event:"e","payload":1}',
    b'["payload",1]',
    b"",
    b"\xef\xbb\xbf{}",
    b'{"event":"e","payload":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    b'{"event":"e","payload":' + b"1" * 10**6 + b"}",
    b'{"event":"e","payload":"a\nb"}',
]


@pytest.mark.parametrize("body", BROKEN, ids=lambda v: ascii(v[:50]))
@pytest.mark.fault("INP-02")
def test_broken_bodies(body: bytes) -> None:
    """A broken body is a typed error with the offset in the whole body, in time."""

    def refused() -> EventDecodeError:
        with pytest.raises(EventDecodeError) as caught:
            Envelope.from_json(body)
        return caught.value

    assert cpu_s(refused) < PROMISED_S * SLACK
    error = refused()
    assert len(str(error)) < 500
    if error.expected == "JSON":
        assert error.offset is not None
        assert 0 <= error.offset <= len(body)


def test_missing_raw_field() -> None:
    """A raw field that is not there is missing like any other; the error has its path."""
    with pytest.raises(EventDecodeError) as caught:
        Envelope.from_json(b'{"event":"e"}')
    assert caught.value.path == "payload"


def test_offset_behind_a_cut() -> None:
    """The offset of an error behind a raw value counts the bytes of the value."""
    body = b'{"event":"e","payload":{"long":"value"},"x":tru}'
    with pytest.raises(EventDecodeError) as caught:
        Envelope.from_json(body)
    assert caught.value.offset is not None
    assert body.index(b"tru") <= caught.value.offset <= body.index(b"tru") + 3


def test_constructor() -> None:
    """It takes bytes of one document, without the blanks around it, and nothing else."""
    assert bytes(RawJson(b" \n[1] ")) == b"[1]"
    assert bytes(RawJson(bytearray(b"1"))) == bytes(RawJson(memoryview(b"1"))) == b"1"
    assert len(RawJson(b"[1]")) == 3
    for bad in (b"", b"{", b"1,2", b'1,"x":2', b"NaN", b'"\xff"', b"[" * 202 + b"]" * 202):
        with pytest.raises(EventDecodeError, match="RawJson"):
            RawJson(bad)
    with pytest.raises(TypeError, match="bytes"):
        RawJson("1")  # type: ignore[arg-type]
    for value in ("1", b"1", 1, {"a": 1}):
        with pytest.raises(ValidationError):
            Envelope(event="e", payload=value)  # type: ignore[arg-type]


def test_null_in_an_optional_field_is_none() -> None:
    """Where None can be, null is None, so RawJson(b"null") is refused there and kept elsewhere."""
    with pytest.raises(ValidationError, match="give None"):
        Shipped(shipping=RawJson(b"null"), Other=RawJson(b"null"))
    assert Shipped.from_json(b'{"shipping":null,"Other":null}').other is None


def test_value() -> None:
    """Equality, hash, copy, pickle and repr are of the bytes; it can't be changed."""
    raw = RawJson(b'{"a": 1}')
    assert raw == RawJson(b'{"a": 1}')
    assert raw != RawJson(b'{"a":1}')
    assert raw != b'{"a": 1}'
    assert hash(raw) == hash(RawJson(b'{"a": 1}'))
    assert copy.copy(raw) is copy.deepcopy(raw) is raw
    assert pickle.loads(pickle.dumps(raw)) == raw
    assert repr(raw) == "RawJson(b'{\"a\": 1}')"
    assert len(repr(RawJson(b'"' + b"x" * 1000 + b'"'))) < 100
    with pytest.raises(AttributeError):
        raw._data = b"2"  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(AttributeError):
        del raw._data  # pyright: ignore[reportPrivateUsage]


def test_decode() -> None:
    """It is validated against a model now, with an error of the common kind."""
    assert RawJson(b'{"city":"X","new":1}').decode(Lenient) == Lenient(city="X")
    assert RawJson(b'{"city":"X"}').decode(Address) == Address(city="X")
    with pytest.raises(EventDecodeError) as caught:
        RawJson(b'{"city":5}').decode(Address)
    assert (caught.value.path, caught.value.found) == ("city", "5")


def test_decode_passes_unknown_fields_over() -> None:
    """A part read out of a raw value is read as tolerantly as one inside an event."""
    assert RawJson(b'{"city":"X","new":1}').decode(Address) == Address(city="X")


class Lenient(BaseModel):
    city: str


def test_pydantic_routes() -> None:
    """model_validate_json keeps the bytes; a route that can't says so instead of losing them."""
    body = b'{"event":"e","payload":[1e2]}'
    assert bytes(Envelope.model_validate_json(body).payload) == b"[1e2]"
    assert bytes(Envelope.model_validate_json(body.decode()).payload) == b"[1e2]"
    with pytest.raises(ValidationError, match="from_json"):
        TypeAdapter(list[Envelope]).validate_json(b"[" + body + b"]")
    with pytest.raises(ValidationError, match="Invalid JSON"):
        Envelope.model_validate_json(b'{"event":"e","payload":[}')
    event = Envelope.from_json(body)
    assert event.model_dump(mode="json") == {"event": "e", "payload": [100.0]}
    assert event.model_dump() == {"event": "e", "payload": RawJson(b"[1e2]")}
    assert Envelope.model_json_schema()["properties"]["payload"] == {"title": "Payload"}


def test_validators_see_the_value() -> None:
    """A validator of a raw field gets the bytes, also while another event is being read."""

    class Outer(Event, topic="outer"):
        payload: RawJson
        second: RawJson

        @field_validator("payload")
        @classmethod
        def read_inside(cls, value: RawJson) -> RawJson:
            inner = Envelope.from_json(b'{"event":"e","payload":[9]}')
            assert bytes(inner.payload) == b"[9]"
            return value

    event = Outer.from_json(b'{"payload":[1],"second":[2]}')
    assert (bytes(event.payload), bytes(event.second)) == (b"[1]", b"[2]")


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(value=JSON, before=JSON, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_any_value_is_cut_exactly(
    value: object, before: object, indent: int | None, ascii_only: bool
) -> None:
    """Whatever stands around a value, its span is exactly its bytes."""
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    other = json.dumps(before, indent=indent, ensure_ascii=ascii_only).encode()
    start = b'{"event":"e","a":' + other + b',"payload":\n'
    body = start + raw + b' ,"b":' + other + b"}"
    assert value_spans(body, {b"payload"}) == [(b"payload", len(start), len(start) + len(raw))]
    assert bytes(Envelope.from_json(body).payload) == raw


@pytest.mark.fault("INP-02")
@pytest.mark.parametrize(
    "body",
    [
        b'{"payload":' + b'{"a":' * 10**5,
        b"{" + b'"a":1,' * 20_000 + b'"b":2}',
        b'{"payload":"' + b'\\"' * 300_000,
        b'{"payload":["' + b'"' * 300_001,
        b'{"payload":' + b"]" * 10**5,
        b'{"payload":[' + b"[]," * 100_000 + b"1]}",
        b'{"payload":' + b" " * 10**6,
    ],
    ids=lambda v: ascii(v[:25]),
)
def test_cutting_takes_bounded_time(body: bytes) -> None:
    """Looking for the ends takes linear time, and nesting does not make it recurse."""
    assert cpu_s(lambda: value_spans(body, {b"payload"})) < PROMISED_S * SLACK


@pytest.mark.parametrize(
    "alias", [AliasChoices("y", AliasPath("a", 0)), AliasChoices("y", "field"), AliasPath("y")]
)
def test_raw_json_has_one_key(alias: Any) -> None:
    """Any other place than a key of its own could have the bytes of another field."""
    options: Any = Field(validation_alias=alias, serialization_alias="y")
    with pytest.raises(EventDefinitionError, match="alias=") as caught:
        create_model("Bad", __base__=Event, field=(RawJson, options))
    assert caught.value.path == "field"


class Renamed(Event, topic="renamed"):
    first: RawJson = Field(alias="x")
    second: RawJson


def test_raw_json_is_cut_by_the_name_of_its_field() -> None:
    """Where names are read as well as aliases, the bytes are still those of the document."""
    body = b'{"second": {"secret": 1}, "first": 0}'
    for by_alias in (True, False):
        event = Renamed.model_validate_json(body, by_alias=by_alias, by_name=True)
        assert (bytes(event.first), bytes(event.second)) == (b"0", b'{"secret": 1}')
    with pytest.raises(ValidationError, match="x"):
        Renamed.model_validate_json(body)


@pytest.mark.parametrize(
    "alias",
    [
        AliasChoices("other", "x"),
        AliasChoices("other", AliasPath("x", "n")),
        AliasChoices(AliasPath("x", 0), "other"),
        AliasChoices("other", "first"),
    ],
)
def test_a_key_of_raw_json_is_no_other_field_s(alias: Any) -> None:
    """Another field that reads the key would get what stands for the bytes."""
    options: Any = Field(validation_alias=alias, serialization_alias="other", default=1)
    with pytest.raises(EventDefinitionError, match="RawJson") as caught:
        create_model("Bad", __base__=Renamed, other=(int, options))
    assert caught.value.path == "other"


def test_a_number_is_no_raw_json() -> None:
    """A document of the user's that is read meanwhile can't name a value of this one."""
    found: list[str] = []

    class Outer(Event, topic="outer"):
        payload: RawJson
        count: int

        @field_validator("count")
        @classmethod
        def read_inside(cls, value: int) -> int:
            for number in range(3):
                with pytest.raises(ValidationError) as caught:
                    TypeAdapter(Envelope).validate_json(b'{"event":"e","payload":%d}' % number)
                found.append(caught.value.errors()[0]["type"])
            return value

    assert bytes(Outer.from_json(b'{"payload":[1],"count":2}').payload) == b"[1]"
    assert found == ["raw_json"] * 3


@pytest.mark.parametrize("validator", [BeforeValidator(id), WrapValidator(lambda v, h: h(v))])
def test_validators_before_raw_json(validator: Any) -> None:
    """While a body is read there are no bytes yet that such a validator could see."""
    with pytest.raises(EventDefinitionError, match="after") as caught:
        create_model("Bad", __base__=Event, field=(Annotated[RawJson, validator], ...))
    assert caught.value.path == "field"


def bracketed(raw: RawJson) -> RawJson:
    return RawJson(b"[%b]" % bytes(raw))


@pytest.mark.parametrize("result", [{"changes": []}, 7, b"7", "7", None], ids=repr)
def test_what_a_validator_makes_of_raw_json_is_checked(result: object) -> None:
    """Anything else than RawJson is refused, made or read."""

    class Bad(Event, topic="bad"):
        field: RawJson

        @field_validator("field")
        @classmethod
        def make(cls, raw: RawJson) -> object:
            return result

    check_refused(Bad)


@pytest.mark.parametrize("result", [{"changes": []}, None], ids=repr)
def test_what_the_last_of_two_validators_makes_is_checked(result: object) -> None:
    """Also behind another one, which keeps to the rules."""

    class Bad(Event, topic="bad"):
        field: Annotated[RawJson, AfterValidator(bracketed)]

        @field_validator("field")
        @classmethod
        def make(cls, raw: RawJson) -> object:
            assert bytes(raw) == b"[1]"
            return result

    check_refused(Bad)


def check_refused(bad: Any) -> None:
    with pytest.raises(ValidationError, match="RawJson"):
        bad(field=RawJson(b"1"))
    with pytest.raises(EventDecodeError, match="RawJson") as caught:
        bad.from_json(b'{"field":1}')
    assert caught.value.path == "field"


class BracketedOutside(Event, topic="bracketed"):
    field: Annotated[RawJson | None, AfterValidator(lambda raw: raw and bracketed(raw))] = None


class BracketedInside(Event, topic="bracketed"):
    field: Annotated[RawJson, AfterValidator(bracketed)] | None = None


@pytest.mark.parametrize("made", [BracketedOutside, BracketedInside])
def test_a_validator_can_give_other_raw_json(made: Any) -> None:
    """What it returns is the value, and is written; None where None can be."""
    assert bytes(made.from_json(b'{"field":1}').field) == b"[1]"
    assert made(field=RawJson(b"1")).to_json() == b'{"field":[1]}'
    assert made(field=RawJson(b"1")).model_dump(mode="json") == {"field": [1]}
    assert made().field is made(field=None).field is made.from_json(b'{"field":null}').field is None
    for mode in ("validation", "serialization"):
        assert made.model_json_schema(mode=mode)["properties"].keys() == {"field"}


def test_null_from_a_validator() -> None:
    """Where None can be, a validator can't return what would be read as None."""
    null = Annotated[RawJson | None, AfterValidator(lambda raw: RawJson(b"null"))]
    made: Any = create_model("Made", __base__=Event, field=(null, None))
    with pytest.raises(ValidationError, match="give None"):
        made(field=RawJson(b"1"))


def test_the_error_of_a_validator_has_no_placeholder() -> None:
    """What came is RawJson, and not the number that stood for it."""

    def refused(raw: RawJson) -> RawJson:
        raise ValueError("no")

    bad: Any = create_model(
        "Bad", __base__=Event, field=(Annotated[RawJson, AfterValidator(refused)], ...)
    )
    with pytest.raises(EventDecodeError) as caught:
        bad.from_json(b'{"field":{"a":1}}')
    assert caught.value.found == "RawJson"


def looked_at_before() -> type[Event]:
    class Bad(Event, topic="bad"):
        field: RawJson

        @model_validator(mode="before")
        @classmethod
        def look(cls, value: object) -> object:
            return value

    return Bad


def looked_at_around() -> type[Event]:
    class Bad(Event, topic="bad"):
        field: RawJson

        @model_validator(mode="wrap")
        @classmethod
        def look(cls, value: object, handler: Callable[[object], Bad]) -> Bad:
            return handler(value)

    return Bad


@pytest.mark.parametrize("define", [looked_at_before, looked_at_around])
def test_a_model_validator_that_would_not_see_the_bytes_is_refused(
    define: Callable[[], type[Event]],
) -> None:
    """A validator of the whole model that runs first would see what stands for RawJson."""
    with pytest.raises(EventDefinitionError, match=r"Bad\.field: a before or wrap .* after"):
        define()


def test_a_model_validator_that_runs_after_sees_the_bytes() -> None:
    """Made or read, the validator gets the whole event."""
    seen: list[bytes] = []

    class Checked(Event, topic="checked"):
        field: RawJson

        @model_validator(mode="after")
        def look(self) -> Checked:
            seen.append(bytes(self.field))
            return self

    Checked(field=RawJson(b"1e2"))
    Checked.from_json(b'{"field": 1e3}')
    assert seen == [b"1e2", b"1e3"]
