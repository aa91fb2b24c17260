"""What is refused when a class is complete, where, and what the error says to do."""

# A class that is refused while it is made is not used.
# pyright: reportUnusedClass=false

from __future__ import annotations

import collections
import dataclasses
import enum
import ipaddress
import pathlib
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar, cast
from uuid import UUID

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    AnyUrl,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NaiveDatetime,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    RootModel,
    Secret,
    SecretStr,
    Tag,
    computed_field,
    field_serializer,
    model_serializer,
)
from typing_extensions import TypeAliasType, TypedDict

from eventflow.errors import EventDefinitionError
from eventflow.events import BigInt, Event, Int64String, Part, RawJson

T = TypeVar("T")


class Model(BaseModel):
    x: int


class Address(Part):
    city: str


class Line(Part):
    sku: str


class Other(Event, topic="other"):
    pass


class Typed(TypedDict):
    x: int


class Named(NamedTuple):
    x: int


@dataclasses.dataclass
class Data:
    x: int


class Flags(enum.Flag):
    A = 1


class FloatEnum(enum.Enum):
    A = 1.5


class Plain:
    pass


class TextEnum(enum.Enum):
    A = "a"


class Cat(Part):
    kind: Literal["cat"] = "cat"


class Dog(Part):
    kind: Literal["dog"] = "dog"


NONE: Any = Literal[None]  # noqa: PYI061 - what stands for it in a schema is no plain None
Told: Any = Annotated[Cat | Dog, Field(discriminator="kind")]
ListAlias = TypeAliasType("ListAlias", tuple[list[int], ...])

REFUSED: list[tuple[Any, str, str]] = [
    (Any, "field", "RawJson"),
    (NewType("Hidden", cast("type[object]", Any)), "field", "RawJson"),
    (T, "field", "RawJson"),
    (object, "field", "RawJson"),
    (list[int], "field", "tuple[T, ...]"),
    (list, "field", "tuple[T, ...]"),
    (dict[str, int], "field", "Mapping[str, T]"),
    (dict[str, Any], "field", "Mapping[str, T]"),
    (dict, "field", "Mapping[str, T]"),
    (set[int], "field", "tuple[T, ...]"),
    (frozenset[int], "field", "tuple[T, ...]"),
    (collections.deque[int], "field", "tuple[T, ...]"),
    (collections.defaultdict[str, int], "field", "Mapping"),
    (collections.OrderedDict[str, int], "field", "Mapping"),
    (MutableMapping[str, int], "field", "Mapping"),
    (Sequence[int], "field", "tuple[T, ...]"),
    (Iterable[int], "field", "tuple[T, ...]"),
    (tuple, "field", "RawJson"),
    (Mapping, "field", "RawJson"),
    (Mapping[str, Any], "field{}", "RawJson"),
    (Mapping[int, str], "field", "Mapping[str, T]"),
    (tuple[list[int], ...], "field[]", "tuple[T, ...]"),
    (tuple[int, dict[str, int]], "field[]", "Mapping"),
    (int | list[int], "field", "tuple"),
    (Mapping[str, tuple[Model, ...]], "field{}[]", "(Part)"),
    (ListAlias, "field[]", "tuple"),
    (Model, "field", "class Model(Part)"),
    (Other, "field", "use a Part"),
    (Typed, "field", "Part"),
    (Named, "field", "Part"),
    (Data, "field", "Part"),
    (NaiveDatetime, "field", "use datetime"),
    (SecretStr, "field", "SecretStr is not for events: it is written as asterisks"),
    (Secret[int] | None, "field", "Secret[int] is not for events: it is written as asterisks"),
    (complex, "field", "Part"),
    (bytearray, "field", "bytes"),
    (Callable[[int], int], "field", "functions"),
    (type, "field", "str"),
    (Plain, "field", "Part"),
    (pathlib.Path, "field", "str"),
    (ipaddress.IPv4Address, "field", "str"),
    (AnyUrl, "field", "str"),
    (Flags, "field", "int"),
    (FloatEnum, "field", "str or an int64"),
    (Literal[TextEnum.A], "field", "mixed in"),
    (Literal[2**63], "field", "int64"),
    (Literal[b"x"], "field", "str"),
    (tuple[RawJson, ...], "field[]", "event itself"),
    (int | RawJson, "field", "event itself"),
    (str | datetime, "field", "discriminator"),
    (str | bytes, "field", "discriminator"),
    (Decimal | UUID, "field", "discriminator"),
    (int | Annotated[str, PlainValidator(str)], "field", "before or after"),
    (str | Int64String, "field", "discriminator"),
    (TextEnum | str, "field", "discriminator"),
    (Annotated[int | str, Field(title="x")] | datetime, "field", "discriminator"),
    (Annotated[int | None, AfterValidator(abs)] | NONE, "field", "discriminator"),
    (Annotated[datetime, AfterValidator(str)] | str, "field", "discriminator"),
    (Address | Line, "field", "Field(discriminator="),
    (Told | Address, "field", "Field(discriminator="),
    (Address | Mapping[str, str], "field", "discriminator"),
    (tuple[int, ...] | tuple[str, ...], "field", "discriminator"),
    (Annotated[int, PlainSerializer(str)], "field", "read back"),
    (Annotated[int, PlainValidator(int)], "field", "before or after"),
    (Annotated[int, Field(strict=False)], "field", "strict"),
    (Annotated[int, Field(exclude=True)], "field", "drop it"),
    (Annotated[int, Field(serialization_alias="Field")], "field", "alias="),
    (Annotated[int, Field(validation_alias="Field")], "field", "alias="),
    (Annotated[int, Field(validation_alias=AliasPath("b", 0))], "field", "alias="),
    (
        Annotated[int, Field(validation_alias=AliasChoices("a", AliasPath("b", 0)))],
        "field",
        "alias=",
    ),
]


