"""The grammar of topics and patterns.

A topic is one or more segments joined by dots; a segment is one or more ASCII letters,
digits, ``_`` or ``-``. A pattern may also have ``*``, which stands for exactly one segment,
and ``>``, which stands for one or more and can only be the last.
"""

from __future__ import annotations

import re

from eventflow.errors import InvalidTopicError

__all__ = ("MAX_TOPIC_LENGTH", "is_pattern", "validate_pattern", "validate_topic")

MAX_TOPIC_LENGTH = 249
"""Longest topic, in characters: the limit of Kafka, the tightest of the brokers."""

_SHOWN = 80
_SEGMENT = r"[A-Za-z0-9_-]+"
_TOPIC = rf"{_SEGMENT}(?:\.{_SEGMENT})*"
_PATTERN = rf"(?:(?:{_SEGMENT}|\*)\.)*(?:{_SEGMENT}|\*|>)"


def validate_topic(topic: str) -> str:
    """Return the topic as it came, or say what is wrong with it.

    Args:
        topic: Text such as ``orders.placed``, at most `MAX_TOPIC_LENGTH` characters.

    Raises:
        InvalidTopicError: The text is not a topic; a pattern is not one either.
    """
    _check_text(topic, "topic")
    if not re.fullmatch(_TOPIC, topic):
        if re.fullmatch(_PATTERN, topic):
            raise _refusal(topic, "'*' and '>' belong in patterns, to subscribe with")
        raise _refusal(topic, "use letters, digits, '_' and '-' in segments joined by '.'")
    return topic


def validate_pattern(pattern: str) -> str:
    """Return the pattern as it came, or say what is wrong with it.

    Every topic is a pattern too: the one that matches only itself.

    Args:
        pattern: Text such as ``orders.*`` or ``orders.>``, at most `MAX_TOPIC_LENGTH`
            characters. ``*`` stands for one segment, ``>`` for one or more at the end.

    Raises:
        InvalidTopicError: The text is not a pattern.
    """
    _check_text(pattern, "pattern")
    if not re.fullmatch(_PATTERN, pattern):
        raise _refusal(
            pattern,
            "use letters, digits, '_' and '-' in segments joined by '.', '*' for one whole "
            "segment, and '>' only as the last segment",
        )
    return pattern


def is_pattern(text: str) -> bool:
    """Return whether the text stands for more than one topic (has ``*`` or ``>``)."""
    return "*" in text or ">" in text


def _check_text(text: object, what: str) -> None:
    # Callers may be untyped, and a regular expression would answer with a bare TypeError.
    if not isinstance(text, str):
        raise InvalidTopicError(f"a {what} is a str, not {type(text).__name__}")
    if len(text) > MAX_TOPIC_LENGTH:
        raise _refusal(text, f"it has {len(text)} characters, more than {MAX_TOPIC_LENGTH}")


def _refusal(topic: str, remedy: str) -> InvalidTopicError:
    shown = topic if len(topic) <= _SHOWN else f"{topic[:_SHOWN]}…"
    return InvalidTopicError(f"{shown!r} is refused: {remedy}", topic=shown)
