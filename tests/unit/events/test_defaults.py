"""A field with a default that is absent from the body has that default, whatever its type."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)

from eventflow.errors import EventDecodeError
from eventflow.events import BigInt, Event, FrozenMapping, Int64String, Part, RawJson


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Line(Part):
    price: Decimal = Decimal("1.5")
    when: datetime | None = None


class Same(Line):
    pass


class Tree(Part):
    value: Decimal = Decimal(1)
    children: tuple[Tree, ...] = ()
    named: Mapping[str, Tree] = {}


UPPER = AfterValidator(bytes.upper)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
DEFAULTS: list[tuple[Any, Any]] = [
    (str, "x"),
    (int, 1),
    (BigInt, 2**70),
    (Int64String, 5),
    (float, 1.5),
    (float, 1),
    (bool, True),
    (bytes, b"x"),
    (Decimal, Decimal("1.5")),
    (UUID, UUID(int=1)),
    (datetime, NOON),
    (datetime, NOON.astimezone(timezone(timedelta(hours=2)))),
    (date, date(2024, 1, 1)),
    (time, time(1, 2)),
    (timedelta, timedelta(seconds=1)),
    (Colour, Colour.RED),
    (Literal["a", 1], "a"),
    (int | str | None, 1),
    (int | Decimal, Decimal(1)),
    (Decimal | None, Decimal(1)),
    (datetime | None, None),
    (tuple[Decimal, ...], (Decimal(1),)),
    (tuple[Decimal, ...], [Decimal(1)]),
    (tuple[str, bytes], ("", b"x")),
    (Mapping[str, int], {"a": 1}),
    (Mapping[str, tuple[datetime, ...]], {"a": [NOON]}),
    (Line, Line(when=NOON)),
    (Line, Same(when=NOON)),
    (tuple[Line, ...], [Line(), Same(when=NOON)]),
    (Mapping[str, Line], {"a": Same(when=NOON)}),
    (Tree, Tree(children=(Tree(),))),
    (tuple[Tree | Decimal, ...], [Tree(), Decimal(2)]),
    (RawJson, RawJson(b"1e2")),
    (RawJson | None, RawJson(b"[1]")),
    (Annotated[Decimal, Field(gt=0)], Decimal(1)),
    (Annotated[bytes, UPPER], b"x"),
]


@pytest.mark.parametrize("made", [False, True], ids=["default", "factory"])
@pytest.mark.parametrize(("annotation", "default"), DEFAULTS, ids=lambda v: str(v)[:60])
def test_an_absent_field_has_its_default(annotation: Any, default: Any, *, made: bool) -> None:
    """The event that is read is the one that is made without the field, and is written as it."""
    options: Any = {"default_factory": lambda: default} if made else {"default": default}
    cls: Any = create_model("Absent", __base__=Event, value=(annotation, Field(**options)))
    event = cls()
    read = cls.from_json(b"{}")
    assert read == event
    assert hash(read) == hash(event)
    assert type(read.value) is type(event.value)
    assert event == cls(value=default)
    assert cls.from_json(event.to_json()) == event
    assert cls.model_validate_json(b"{}") == event
    assert not read.model_fields_set


@pytest.mark.parametrize(("annotation", "default"), DEFAULTS, ids=lambda v: str(v)[:60])
def test_the_json_schema_has_the_default(annotation: Any, default: Any) -> None:
    """It stands there as it is written, whatever its type, without a warning."""
    cls: Any = create_model("Absent", __base__=Event, value=(annotation, default))
    written = json.loads(cls().to_json())
    for mode in ("validation", "serialization"):
        described = cls.model_json_schema(mode=mode)["properties"]["value"]
        if annotation == Annotated[bytes, UPPER]:  # what it makes may depend on other fields
            assert "default" not in described
        else:
            assert described["default"] == written.get("value")


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, 2**63),
        (int, None),
        (Decimal, "1.5"),
        (Decimal, Decimal("nan")),
        (bytes, "eA=="),
        (datetime, datetime(2024, 1, 1)),  # noqa: DTZ001 - what is refused
        (datetime, "2024-01-01T12:00:00Z"),
        (timedelta, 5),
        (Int64String, "5"),
        (Decimal | None, 1.5),
        (tuple[Decimal, ...], ("1",)),
    ],
    ids=str,
)
@pytest.mark.parametrize("made", [False, True], ids=["default", "factory"])
def test_a_wrong_default_is_refused(annotation: Any, default: Any, *, made: bool) -> None:
    """What can't be given can't be a default either, also not where it fits the wire."""
    options: Any = {"default_factory": lambda: default} if made else {"default": default}
    cls: Any = create_model("Wrong", __base__=Event, value=(annotation, Field(**options)))
    with pytest.raises(ValidationError) as made_error:
        cls()
    assert made_error.value.title == "Wrong"
    assert made_error.value.errors()[0]["loc"][0] == "value"
    with pytest.raises(EventDecodeError) as caught:
        cls.from_json(b"{}")
    assert caught.value.path.startswith("value")
    assert cls.model_fields["value"].is_required() is False


@given(
    st.decimals(allow_nan=False, allow_infinity=False),
    st.binary(),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones()),  # noqa: DTZ001
)
def test_any_value_can_be_a_default(price: Decimal, data: bytes, when: datetime) -> None:
    """The value of a default makes no difference."""
    cls: Any = create_model(
        "Any",
        __base__=Event,
        price=(Decimal, price),
        data=(bytes, data),
        when=(datetime | None, when),
        parts=(tuple[Line, ...], (Line(price=price),)),
    )
    assert cls.from_json(b"{}") == cls() == cls.from_json(cls().to_json())


def test_a_default_can_be_changed_by_nobody() -> None:
    """A mutable default is taken once, as what it is converted to."""
    names = {"a": Decimal(1)}
    cls: Any = create_model("Mutable", __base__=Event, names=(Mapping[str, Decimal], names))
    names["b"] = Decimal(2)
    assert cls().names == cls.from_json(b"{}").names == {"a": Decimal(1)}
    assert isinstance(cls.from_json(b"{}").names, FrozenMapping)


class Span(Event, topic="span"):
    start: Decimal
    end: Decimal = Decimal(10)
    length: Decimal = Field(default_factory=lambda data: data["end"] - data["start"])

    @field_validator("end")
    @classmethod
    def _in_order(cls, end: Decimal, info: ValidationInfo) -> Decimal:
        if end < info.data["start"]:
            raise ValueError("ends before it starts")
        return end


def test_validators_look_at_defaults() -> None:
    """A validator sees the default, and the fields before it, on both ways."""
    assert Span.from_json(b'{"start":"1"}') == Span(start=Decimal(1))
    assert Span.from_json(b'{"start":"1"}').length == Decimal(9)
    with pytest.raises(ValidationError, match="ends before"):
        Span(start=Decimal(11))
    with pytest.raises(EventDecodeError, match="ends before"):
        Span.from_json(b'{"start":"11"}')


def test_defaults_of_parts() -> None:
    """A part inside a body has its defaults too."""
    cls: Any = create_model("Parts", __base__=Event, line=(Line, ...), tree=(Tree, ...))
    read = cls.from_json(b'{"line":{},"tree":{"children":[{}]}}')
    assert read == cls(line=Line(), tree=Tree(children=(Tree(),)))
