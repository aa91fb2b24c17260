"""A member in another process, which can be killed: ``python -m …_process``, told by its stdin."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.messaging import Broker

__all__ = ("Elsewhere",)


class Elsewhere:
    """Another process that takes some messages, acks the first of them, and holds the rest."""

    def __init__(
        self, where: Sequence[str], *, topic: str, group: str, take: int, ack: int
    ) -> None:
        self._order = json.dumps(
            {
                "path": sys.path,
                "factory": where[0],
                "arguments": list(where[1:]),
                "topic": topic,
                "group": group,
                "take": take,
                "ack": ack,
            }
        )
        self._take = take
        self._process: subprocess.Popen[str] | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        self._process = await asyncio.to_thread(self._start)
        return self

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(  # noqa: S603 - this file, by this interpreter
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(self._order + "\n")
        process.stdin.flush()
        return process

    async def holds(self) -> list[str]:
        """The ids that it has taken, in order, once it has them all and its acks are settled."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> list[str]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the other process ended with {self._process.wait()}: see its stderr"
        found: list[str] = json.loads(line)
        return found

    async def kill(self) -> None:
        """Kill it: it can do nothing more."""
        await asyncio.to_thread(self._kill)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None

    async def __aexit__(self, *_: object) -> None:
        """End it, whatever it does."""
        await self.kill()


async def _hold(broker: Broker, order: dict[str, Any]) -> None:
    async with broker:
        subscriber = broker.subscriber(group=order["group"])
        async with subscriber.subscribe(order["topic"], max_in_flight=order["take"]) as deliveries:
            taken = list(await deliveries.receive(order["take"]))
            while len(taken) < order["take"]:
                taken += await deliveries.receive(order["take"] - len(taken))
            for delivery in taken[: order["ack"]]:
                delivery.ack()
                await delivery.settled()
            sys.stdout.write(json.dumps([delivery.message.id for delivery in taken]) + "\n")
            sys.stdout.flush()
            await asyncio.Event().wait()  # until it is killed


def _main() -> None:
    order = json.loads(sys.stdin.readline())
    sys.path[:] = order["path"]
    module, _, function = order["factory"].partition(":")
    broker = getattr(importlib.import_module(module), function)(*order["arguments"])
    asyncio.run(_hold(broker, order))


if __name__ == "__main__":
    _main()
