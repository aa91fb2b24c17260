"""Has librdkafka give up for good, as it does when a broker refuses what must not be refused."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ("FENCED", "OUT_OF_ORDER", "give_up")

OUT_OF_ORDER = 45
FENCED = 82


@cache
def _library() -> Any:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    library = ctypes.CDLL(next(line.split()[-1] for line in maps if "librdkafka" in line))
    library.rd_kafka_test_fatal_error.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    return library


def give_up(client: object, code: int) -> None:
    """Raise a fatal error in a client: librdkafka's own function for tests (rdkafka.h)."""
    # Behind the head of the Python object is the pointer to librdkafka's.
    pointer = ctypes.c_void_p.from_address(id(client) + object.__basicsize__).value
    assert _library().rd_kafka_test_fatal_error(pointer, code, b"a test") == 0
