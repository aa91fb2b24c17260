"""Whether anybody besides a worker could still see the event it has just handled.

A worker names its event in a context variable. Whatever the handler starts (a task, a timer, a
thread) gets a copy of the context, and has to see that event for as long as it lives, while
the worker goes on to the next. Setting the variable anew for each event does that, and costs
as much as the rest of the bus: 0.2 to 0.4 µs.

So the variable holds a cell, which the worker writes each event into, and which it replaces
only after somebody took a copy. Copies can be counted, because CPython keeps the values of a
context in an immutable tree: a copy refers to the same tree, or, once it has bound something
itself, to a tree whose root was copied and refers to the cell again. Where neither the tree
nor the cell has more references than before the handler ran, there is no copy.

Source: CPython's ``Python/context.c`` and ``Python/hamt.c``, unchanged in this from 3.11 to
3.14. Elsewhere, and where the cell does not hang from the root of the tree (contexts of more
than 16 variables), `tree_of` finds nothing and the worker replaces the cell for each event.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import Context

__all__ = ("tree_of",)


def _counts_are_exact() -> bool:
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and has_gil()


def tree_of(context: Context, cell: object) -> object | None:
    """The tree of a context's values if ``cell`` hangs from its root, else ``None``."""
    if not _counts_are_exact():
        return None
    for tree in gc.get_referents(context):
        if type(tree).__name__ == "hamt":
            for root in gc.get_referents(tree):
                if any(value is cell for value in gc.get_referents(root)):
                    return tree  # type: ignore[no-any-return]
    return None
