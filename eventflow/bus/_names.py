"""Names of subscriptions: unique on a bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Names",)


class Names:
    """Finds a name that is free; a default gets a number where it is taken."""

    __slots__ = ("_bus", "_numbers", "_taken")

    def __init__(self, bus: str, taken: Callable[[str], bool]) -> None:
        self._bus = bus
        self._taken = taken
        self._numbers: dict[str, int] = {}

    def find(self, wanted: str | None, default: str) -> str:
        """``wanted`` if it is free, else an error; without one, something like ``default``."""
        if wanted is not None:
            if self._taken(wanted):
                raise InvalidOptionError(
                    f"bus {self._bus!r} has a subscription named {wanted!r} already", option="name"
                )
            return wanted
        if not self._taken(default):
            return default
        number = self._numbers.get(default, 1)
        name = default
        while self._taken(name):
            number += 1
            name = f"{default}-{number}"
        self._numbers[default] = number
        return name
