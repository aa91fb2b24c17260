"""`Event`: a frozen Pydantic model with a topic."""

from __future__ import annotations

from functools import partial
from time import time_ns
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeGuard, cast

from pydantic import ConfigDict, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, core_schema

from eventflow.errors import ConfigurationError, EventDecodeError, EventEncodeError
from eventflow.events._annotations import refuse
from eventflow.events._decoding import decode_error, json_error
from eventflow.events._definition import check_class, complete_schema
from eventflow.events._joining import Plan
from eventflow.events._model import FrozenModel
from eventflow.events._syntax import JsonSyntaxError, check_constants, check_depth
from eventflow.events.identity import FirstRead, Identity, Unread, given, made, read_time
from eventflow.events.topics import validate_topic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from pydantic import GetCoreSchemaHandler

__all__ = ("Event", "event_name")

_BYTE_N, _BYTE_I, _BYTE_F = b"NIf"
_RESERVED = ("id", "occurred_at", "topic")
_CONFIG = ConfigDict(strict=True, frozen=True)
_MAX_NAME_LENGTH = 255


class Event(FrozenModel):
    """A fact that happened: a frozen, strict Pydantic model with a topic.

    A class without ``topic`` is a base: it can't be published, and who subscribes to it
    receives its subclasses. The topic is not inherited.

    Args:
        topic: Given in the class statement: dot-separated segments of letters, digits, ``_``
            and ``-``. ``None`` makes a base.
        name: Given in the class statement: what stands for the class on the wire. Default:
            the class's own name.

    Attributes:
        topic: The topic of the class, ``None`` for a base.

    Raises:
        EventDefinitionError: When the class is complete (forward references included), for a
            field that could change or that has no exact JSON form.
        ValidationError: When an instance is made of values that break the rules.

    Equality and hash are of the fields: two events that say the same are equal, each with an
    `id` of its own.

    Example:
        >>> class OrderPlaced(Event, topic="orders.placed"):
        ...     order_id: str
        ...     coupon: str | None = None
        >>> OrderPlaced(order_id="A-1").to_json()
        b'{"order_id":"A-1"}'
    """

    # The time of creation in nanoseconds, until the first read makes the identity of it.
    __slots__ = ("__eventflow_stamp__",)

    model_config: ClassVar[ConfigDict] = _CONFIG

    topic: ClassVar[str | None] = None
    __eventflow_name__: ClassVar[str] = ""
    # How it is written where pydantic alone can't; None where it can.
    __eventflow_plan__: ClassVar[Plan | None] = None
    # Bytes to event. One attribute for all that reading needs, because pydantic's metaclass
    # makes each look-up on a class take as long as a tenth of the reading of a small event.
    __eventflow_read__: ClassVar[Callable[[bytes], Any]]
    __eventflow_nested__: ClassVar[bool] = False

    def __init_subclass__(
        cls, *, topic: str | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        check_class(cls, base_config=dict(_CONFIG), reserved=_RESERVED)
        cls.__eventflow_read__ = partial(_read_first, cls)
        cls.topic = None if topic is None else validate_topic(topic)
        cls.__eventflow_name__ = cls.__name__ if name is None else _checked_name(cls, name)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, topic: str | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        origin: Any = cls.__pydantic_generic_metadata__["origin"]
        if origin is not None:
            # Order[int] is not another event than Order, only a more exact one.
            cls.topic = origin.topic
            if origin.__eventflow_name__ != origin.__name__:
                cls.__eventflow_name__ = origin.__eventflow_name__

    def __init__(self, /, **data: Any) -> None:
        __tracebackhide__ = True
        self.__pydantic_validator__.validate_python(data, self_instance=self)
        if len(self.__pydantic_fields_set__) != len(data):
            # Something given was not used: validate again, only to say what.
            type(self).__pydantic_validator__.validate_python(data, extra="forbid")
        _set_stamp(self, time_ns())

    # Without the mark pydantic-core calls __init__ for each event it reads, after turning
    # the JSON into Python values, and then refuses text for a datetime.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @property
    def id(self) -> str:
        """The event's id: a UUIDv7 whose time is `occurred_at`.

        Made at the first read, which is safe from any thread. Kept by copies and pickle.
        An event that was read from elsewhere has the id that it was given there.
        """
        return _identity(self)[0]

    @property
    def occurred_at(self) -> datetime:
        """When the event was created: aware, in UTC, to the millisecond.

        An event that was read from elsewhere has the time that it was given there.
        """
        return _identity(self)[1]

    def to_json(self) -> bytes:
        """Return the event's body on the wire: compact JSON in UTF-8, in declared order.

        Raises:
            EventEncodeError: The event has no such form; only one nested deeper than 200
                through a recursive `Part` can be made and has none.
        """
        plan = self.__eventflow_plan__
        try:
            if plan is not None:
                return plan.write(self)
            # Every value was checked when it was made; pydantic before 2.13 warns of a part that
            # leaves a field out inside a union.
            data = self.__pydantic_serializer__.to_json(self, by_alias=True, warnings=False)
            # Only a recursive part can be made deeper than what is read again.
            if self.__pydantic_core_schema__["type"] == "definitions":
                check_depth(data)
            return data
        except (PydanticSerializationError, JsonSyntaxError, ValueError) as exc:
            raise EventEncodeError(
                f"{type(self).__name__} has no JSON form: {exc}", topic=self.topic or ""
            ) from exc

    @classmethod
    def from_json(
        cls,
        data: bytes | bytearray | memoryview,
        *,
        event_id: str | None = None,
        occurred_at: datetime | str | None = None,
    ) -> Self:
        """Return the event that a body stands for. Unknown fields are passed over.

        Args:
            data: The body, JSON in UTF-8.
            event_id: The id that came with it. ``None`` or empty: one is made.
            occurred_at: The aware time that came with it, or its text in RFC 3339, which is
                read when it is asked for. ``None``, or text that is no such time: now.

        Raises:
            EventDecodeError: The body is not this event, with the path and what came there.
                It never holds the whole body. What a validator raised, other than the
                ``ValueError`` it may raise, is its ``__cause__``.
            TypeError: ``data`` is not bytes; text has to be encoded first.
            ValueError: ``occurred_at`` is naive.
            TypeError: ``data`` is not bytes.
        """
        if type(data) is not bytes:
            data = _as_bytes(cls, data)
        problem: EventDecodeError
        cause: Exception | None = None
        try:
            event: Self = cls.__eventflow_read__(data)
            # The parser takes NaN and Infinity where a field is passed over. Their letters are
            # looked for first, and then the words by `replace`, which gives back the same object
            # where there are none, in half the time of `find` and less than that of `in` (which
            # tries whether they are ints).
            if (_BYTE_N in data and data.replace(b"NaN", b"") is not data) or (
                _BYTE_F in data and _BYTE_I in data and data.replace(b"Infinity", b"") is not data
            ):
                check_constants(data)
        except ValidationError as exc:
            problem = decode_error(
                exc, data, what=cls.__name__, topic=cls.topic or "", message_id=event_id
            )
        except JsonSyntaxError as exc:
            problem = json_error(exc, what=cls.__name__, topic=cls.topic or "", message_id=event_id)
        except (ConfigurationError, PydanticUserError):
            raise  # the class itself can't be completed
        except Exception as exc:  # noqa: BLE001 - whatever a validator of the user's raises
            cause = exc
            problem = EventDecodeError(
                f"{cls.__name__}: a validator raised {type(exc).__name__}",
                topic=cls.topic or "",
                message_id=event_id,
                expected="a value that its validator can judge",
                found=type(exc).__name__,
            )
        else:
            if event_id is None and occurred_at is None:
                _set_stamp(event, time_ns())
            elif isinstance(occurred_at, str):
                _set_stamp(event, (event_id or "", occurred_at))
            else:
                _set_stamp(event, given(event_id, occurred_at, time_ns()))
            return event
        # Raised here, so that pydantic's error, which holds the whole body, is not its context.
        raise problem from cause

    # Hidden from type checkers, which see pydantic's full signatures.
    if not TYPE_CHECKING:

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Self:
            """Validate a dict of field values, or pass an instance through."""
            event = super().model_validate(obj, **options)
            _stamped(event)
            return event

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
            """Validate JSON like `from_json`, with pydantic's options and pydantic's errors."""
            validate = super().model_validate_json
            try:
                text = json_data.encode() if isinstance(json_data, str) else json_data
                data = _as_bytes(cls, text)
            except (TypeError, UnicodeEncodeError):
                return validate(json_data, **options)  # pydantic says what is wrong
            cls.__pydantic_validator__.title  # noqa: B018 - completes the class
            plan = cls.__eventflow_plan__
            options = {"extra": "ignore", **options}
            try:
                event = (
                    validate(data, **options)
                    if plan is None
                    else plan.read(data, lambda rest, extra: validate(rest, **options))
                )
                check_constants(data)
            except JsonSyntaxError as exc:
                raise ValidationError.from_exception_data(
                    cls.__name__,
                    [{"type": "json_invalid", "ctx": {"error": exc.reason}, "input": ""}],
                    input_type="json",
                ) from None
            _stamped(event)
            return event

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy: the same event, or with ``update`` a new one with a new id and time.

        Raises:
            ValidationError: A new value breaks the rules.
        """
        copied = super().model_copy(update=update, deep=deep)
        _set_stamp(copied, time_ns() if update else _identity(self))
        return copied

    def __copy__(self) -> Self:
        copied = super().__copy__()
        _set_stamp(copied, _identity(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = super().__deepcopy__(memo)
        _set_stamp(copied, _identity(self))
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__eventflow_identity__": _identity(self)}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        state = dict(state)
        identity: Identity = state.pop("__eventflow_identity__")
        super().__setstate__(state)
        _set_stamp(self, identity)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler, /
    ) -> core_schema.CoreSchema:
        if not cls.__eventflow_name__:  # Event itself
            return handler(source)
        completed = complete_schema(cls, source, handler, raw_allowed=True)
        schema: core_schema.CoreSchema = completed.schema
        if cls.__dict__.get("__pydantic_complete__"):
            # Asked for by a model or an adapter of the user's, which makes instances itself.
            return core_schema.no_info_after_validator_function(_stamped, schema)
        cls.__eventflow_plan__ = Plan(cls, completed.raw) if completed.raw else None
        cls.__eventflow_nested__ = completed.nested
        # Made again from the validator that pydantic is about to make.
        cls.__eventflow_read__ = partial(_read_first, cls)
        return schema


del Event.model_config["defer_build"]

_Stamp = int | Identity | Unread
_get_stamp: Callable[[Event], _Stamp] = Event.__dict__["__eventflow_stamp__"].__get__
_set_stamp: Callable[[Event, _Stamp], None] = Event.__dict__["__eventflow_stamp__"].__set__
_first_read = FirstRead()


def event_name(event: Event | type[Event]) -> str:
    """Return the name that stands for the event's class on the wire.

    A function and not an attribute, because ``name`` is a field that events like to have.
    """
    return event.__eventflow_name__


def _identity(event: Event) -> Identity:
    try:
        stamp = _get_stamp(event)
    except AttributeError:
        # Made by pydantic itself, as a TypeAdapter of the class does.
        stamp = time_ns()
    if not isinstance(stamp, int) and _is_read(stamp):
        return stamp
    with _first_read.lock:
        # Another thread may have been faster.
        kept: _Stamp = getattr(event, "__eventflow_stamp__", stamp)
        if isinstance(kept, int):
            identity = made(kept)
        elif _is_read(kept):
            identity = kept
        else:
            event_id, text = kept
            identity = given(event_id, read_time(str(text)), time_ns())
        _set_stamp(event, identity)
        return identity


def _is_read(stamp: Identity | Unread) -> TypeGuard[Identity]:
    return not isinstance(stamp[1], str)


def _read_first(cls: type[Event], data: bytes) -> Any:
    """Read, and put what read in the place of this function."""
    # Completes a class with forward references, which sets the other attributes.
    validate = cls.__pydantic_validator__.validate_json
    plan = cls.__eventflow_plan__
    read: Callable[[bytes], Any]
    if plan is not None:
        read = partial(plan.read, validate=validate)
    elif cls.__eventflow_nested__:
        read = partial(validate, extra="ignore")
    else:
        read = validate
    if cls.__pydantic_complete__:
        cls.__eventflow_read__ = read
    return read(data)


def _as_bytes(cls: type[Event], data: object) -> bytes:
    # Not bytes() alone, which makes as many zeros as a number says.
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(cast("bytes", data))
    raise TypeError(
        f"{cls.__name__} is read from bytes, bytearray or memoryview, not {type(data).__name__}"
        + ("; encode the text as UTF-8" if isinstance(data, str) else "")
    )


def _stamped(event: Event) -> Event:
    """Stamp an event that pydantic made, unless it is one that was there before."""
    if not hasattr(event, "__eventflow_stamp__"):
        _set_stamp(event, time_ns())
    return event


def _checked_name(cls: type[Event], name: str) -> str:
    if not 0 < len(name) <= _MAX_NAME_LENGTH:
        refuse(cls.__name__, "", "name=", f"give it 1 to {_MAX_NAME_LENGTH} characters")
    if not name.isprintable():
        refuse(cls.__name__, "", "name=", "give it printable characters only")
    return name
