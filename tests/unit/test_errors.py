"""The error tree: one root, built-in parents, and errors that travel."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from eventflow import errors

ALL: list[type[Exception]] = [getattr(errors, name) for name in errors.__all__]

FACTS: dict[str, dict[str, Any]] = {
    "EventDefinitionError": {"event": "Order", "path": "a.b"},
    "InvalidTopicError": {"topic": "a..b"},
    "InvalidMemberError": {"position": 2},
    "InvalidOptionError": {"option": "capacity"},
    "MemberEndedError": {"member": "feed"},
    "EventEncodeError": {"topic": "t", "path": "p"},
    "EventDecodeError": {
        "topic": "t",
        "message_id": "m",
        "path": "p",
        "expected": "int",
        "found": "text",
        "offset": 7,
    },
    "BufferFullError": {"topic": "t", "event_id": "e", "waited_s": 1.5},
    "PublishDeadlockError": {"topic": "t", "event_id": "e"},
    "ResourceError": {"subscription": "s"},
    "PublishTimeoutError": {"topic": "t", "event_id": "e", "waited_s": 30.0},
    "HandlerTimeoutError": {"subscription": "s", "timeout_s": 5.0},
}


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_errors_survive_copy_and_pickle(error: type[Exception]) -> None:
    """With their text and their facts."""
    facts = FACTS.get(error.__name__, {})
    if error is errors.RetryAfter:
        made: Exception = errors.RetryAfter(2.5, "busy")
        facts = {"seconds": 2.5}
    else:
        made = error("what happened", **facts)
    for again in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(again) is error
        assert again.args == made.args
        assert str(again) == str(made)
        for name, value in facts.items():
            assert getattr(again, name) == value


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_has_one_root_and_says_whether_to_retry(error: type[Exception]) -> None:
    """``retriable`` is on the class; facts have defaults."""
    assert issubclass(error, errors.EventFlowError)
    assert isinstance(error.retriable, bool)
    assert isinstance(error(), error)
    assert error.__doc__


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every error stands in it, under its parent, with its built-in parent in brackets."""
    parents: list[tuple[int, str]] = []
    drawn: dict[str, tuple[str, str]] = {}
    assert errors.__doc__ is not None
    for line in errors.__doc__.splitlines():
        text = line.lstrip(" │├└─")
        name = text.split(" ")[0]
        if name not in errors.__all__ or not line.startswith("    "):
            continue
        depth = len(line) - len(text)
        while parents and parents[-1][0] >= depth:
            parents.pop()
        builtin = text[len(name) :].strip().split(")")[0].lstrip("(") if "(" in text else ""
        drawn[name] = (parents[-1][1] if parents else "", builtin.split(" ")[0])
        parents.append((depth, name))
    assert set(drawn) == set(errors.__all__)
    for name, (parent, builtin) in drawn.items():
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert bases == [base for base in (parent or "Exception", builtin) if base]


def test_built_in_parents() -> None:
    """What a reader expects to catch."""
    assert issubclass(errors.PublishTimeoutError, TimeoutError)
    assert issubclass(errors.HandlerTimeoutError, TimeoutError)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.NotInHandlerError, LookupError)
    assert not issubclass(errors.BufferFullError, OSError)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_retry_after_takes_finite_seconds(seconds: float) -> None:
    """Refused where it is raised."""
    with pytest.raises(ValueError, match="RetryAfter"):
        errors.RetryAfter(seconds)


def test_all_is_complete() -> None:
    """Every class of the module is public."""
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert classes == set(errors.__all__)