@pytest.mark.parametrize(("annotation", "path", "remedy"), REFUSED, ids=lambda v: str(v)[:60])
@pytest.mark.parametrize("base", [Event, Part], ids=["event", "part"])
def test_refused_types(annotation: Any, path: str, remedy: str, base: type[BaseModel]) -> None:
    """Each type that could change, or says nothing, is refused with its path and a remedy."""
    with pytest.raises(EventDefinitionError) as caught:
        type("Bad", (base,), {"__annotations__": {"field": annotation}, "__module__": __name__})
    assert caught.value.path == path
    assert caught.value.event == "Bad"
    assert remedy in str(caught.value)


TOLD_APART: list[tuple[Any, list[Any]]] = [
    (Literal[True] | timedelta, [True, timedelta(seconds=1.5)]),
    (NONE | Literal[1] | str, [None, 1, "1"]),
    (Told | str | None, [Cat(), Dog(), "cat", None]),
    (Annotated[int | None, Field(title="x")] | tuple[int, ...], [None, 1, (1,)]),
]


@pytest.mark.parametrize(("annotation", "values"), TOLD_APART, ids=lambda v: str(v)[:60])
def test_alternatives_that_differ_in_json(annotation: Any, values: list[Any]) -> None:
    """Each value of such a union is read again as what it was."""
    made: Any = type(
        "Good", (Event,), {"__annotations__": {"field": annotation}, "__module__": __name__}
    )
    for value in values:
        read = made.from_json(made(field=value).to_json()).field
        assert (type(read), read) == (type(value), value)


def test_raw_json_in_a_part() -> None:
    """RawJson is for the event itself; in a part it is refused with its path."""
    with pytest.raises(EventDefinitionError, match="event itself") as caught:

        class Bad(Part):
            raw: RawJson | None = None

    assert caught.value.path == "raw"


@pytest.mark.parametrize("name", ["id", "occurred_at", "topic"])
def test_reserved_names(name: str) -> None:
    """What every event has can be neither a field nor an attribute of a class."""
    namespace = {"__module__": __name__}
    with pytest.raises(EventDefinitionError, match="rename the field") as caught:
        type("Bad", (Event,), {"__annotations__": {name: str}, **namespace})
    assert caught.value.path == name
    # Pydantic itself is faster with its own refusal in some versions.
    with pytest.raises(TypeError):
        type("Bad", (Event,), {name: "x", **namespace})


