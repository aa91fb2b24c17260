"""Rows of counts that have to add up, and tables of them: of a bus, and of a router."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("Row", "Table")


class Row:
    """What became of what was offered to one subscription or handler; a base of dataclasses."""

    __slots__ = ()

    OUTCOMES: ClassVar[tuple[str, ...]]
    """Counts of which each thing that was offered is in exactly one."""

    name: str
    offered: int

    @classmethod
    def counts(cls) -> tuple[str, ...]:
        """Names of all counts."""
        return tuple(field.name for field in fields(cls) if field.type == "int")  # type: ignore[arg-type]

    @classmethod
    def summed(cls, name: str, rows: Iterable[Self]) -> Self:
        """The sum of rows, as a row."""
        counted = tuple(rows)
        sums: dict[str, Any] = {
            count: sum(getattr(row, count) for row in counted) for count in cls.counts()
        }
        return cls(name=name, **sums)  # type: ignore[call-arg]

    @property
    def adds_up(self) -> bool:
        """Whether everything that was offered is accounted for."""
        accounted: int = sum(getattr(self, outcome) for outcome in self.OUTCOMES)
        return self.offered == accounted


R = TypeVar("R", bound=Row)


class Table(Generic[R]):
    """The rows of a bus or a router; a base of dataclasses, and a ledger of a service."""

    __slots__ = ()

    OWNER: ClassVar[str]
    """What the table is of, for people: ``bus`` or ``router``."""
    ROW: ClassVar[type[Row]]
    """Class of its rows."""
    ROWS: ClassVar[str]
    """Name of the field that has them."""

    name: str
    state: str
    abandoned: tuple[str, ...]

    @property
    def _rows(self) -> tuple[R, ...]:
        rows: tuple[R, ...] = getattr(self, self.ROWS)
        return rows

    @property
    def total(self) -> R:
        """The sum over all rows."""
        total: R = self.ROW.summed("total", self._rows)  # type: ignore[assignment]
        return total

    @property
    def adds_up(self) -> bool:
        """Whether every row adds up."""
        return all(row.adds_up for row in self._rows)

    def __getitem__(self, name: str) -> R:
        """A row by name; `KeyError` if there is none."""
        for row in self._rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain: Any = asdict
        return {
            **plain(self),
            self.ROWS: [plain(row) for row in self._rows],
            "abandoned": list(self.abandoned),
            "total": plain(self.total),
            "adds_up": self.adds_up,
        }

    def summary(self) -> dict[str, Any]:
        """The facts for one log line: the counts of `total`, without those that are 0."""
        total = self.total
        counts = {count: value for count in self.ROW.counts() if (value := getattr(total, count))}
        return {
            "name": self.name,
            "state": self.state,
            self.ROWS: len(self._rows),
            **counts,
            "adds_up": self.adds_up,
            "could_not_stop": list(self.abandoned),
        }

    def __str__(self) -> str:
        """A table for people; columns that are 0 throughout are left out."""
        rows = [*self._rows, self.total]
        columns = [
            c
            for c in self.ROW.counts()
            if c in ("offered", "handled", "failed") or any(getattr(r, c) for r in rows)
        ]
        cells = [[self.ROWS.removesuffix("s"), *(c.replace("_", " ") for c in columns)]]
        cells += [[r.name, *(f"{getattr(r, c):,}" for c in columns)] for r in rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [f"ledger of {self.OWNER} {self.name!r} ({self.state})"]
        for row in cells:
            first, *rest = (
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join([first, *rest]).rstrip())
        lines += [f"abandoned: {what}" for what in self.abandoned]
        if not self.adds_up:
            lines.append("THE COUNTS DO NOT ADD UP")
        return "\n".join(lines)
