"""Text that is safe to write: one line, and nothing a terminal or a reader takes for a command."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("error_text", "escaped", "shown")

MAX_CHAIN = 20
MAX_WIDTH = 15
MAX_DEPTH = 10

_CAUSED = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"


def escaped(text: str) -> str:
    """The text with all that does not print as a backslash escape, as ``repr`` writes it.

    Control characters (newlines and the escape character among them), bidi and zero-width
    controls, line separators and lone surrogates do not print. A backslash stays as it is.
    """
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else repr(c)[1:-1] for c in text])


def shown(value: object) -> str:
    """A value as text, also where its own ``__repr__`` fails."""
    try:
        return repr(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the value's own, a CancelledError too
        return f"<{type(value).__name__}, whose repr() fails>"


def error_text(error: BaseException) -> str:
    """An error with its traceback; what it says itself can forge no line of it.

    The message of each error is one line, notes included. Of a longer chain of causes the
    last 20 are shown, of a group the first 15 in each of 10 levels.
    """
    try:
        told = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        return "\n".join(_lines(told, MAX_DEPTH))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the error's own
        return escaped(f"<{type(error).__name__}, whose traceback can't be shown>")


def _lines(last: traceback.TracebackException, depth: int) -> Iterator[str]:
    for told, link in _chain(last):
        if told.stack:
            yield "Traceback (most recent call last):"
            yield from _frames(told.stack)
        yield escaped("".join(told.format_exception_only()).rstrip("\n"))
        leaves = told.exceptions or []
        for number, leaf in enumerate(leaves[:MAX_WIDTH] if depth else [], 1):
            yield f"  --- {number} of {len(leaves)} ---"
            for line in _lines(leaf, depth - 1):
                yield f"  {line}"
        if link:
            yield ""
            yield link
            yield ""


def _chain(
    last: traceback.TracebackException,
) -> list[tuple[traceback.TracebackException, str]]:
    """The errors that led to one, first cause first, each with the words that lead on."""
    chain = [(last, "")]
    while len(chain) < MAX_CHAIN:
        told = chain[-1][0]
        if told.__cause__ is not None:
            chain.append((told.__cause__, _CAUSED))
        elif told.__context__ is not None and not told.__suppress_context__:
            chain.append((told.__context__, _DURING))
        else:
            break
    return chain[::-1]


def _frames(stack: traceback.StackSummary) -> Iterator[str]:
    for frame in stack:
        # A name of a file or a function can hold a newline: exec() takes any.
        frame.filename, frame.name = escaped(frame.filename), escaped(frame.name)
    for chunk in stack.format():
        for line in chunk.rstrip("\n").split("\n"):
            yield escaped(line)
