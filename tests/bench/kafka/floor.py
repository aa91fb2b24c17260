"""What each promise of a router costs at least when it consumes, in one process of CPython.

`python -m tests.bench.kafka.floor`: the raw loop, then one loop that promises one thing more at a
time, and the router. The loop is as short as it can be written: one function, without layers, and
with nothing for what goes wrong. What the router takes above it is the price of its parts being
parts, and of failures.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
from collections import deque
from functools import partial
from pathlib import Path
from time import clock_gettime, perf_counter, pthread_getcpuclockid
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, TopicPartition

from eventflow.brokers.kafka import KafkaBroker
from eventflow.messaging import Router
from tests.bench.harness import MIN_PAIRS, Spread, load, ratios, rounds
from tests.bench.kafka import raw
from tests.bench.kafka.conditions import PARTITIONS, READ, OrderPlaced, group
from tests.servers.kafka import Kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Loop = Callable[["Source", int, Callable[[], None]], Coroutine[Any, Any, None]]

BATCH = 500
MOST_READY = 1_000
TAKE = 100
"""Records that are read, then handled, before the next: few enough for the processor's caches."""

PROMISES = {
    "threaded": "records come from a thread, many at a time; too many wait there",
    "typed": "an event of the class that is named, with the id and the time that came",
    "worker": "a handler is awaited in a task other than the one that reads",
    "context": "the handler's context knows what it handles, and nobody else's changes",
    "lanes": "one after another of those with the same key",
    "acks": "what is committed is handled, and so is all before it",
    "deadline": "a handler has a time, and a cancellation that it swallows is seen",
    "counts": "how many were taken in, run, and were handled",
}
"""In the order in which the loop gets them."""

LOOP = """
async def handle(event):
    pass

class Cell:
    __slots__ = ("item", "started")

current = ContextVar("current")
headers_of, offset_of, partition_of = map(methodcaller, ("headers", "offset", "partition"))

async def run(source, left, begin):
    read = {"OrderPlaced": OrderPlaced.from_json}                               #: typed
    queue, idle = deque(), deque()                                              #: worker
    waiting = {}                                                                #: lanes
    held, ends = [{} for _ in range(PARTITIONS)], [0] * PARTITIONS              #: acks
    acked = [0] * PARTITIONS                                                    #: acks
    offered = handled = in_flight = 0                                           #: counts

    async def work():                                                           #: worker
        nonlocal handled, in_flight                                             #: counts
        cell = Cell()                                                           #: context
        current.set(cell)                                                       #: context
        alone = getrefcount(cell)                                               #: context
        cancelling = asyncio.current_task().cancelling                          #: deadline
        now = monotonic()                                                       #: deadline
        while True:                                                             #: worker
            if not queue:                                                       #: worker
                idle.append(future := asyncio.get_running_loop().create_future())  #: worker
                await future                                                    #: worker
                now = monotonic()                                               #: deadline
                continue                                                        #: worker
            job = event, record, offset, number, key = queue.popleft()          #: worker
            in_flight += 1                                                      #: counts
            cell.item = job                                                     #: context
            cell.started = now                                                  #: deadline
            try:                                                                #: worker
                await handle(event)                                             #: worker
            except BaseException:                                               #: worker
                raise                                                           #: worker
            if cancelling():                                                    #: deadline
                raise asyncio.CancelledError                                    #: deadline
            if getrefcount(cell) != alone:                                      #: context
                raise NotImplementedError                                       #: context
            if key is not None:                                                 #: lanes
                if waiting[key]:                                                #: lanes
                    queue.append(waiting[key].popleft())                        #: lanes
                else:                                                           #: lanes
                    del waiting[key]                                            #: lanes
            del held[number][offset]                                            #: acks
            acked[number] += 1                                                  #: acks
            if acked[number] >= 500:                                            #: acks
                acked[number] = 0                                               #: acks
                first = next(iter(held[number]), ends[number])                  #: acks
                source.commits.append([TopicPartition(READ, number, first)])    #: acks
            handled += 1                                                        #: counts
            in_flight -= 1                                                      #: counts
            now = monotonic()                                                   #: deadline

    worker = asyncio.create_task(work())                                        #: worker
    while left > 0:
        batch = await source.take()
        begin()
        left -= len(batch)
        offsets, numbers = map(offset_of, batch), map(partition_of, batch)      #: worker
        for record in batch:
            Bare.model_validate_json(record.value())                            #! typed
            name = message_id = occurred_at = None                              #: typed
            for header, value in headers_of(record):                            #: typed
                if header == ID:                                                #: typed
                    message_id = value                                          #: typed
                elif header == "name":                                          #: typed
                    name = value                                                #: typed
                elif header == "occurred_at":                                   #: typed
                    occurred_at = value                                         #: typed
            event = read[name.decode()](                                        #: typed
                record.value() or b"",                                          #: typed
                event_id=message_id.decode(),                                   #: typed
                occurred_at=occurred_at.decode() if occurred_at else "",        #: typed
            )                                                                   #: typed
            offset, number, key = next(offsets), next(numbers), record.key()    #: worker
            job = event, record, offset, number, key                            #: worker
            held[number][offset] = record                                       #: acks
            ends[number] = offset + 1                                           #: acks
            offered += 1                                                        #: counts
            if key is not None:                                                 #: lanes
                if key in waiting:                                              #: lanes
                    waiting[key].append(job)                                    #: lanes
                    continue                                                    #: lanes
                waiting[key] = deque()                                          #: lanes
            queue.append(job)                                                   #: worker
            if idle:                                                            #: worker
                idle.popleft().set_result(None)                                 #: worker
    await asyncio.sleep(0)
    worker.cancel()                                                             #: worker
"""
IMPORTS = """
import asyncio
from collections import deque
from contextvars import ContextVar
from operator import methodcaller
from sys import getrefcount
from time import monotonic
from confluent_kafka import TopicPartition
from tests.bench.kafka.conditions import ID, PARTITIONS, READ, Bare, OrderPlaced
"""


