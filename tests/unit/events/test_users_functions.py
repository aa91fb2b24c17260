"""Validators of the user's: identity ones change nothing, and others can't break the rules."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BeforeValidator,
    Field,
    ValidationError,
    WrapValidator,
    create_model,
    field_validator,
    model_validator,
)

from eventflow.errors import EventDecodeError, EventDefinitionError
from eventflow.events import Event, Part, RawJson
from tests.unit.events.cpu import cpu_s


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Line(Part):
    sizes: tuple[int, ...] = ()
    note: str | None = None


def made(name: str, base: Any = Event, validators: Any = None, **fields: Any) -> Any:
    """A class with these fields, each a type and a default."""
    model = cast("Any", create_model)
    return model(name, __base__=base, __validators__=validators, **fields)


def annotated(kind: Any, *what: Any) -> Any:
    return Annotated[(kind, *what)]


def same(value: Any) -> Any:
    return value


def around(value: Any, handler: Callable[[Any], Any]) -> Any:
    return handler(value)


VALUES: list[tuple[Any, Any]] = [
    (str, "é"),
    (int, -3),
    (float, 1.5),
    (bool, True),
    (bytes, b"\x00\xff"),
    (Decimal, Decimal("1.50")),
    (UUID, UUID(int=7)),
    (date, date(2024, 2, 29)),
    (datetime, datetime(2024, 2, 29, 12, tzinfo=UTC)),
    (timedelta, timedelta(seconds=-1)),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Mixed, Mixed.ONE),
    (Literal["a", "b"], "b"),
    (str | None, None),
    (int | str, "3"),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (tuple[tuple[str, ...], ...], (("a",), ())),
    (Mapping[str, tuple[int, ...]], {"a": (1,)}),
    (Mapping[str, Mapping[str, str]], {"a": {"b": "c"}}),
    (Line, Line(sizes=(1,))),
    (tuple[Line, ...], (Line(sizes=(1, 2), note="n"),)),
]
ids = [str(kind) for kind, _ in VALUES]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
@pytest.mark.parametrize(
    "validator", [BeforeValidator(same), WrapValidator(around), AfterValidator(same)]
)
def test_a_field_behind_an_identity_validator(kind: Any, value: Any, validator: Any) -> None:
    """What is written is read again, as without it."""
    model = made("E", field=(annotated(kind, validator), ...))
    event = model(field=value)
    assert model.from_json(event.to_json()) == event
    assert model.model_validate_json(event.to_json()) == event


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=ids)
@pytest.mark.parametrize("mode", ["before", "wrap"])
def test_a_model_behind_an_identity_validator(kind: Any, value: Any, mode: str) -> None:
    """The same for a validator of the whole event, and of a part."""

    def before(cls: object, data: Any) -> Any:
        return data

    def wrap(cls: object, data: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(data)

    functions: dict[str, Any] = {"before": classmethod(before), "wrap": classmethod(wrap)}
    decorate = cast("Any", model_validator)(mode=mode)
    given = {"same": decorate(functions[mode])}
    part = made("P", Part, given, field=(kind, ...))
    model = made("E", validators=given, field=(kind, ...), part=(part, ...))
    event = model(field=value, part=part(field=value))
    assert model.from_json(event.to_json()) == event


@pytest.mark.parametrize("where", ["field", "model", "part", "part of a model", "mapping"])
def test_text_that_has_no_utf8_is_refused_from_a_validator(where: str) -> None:
    """Also while JSON is read, where the parser lets no such text through."""

    def spoil(data: Any) -> Any:
        return "\udc80"

    def spoil_key(data: Any) -> Any:
        return {"\udc80": "v"}

    class Spoiled(Part):
        text: str

        @field_validator("text", mode="before")
        @classmethod
        def spoil(cls, value: object) -> object:
            return "\udc80"

    class Plain(Part):
        text: str

    if where == "field":
        model: Any = create_model(
            "E", __base__=Event, x=(Annotated[str, BeforeValidator(spoil)], 0)
        )
        body = b'{"x":"a"}'
    elif where == "mapping":
        kind = annotated(Mapping[str, str], BeforeValidator(spoil_key))
        model, body = made("E", x=(kind, ...)), b'{"x":{}}'
    elif where == "part":
        model, body = made("E", x=(Spoiled, ...)), b'{"x":{"text":"a"}}'
    else:

        class E(Event, topic="e"):
            x: str = ""
            p: Plain = Plain(text="")

            @model_validator(mode="before")
            @classmethod
            def spoil(cls, data: object) -> object:
                return {"x": "\udc80"} if where == "model" else {"p": {"text": "\udc80"}}

        model, body = E, b"{}"
    with pytest.raises(EventDecodeError, match="string"):
        model.from_json(body)


@pytest.mark.parametrize("body", [b"true", b"1.0", b"1e0", b'"1"', b"3", b"null"])
@pytest.mark.parametrize("kind", [Level, Mixed])
def test_an_enum_of_integers_is_exact(kind: Any, body: bytes) -> None:
    """A bool or a float is no int."""
    model = made("E", x=(kind, ...))
    assert model.from_json(b'{"x":1}').x == kind(1)
    with pytest.raises(EventDecodeError):
        model.from_json(b'{"x":' + body + b"}")
    described = model.model_json_schema()
    assert described["$defs"][kind.__name__]["enum"] == [member.value for member in kind]


# RawJson


def test_what_a_validator_makes_of_raw_json_is_checked() -> None:
    """It has to be RawJson again."""

    def change(raw: Any) -> Any:
        return {"a": []}

    def wrap(raw: Any) -> Any:
        return RawJson(b"[%s]" % bytes(raw))

    for kind in (RawJson, RawJson | None):
        bad = made("Bad", x=(annotated(kind, AfterValidator(change)), ...))
        with pytest.raises(EventDecodeError, match="RawJson"):
            bad.from_json(b'{"x":1}')
        with pytest.raises(ValidationError, match="RawJson"):
            bad(x=RawJson(b"1"))
        good = made("Good", x=(annotated(kind, AfterValidator(wrap)), ...))
        event = good.from_json(b'{"x": 1e2}')
        assert event.to_json() == b'{"x":[1e2]}'
        assert event.model_dump(mode="json") == {"x": [100.0]}


def test_no_number_of_a_document_is_taken_for_raw_json() -> None:
    """Also where a field is read by its name: what stands there is cut, and nothing else."""

    class E(Event, topic="e"):
        a: RawJson = Field(alias="x")
        b: RawJson

    for number in range(3):
        event = E.model_validate_json(b'{"b":{"s":1},"a":%d}' % number, by_name=True)
        assert (bytes(event.a), bytes(event.b)) == (b"%d" % number, b'{"s":1}')


@pytest.mark.parametrize(
    "alias", [AliasChoices("cents", "amount"), AliasPath("amount", "cents"), "amount"]
)
def test_raw_json_shares_its_key_with_nobody(alias: Any) -> None:
    """Another field would find a placeholder there."""
    cents: Any = (int, Field(validation_alias=alias, serialization_alias="cents", default=-1))
    if isinstance(alias, str):
        cents = (int, Field(alias=alias, default=-1))
    with pytest.raises(EventDefinitionError, match=r"amount|cents"):
        made("Bad", amount=(RawJson, ...), cents=cents)


# Bodies

LevelEvent = made("LevelEvent", x=(Level, ...))


@pytest.mark.parametrize("wrong", ["{}", None, 7, ["{}"]])
def test_what_is_not_bytes(wrong: Any) -> None:
    """A TypeError that says what to pass; an int allocates nothing."""
    with pytest.raises(TypeError, match="bytes"):
        LevelEvent.from_json(wrong)


def test_a_lone_surrogate_in_text() -> None:
    """Pydantic's own error, as for any other JSON that is none."""
    with pytest.raises(ValidationError, match="unicode"):
        LevelEvent.model_validate_json('{"x":"\ud800"}')


@pytest.mark.fault("INP-02")
@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"\n" * 10**6 + b'{"x":1}?', 10**6 + 7),
        (b"\n" * 40_000 + b" " * 40_000 + b"\n{?", 80_002),
        (b'{"x":1,"y":[' + b'"",' * 250_000 + b"-Infinity]}", 750_012),
        (b'{"x":1,"y":["NaN\\"",' + b" " * 10**6 + b"NaN]}", 10**6 + 20),
    ],
    ids=["newlines", "lines of all kinds", "strings", "a string that says so"],
)
def test_where_a_long_body_is_broken(body: bytes, offset: int) -> None:
    """Exactly, and in time that grows with the body alone."""

    def refused() -> EventDecodeError:
        with pytest.raises(EventDecodeError) as caught:
            LevelEvent.from_json(body)
        return caught.value

    assert cpu_s(refused) < 1
    assert refused().offset == offset
