"""The grammar of topics and patterns."""

from __future__ import annotations

import copy
import pickle

import pytest

from eventflow.errors import InvalidTopicError
from eventflow.events import is_pattern, validate_pattern, validate_topic
from eventflow.events.topics import MAX_TOPIC_LENGTH

TOPICS = ["a", "orders", "orders.placed", "Orders_2.placed-v1.x", "a" * MAX_TOPIC_LENGTH, "0", "-"]
PATTERNS = ["*", ">", "orders.*", "orders.>", "*.placed", "*.*", "a.*.c", "*.>"]
NEITHER = [
    "",
    ".",
    "a.",
    ".a",
    "a..b",
    "a b",
    "a\n",
    "é",
    "a/b",
    ">.a",
    "a.>.b",
    "a*",
    "a.*b",
    "**",
    ">>",
    "a.b\x00",
    "a" * (MAX_TOPIC_LENGTH + 1),
    "orders:placed",
]


@pytest.mark.parametrize("topic", TOPICS)
def test_topics(topic: str) -> None:
    """Segments of letters, digits, _ and -, joined by dots, are a topic and a pattern."""
    assert validate_topic(topic) == topic
    assert validate_pattern(topic) == topic
    assert not is_pattern(topic)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    """* is one whole segment and > the last; a pattern is no topic, and the error says why."""
    assert validate_pattern(pattern) == pattern
    assert is_pattern(pattern)
    with pytest.raises(InvalidTopicError, match="belong in patterns") as caught:
        validate_topic(pattern)
    assert caught.value.topic == pattern


@pytest.mark.parametrize("text", NEITHER)
def test_neither(text: str) -> None:
    """Anything else is refused as both, in a message of bounded length on one line."""
    for validate in (validate_topic, validate_pattern):
        with pytest.raises(InvalidTopicError) as caught:
            validate(text)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"orders"])
def test_not_text(value: str) -> None:
    """What is not a str is refused by the same error, for callers without a type checker."""
    with pytest.raises(InvalidTopicError, match="is a str, not"):
        validate_topic(value)


def test_the_error_survives_pickle_and_copy() -> None:
    """The refused text is still on the error after both."""
    with pytest.raises(InvalidTopicError) as caught:
        validate_topic("a b")
    for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert again.topic == "a b"
        assert str(again) == str(caught.value)
