"""Brings what later tests need while others wait for their server."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.interop.support import SOURCE
from tests.servers import go, kafka

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

__all__ = ("bring",)


def bring(items: Iterable[pytest.Item]) -> None:
    """Begin to bring Kafka's jars and to build the Go program, if any of the tests needs them.

    In the background: whoever needs them waits for that, and says what went wrong.
    """
    items = [*items]
    needs_jars = any(item.get_closest_marker("kafka") for item in items) and not kafka.missing()
    needs_go = any("program" in getattr(item, "fixturenames", ()) for item in items)

    def run() -> None:
        if needs_jars:
            with suppress(Exception):
                kafka.install()
        if needs_go:
            go.build(SOURCE)

    threading.Thread(target=run, name="tests:ahead", daemon=True).start()
