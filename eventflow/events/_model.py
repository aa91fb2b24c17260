"""What `Event` and `Part` have in common as Pydantic models."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

from eventflow.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("FrozenModel", "absent")

_KEEP_NONE: ContextVar[bool] = ContextVar("eventflow_keep_none", default=False)


def absent(value: object) -> bool:
    """Return whether a field whose default is ``None`` is left out of what is being written."""
    return value is None and not _KEEP_NONE.get()


# The first model that is built makes pydantic look for plugins in every installed package, half
# of what importing events would cost. Event and Part take this out of what others inherit.
class FrozenModel(BaseModel, defer_build=True):
    """A model whose shortcuts do not lead around its rules."""

    @classmethod
    def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
        """Create an instance, validated: nothing that breaks the rules can be made.

        Raises:
            ValidationError: A value breaks the rules.
        """
        return cls.model_validate(values, by_alias=True, by_name=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; what is in ``update`` is validated, unlike with a bare model.

        Raises:
            ValidationError: A new value breaks the rules.
        """
        if not update:
            return super().model_copy(deep=deep)
        # Its dict holds what cached properties have computed, too.
        values = {k: v for k, v in self.__dict__.items() if k in self.__pydantic_fields__}
        copied = self.__pydantic_validator__.validate_python(
            {**values, **update}, extra="forbid", by_alias=False, by_name=True
        )
        fields_set = self.__pydantic_fields_set__ | update.keys()
        object.__setattr__(copied, "__pydantic_fields_set__", fields_set)
        result: Self = copied
        return result

    # Hidden from type checkers, which see pydantic's full signatures.
    if not TYPE_CHECKING:

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Self:
            """Validate a dict of field values, or pass an instance through."""
            return super().model_validate(obj, **_kept(options))

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
            """Validate JSON, with pydantic's options and pydantic's errors."""
            return super().model_validate_json(json_data, **_kept(options))

        @classmethod
        def model_validate_strings(cls, obj: Any, **options: Any) -> Self:
            """Refuse: a form in which every value is text is none that events have."""
            raise InvalidOptionError(
                f"model_validate_strings takes text for every type: give {cls.__name__} values "
                "of its types, or JSON",
                option="model_validate_strings",
            )

        def model_dump(self, *, mode: str = "python", **options: Any) -> dict[str, Any]:
            """Return the fields as a dict; only JSON modes leave out a ``None`` by default."""
            if mode != "python":
                return super().model_dump(mode=mode, **options)
            token = _KEEP_NONE.set(True)
            try:
                return super().model_dump(mode=mode, **options)
            finally:
                _KEEP_NONE.reset(token)


def _kept(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that leave the rules alone; the others are refused."""
    strict = options.pop("strict", None)
    if strict is not None and not strict:
        raise InvalidOptionError("strict=False: events are strict about types", option="strict")
    if options.get("extra") == "allow":
        raise InvalidOptionError("extra='allow': events keep their fields only", option="extra")
    return options
