"""A worker that never waits lets others run every 5 ms."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.bus import EventBus
from tests.unit.bus.support import Ping

if TYPE_CHECKING:
    from collections.abc import Mapping


class WorkLoop(asyncio.SelectorEventLoop):
    """A loop on whose clock handlers take time without waiting."""

    worked = 0.0

    def time(self) -> float:
        return super().time() + self.worked


def by_three(event: Ping) -> int:
    return event.n % 3


@pytest.mark.promise("5")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"timeout": None}, {"concurrency": 2, "order_key": by_three}],
    ids=["plain", "no timeout", "keys"],
)
def test_a_busy_worker_lets_others_run_every_5_ms(
    options: Mapping[str, Any], fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Handlers of 1 ms each: five or six of them, then everything else that is ready."""
    caplog.set_level(logging.CRITICAL, "eventflow.bus")
    ended = 0

    async def works(event: Ping) -> None:
        nonlocal ended
        loop.worked += 0.001
        ended += 1
        if fails:
            raise ValueError

    async def main() -> list[int]:
        seen = [0]
        async with EventBus() as bus:
            bus.subscribe(Ping, works, **options)
            for n in range(200):
                bus.publish_nowait(Ping(n=n))
            while ended < 200:
                await asyncio.sleep(0)
                seen.append(ended)
        return seen

    loop = WorkLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        seen = runner.run(main())
    workers = options.get("concurrency", 1)
    assert max(after - before for before, after in pairwise(seen)) <= 6 * workers