@pytest.mark.parametrize(
    "config",
    [
        {"frozen": False},
        {"strict": False},
        {"extra": "allow"},
        {"extra": "forbid"},
        {"arbitrary_types_allowed": True},
        {"use_enum_values": True},
        {"json_encoders": {int: str}},
        {"revalidate_instances": "always"},
        {"ser_json_bytes": "base64"},
        {"ser_json_timedelta": "float"},
        {"ser_json_inf_nan": "constants"},
        {"from_attributes": True},
    ],
    ids=str,
)
def test_refused_configuration(config: dict[str, Any]) -> None:
    """A setting that would change the wire, or let an event change, is refused by name."""
    with pytest.raises(EventDefinitionError, match=next(iter(config))):
        type("Bad", (Event,), {"model_config": config, "__module__": __name__})


def test_allowed_configuration() -> None:
    """Settings that only name, describe or read aliases stay with the user."""

    class Good(Event, topic="good"):
        model_config = ConfigDict(title="G", populate_by_name=True, str_strip_whitespace=True)

        text: str = Field(alias="Text")

    by_name = Good.model_validate({"text": " x "})
    assert by_name.to_json() == Good(Text="x").to_json() == b'{"Text":"x"}'


def test_refused_members() -> None:
    """Computed fields, serializers, private attributes and constructors are refused."""
    with pytest.raises(EventDefinitionError, match="property"):

        class Computed(Event):
            @computed_field  # type: ignore[prop-decorator]
            @property
            def twice(self) -> int:
                return 2

    with pytest.raises(EventDefinitionError, match="read back"):

        class FieldSerializer(Event):
            x: int

            @field_serializer("x")
            def write(self, value: int) -> str:
                return str(value)

    with pytest.raises(EventDefinitionError, match="model serializer"):

        class ModelSerializer(Event):
            x: int

            @model_serializer
            def write(self) -> dict[str, int]:
                return {}

    with pytest.raises(EventDefinitionError, match="private attribute"):

        class Private(Event):
            _cache: int = PrivateAttr(default=1)

    with pytest.raises(EventDefinitionError, match="classmethod"):

        class Constructor(Event):
            x: int

            def __init__(self, x: int) -> None:
                super().__init__(x=x)

    with pytest.raises(EventDefinitionError, match="root model"):

        class Root(Event, RootModel[int]):  # type: ignore[misc]
            pass

    with pytest.raises(EventDefinitionError, match="also the key of"):

        class Twice(Event):
            a: int
            b: int = Field(alias="a")

    with pytest.raises(EventDefinitionError, match="a function"):

        class ByFunction(Event):
            part: Annotated[
                Annotated[Address, Tag("a")] | Annotated[Line, Tag("b")],
                Discriminator(lambda value: "a"),
            ]


def test_forward_references_are_judged_when_they_are_known() -> None:
    """A class that is not complete is not judged; completing it is where the refusal comes."""

    class Late(Event, topic="late"):
        later: Unknown  # type: ignore[name-defined]  # noqa: F821

    class Bad(Event, topic="bad"):
        later: tuple[AlsoUnknown, ...]  # type: ignore[name-defined]  # noqa: F821

    assert Late.model_rebuild(_types_namespace={"Unknown": Address})
    assert Late(later=Address(city="X")).to_json() == b'{"later":{"city":"X"}}'
    with pytest.raises(EventDefinitionError) as caught:
        Bad.model_rebuild(_types_namespace={"AlsoUnknown": Model})
    assert caught.value.path == "later[]"


class Forward(Event, topic="forward"):
    later: Later
    raw: RawJson


class Later(Part):
    x: int
    inside: tuple[Later, ...] = ()


def test_forward_reference_completed_by_its_first_use() -> None:
    """Reading with a class that waits for a later one completes it, its raw fields too."""
    event = Forward.from_json(b'{"later":{"x":1,"inside":[{"x":2}]},"raw": [1e2] }')
    assert event.later.inside == (Later(x=2),)
    assert bytes(event.raw) == b"[1e2]"
    assert event.to_json() == b'{"later":{"x":1,"inside":[{"x":2,"inside":[]}]},"raw":[1e2]}'