def loop_with(promise: str) -> Loop:
    """The loop with the promises up to this one, and without the lines of the others."""
    names = [*PROMISES]
    kept = {*names[: names.index(promise) + 1]}
    lines: list[str] = []
    for line in LOOP.splitlines():
        code, _, needed = line.partition("#: ")
        code, _, replaced = code.partition("#! ")
        if (not needed or needed in kept) and replaced not in kept:
            lines.append(code.rstrip())
    space: dict[str, Any] = {}
    exec("\n".join((IMPORTS, *lines)), space)
    loop: Loop = space["run"]
    return loop


class Source:
    """A thread that takes records, and an event loop that gets them many at a time."""

    def __init__(self, hosts: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._consumer = Consumer({**raw.CONSUMER, "bootstrap.servers": hosts, "group.id": group()})
        self._consumer.subscribe([READ])
        self._ready: deque[Any] = deque()
        self._came: asyncio.Future[None] | None = None
        self.commits: deque[list[TopicPartition]] = deque()
        self._room = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        consumer = self._consumer
        while not self._is_over:
            while self.commits:
                consumer.commit(offsets=self.commits.popleft(), asynchronous=True)
            if len(self._ready) >= MOST_READY:
                self._room.clear()
                if len(self._ready) >= MOST_READY:
                    self._room.wait(0.1)
            elif (first := consumer.poll(0.03)) is not None:
                found = [first, *consumer.consume(BATCH - 1, 0)]
                self._loop.call_soon_threadsafe(self._hand_over, found)
        consumer.close()

    def _hand_over(self, found: list[Any]) -> None:
        self._ready.extend(found)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)

    async def take(self) -> list[Any]:
        """Wait for some records."""
        ready = self._ready
        await asyncio.sleep(0)
        while not ready:
            self._came = self._loop.create_future()
            await self._came
        found = [ready.popleft() for _ in range(min(TAKE, len(ready)))]
        if len(ready) < MOST_READY:
            self._room.set()
        return found

    async def close(self) -> None:
        """End the thread."""
        self._is_over = True
        await asyncio.to_thread(self._thread.join)


def spent() -> float:
    """Processor time of the threads of Python, so that the library's own don't count."""
    idents = [thread.ident for thread in threading.enumerate()]
    return sum(clock_gettime(pthread_getcpuclockid(ident)) for ident in idents if ident is not None)


class Run:
    """One run of a loop.

    Attributes:
        took: Seconds from the first record to the last.
        cpu: The same of the processor.
    """

    def __init__(self) -> None:
        self._began = self._spent = self.took = self.cpu = 0.0

    def begin(self) -> None:
        """The first record is there."""
        if not self._began:
            self._began, self._spent = perf_counter(), spent()

    def end(self) -> None:
        """The last one is done."""
        self.took, self.cpu = perf_counter() - self._began, spent() - self._spent


def run_raw(hosts: str, number: int) -> Run:
    """The raw loop."""
    run = Run()
    run.begin()
    took = raw.consume(hosts, READ, number)
    run.end()
    run.took = took
    return run


def run_loop(loop: Loop, hosts: str, number: int) -> Run:
    """The loop with some promises."""

    async def running() -> Run:
        source, run = Source(hosts), Run()
        await loop(source, number, run.begin)
        run.end()
        await source.close()
        return run

    return asyncio.run(running())


async def run_router(hosts: str, number: int) -> Run:
    """The router."""
    run, left = Run(), number
    came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handle(event: OrderPlaced) -> None:
        nonlocal left
        run.begin()
        left -= 1
        if not left:
            run.end()
            came.set_result(None)

    async with KafkaBroker(hosts) as broker:
        router, subscriber = Router(), broker.subscriber(group=group())
        router.add_handler("orders", OrderPlaced, handle, subscriber=subscriber)
        async with router:
            await came
    return run


def measure(hosts: str, number: int, pairs: int) -> None:
    """Print what a message takes, in microseconds."""
    cpu: dict[str, list[float]] = {}

    def seconds(name: str, runs: Callable[[], Run]) -> float:
        run = runs()
        cpu.setdefault(name, []).append(run.cpu / number)
        return run.took / number

    runs: dict[str, Callable[[], Run]] = {"raw": lambda: run_raw(hosts, number)}
    for promise in PROMISES:
        runs[promise] = partial(run_loop, loop_with(promise), hosts, number)
    runs["router"] = lambda: asyncio.run(run_router(hosts, number))
    each = rounds({name: partial(seconds, name, run) for name, run in runs.items()}, pairs)
    print(f"{number:,} records, {pairs} pairs, load {load()}; best (median), in µs")
    for name, took in each.items():
        time, used, ratio = Spread.of(took), Spread.of(cpu[name]), ratios(each["raw"], took)
        print(
            f"{name:9} {time.low * 1e6:5.2f} ({time.median * 1e6:5.2f})"
            f"  cpu {used.low * 1e6:5.2f} ({used.median * 1e6:5.2f})"
            f"  of raw {ratio.median:.3f}  {PROMISES.get(name, '')}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.kafka.floor", description=__doc__)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=MIN_PAIRS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = Kafka.started(Path(directory))
        try:
            for topic in (READ, f"{READ}.dead_letter"):
                server.create_topic(topic, partitions=PARTITIONS)
            raw.fill(server.address, READ, given.number, name=OrderPlaced.__name__)
            measure(server.address, given.number, given.pairs)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
