"""How an event with `RawJson` fields is read and written; other events don't come here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from eventflow.events._cuts import read_around

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from eventflow.events._definition import RawField

__all__ = ("Plan",)


class Plan:
    """The order of a class's fields, in runs between its raw ones.

    Each run is written by pydantic and the raw bytes are put between them by hand, so that
    nothing ever has to be found in what was written.

    Args:
        cls: The event class.
        raw: Its raw fields by name.
    """

    def __init__(self, cls: type[BaseModel], raw: Mapping[str, RawField]) -> None:
        self._nullable = {
            key.encode(): field.optional for field in raw.values() for key in field.read
        }
        self._steps: list[set[str] | tuple[str, bytes, bool]] = []
        for name in cls.__pydantic_fields__:
            field = raw.get(name)
            if field is not None:
                self._steps.append((name, to_json(field.key) + b":", field.left_out))
            elif self._steps and isinstance(self._steps[-1], set):
                self._steps[-1].add(name)
            else:
                self._steps.append({name})

    def write(self, event: BaseModel) -> bytes:
        """Return the event's body."""
        members: list[bytes] = []
        for step in self._steps:
            if isinstance(step, set):
                run = event.__pydantic_serializer__.to_json(
                    event, include=step, by_alias=True, warnings=False
                )
                if len(run) > 2:
                    members.append(run[1:-1])
                continue
            name, key, left_out = step
            value = getattr(event, name)
            if value is not None:
                members.append(key + bytes(value))
            elif not left_out:
                members.append(key + b"null")
        return b"{" + b",".join(members) + b"}"

    def read(self, data: bytes, validate: Callable[..., Any]) -> Any:
        """Return what ``validate`` makes of the body, its raw values cut out first."""
        return read_around(data, self._nullable, lambda rest: validate(rest, extra="ignore"))
