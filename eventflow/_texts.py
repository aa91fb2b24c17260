"""Texts that travel beside an event: which names are taken, and what a text may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from eventflow.errors import InvalidOptionError

__all__ = ("check_texts", "is_reserved", "is_text")

_NAMES = frozenset({"name", "correlation_id", "causation_id"})
_PREFIXES = ("eventflow_", "_watermill_")


def is_reserved(name: str) -> bool:
    """Whether a name of metadata means something to eventflow or to Watermill."""
    return name in _NAMES or name.startswith(_PREFIXES)


def is_text(value: object) -> bool:
    """Whether it is a text for which UTF-8 stands."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(metadata: object) -> dict[str, str]:
    """Custom metadata as a dict.

    Raises:
        InvalidOptionError: It does not map texts to texts, or a name is empty or taken.
    """
    if not isinstance(metadata, Mapping):
        raise InvalidOptionError(
            f"metadata must map texts to texts, not {metadata!r}", option="metadata"
        )
    texts: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", metadata).items():
        if not (is_text(name) and is_text(value)):
            raise InvalidOptionError(
                "metadata must map texts to texts, in Unicode without half surrogate pairs",
                option="metadata",
            )
        assert isinstance(name, str)
        assert isinstance(value, str)
        if not name or is_reserved(name):
            raise InvalidOptionError(
                f"the metadata name {name!r} can't be given: it is empty, or means something to "
                f"eventflow or to Watermill ({', '.join(sorted(_NAMES))}, and what begins with "
                f"{' or '.join(_PREFIXES)})",
                option="metadata",
            )
        texts[name] = value
    return texts
