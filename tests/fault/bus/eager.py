"""A pytest plugin: every event loop starts its tasks eagerly, where Python can (3.12)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any


def pytest_configure() -> None:
    if sys.version_info < (3, 12):
        return
    make = asyncio.BaseEventLoop.__init__

    def eager(self: asyncio.BaseEventLoop, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        self.set_task_factory(asyncio.eager_task_factory)

    asyncio.BaseEventLoop.__init__ = eager