def test_parts_that_contain_each_other_are_judged() -> None:
    """Also where one is met before it is complete: its field is a part, and may be no event."""

    class Ambiguous(Part):
        field: Within | Mapping[str, str]

    with pytest.raises(EventDefinitionError, match="model and dict") as caught:

        class Within(Part):
            outer: Ambiguous | None = None

    assert (caught.value.event, caught.value.path) == ("Ambiguous", "field")

    class Holds(Part):
        field: tuple[Inside, ...] = ()

    with pytest.raises(EventDefinitionError, match="Inside is an event") as caught:

        class Inside(Event, topic="inside"):
            outer: Holds | None = None

    assert (caught.value.event, caught.value.path) == ("Holds", "field[]")

    class Whole(Part):
        halves: Annotated[tuple[Half, ...], AfterValidator(lambda halves: halves[:1])] = ()

    class Half(Part):
        wholes: Annotated[tuple[Whole, ...], AfterValidator(lambda wholes: wholes[:1])] = ()

    half = Half(wholes=(Whole(), Whole()))
    assert Whole(halves=(half, half)) == Whole(halves=(half,))
    assert len(half.wholes) == 1


Tree = TypeAliasType("Tree", "int | tuple[Tree, ...]")
Seen = TypeAliasType("Seen", Annotated[int, AfterValidator(lambda value: value + 1)])


def test_an_alias_that_contains_itself() -> None:
    """Is judged once, and read as deep as it is."""

    class Grown(Event, topic="grown"):
        tree: Tree
        cut: Annotated[tuple[Tree, ...], AfterValidator(lambda trees: trees[:1])] = ()

    event = Grown(tree=(1, (2, ())), cut=((3,), 4))
    assert event.cut == ((3,),)
    assert Grown.from_json(event.to_json()) == event
    with pytest.raises(ValueError, match="tree"):
        Grown.model_validate({"tree": (1, ("2",))})


def test_a_users_function_runs_once_wherever_its_alias_stands() -> None:
    """Not again for each field, nor for what a function around it has returned."""

    class Counted(Event, topic="counted"):
        one: Seen
        two: Seen
        many: Annotated[tuple[Seen, ...], AfterValidator(lambda values: values[::-1])]
        maybe: Annotated[
            Annotated[int, BeforeValidator(lambda value: value + 1)] | None, AfterValidator(abs)
        ]

    event = Counted(one=1, two=2, many=(3, 4), maybe=5)
    assert (event.one, event.two, event.many, event.maybe) == (2, 3, (5, 4), 6)


class Boxed(Event, Generic[T], topic="boxed"):
    value: T
    more: tuple[T, ...] = ()
    either: T | str = ""


def test_generics_are_judged_with_their_arguments() -> None:
    """An open class can't be created; a bad argument is refused; a good one works."""
    with pytest.raises(ValueError, match=r"Class\[Type\]"):
        Boxed(value=1)
    with pytest.raises(EventDefinitionError) as caught:
        Boxed[list[int]]
    assert caught.value.path == "value"
    assert (
        Boxed[Line](value=Line(sku="a")).to_json() == b'{"value":{"sku":"a"},"more":[],"either":""}'
    )
    assert Boxed[BigInt](value=10**20).value == 10**20


def test_validators_are_allowed() -> None:
    """A validator that keeps the type is the user's business."""

    class Checked(Event, topic="checked"):
        text: Annotated[str, AfterValidator(str.strip)]
        many: Annotated[tuple[datetime, ...], AfterValidator(lambda value: value[:1])] = ()

    event = Checked.from_json(b'{"text":" a ","many":["2020-01-01T00:00:00Z"]}')
    assert event.to_json() == b'{"text":"a","many":["2020-01-01T00:00:00Z"]}'


@pytest.mark.parametrize("returned", [float("nan"), 2**63, [1], "x", None])
def test_what_a_validator_returns_is_checked(returned: object) -> None:
    """A validator can't put in what the field would have refused."""
    checked: Any = type(
        "Checked",
        (Event,),
        {
            "__annotations__": {"x": Annotated[int, AfterValidator(lambda _: returned)]},
            "__module__": __name__,
        },
    )
    with pytest.raises(ValueError, match="Checked"):
        checked(x=1)
