"""The Go program in tests/interop/watermill, as tests use it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka.admin

from tests.brokers.kafka.support import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from tests.servers.kafka import Kafka

__all__ = ("BUILT_WITHIN_S", "SOURCE", "Reader", "Received", "Watermill", "Written", "shares")

SOURCE = Path(__file__).parent / "watermill"
BUILT_WITHIN_S = 300
"""The first test of a run may get the modules and build the program."""

log = logging.getLogger("tests.kafka")
_library: Any = confluent_kafka.admin


@dataclass(frozen=True)
class Written:
    """A message that Watermill publishes. A payload of ``None`` is Go's ``nil``."""

    payload: bytes | None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    id: str = ""
    key: str | None = None

    def line(self) -> bytes:
        payload = None if self.payload is None else base64.b64encode(self.payload).decode()
        said = {"uuid": self.id, "metadata": dict(self.metadata), "payload": payload}
        return json.dumps({**said, "key": self.key}).encode() + b"\n"


@dataclass(frozen=True)
class Received:
    """A message that Watermill received.

    Attributes:
        did: What was done with it: ``"acked"``, ``"nacked"`` or ``"held"``.
        name: The event's, as its JSON marshaler finds it.
        correlation_id: As its middleware finds it.
        poisoned: Reason, topic, handler and subscriber, as its poison queue writes them.
    """

    id: str
    metadata: dict[str, str]
    payload: bytes
    key: str | None
    partition: int
    offset: int
    did: str
    name: str
    correlation_id: str
    poisoned: tuple[str, ...]

    @classmethod
    def read(cls, line: bytes) -> Received:
        said = json.loads(line)
        payload, key = (base64.b64decode(said[n]) if said[n] else b"" for n in ("payload", "key"))
        return cls(
            said["uuid"],
            said["metadata"],
            payload,
            None if said["key"] is None else key.decode(),
            said["partition"],
            said["offset"],
            said["did"],
            said["name"],
            said["correlation_id"],
            tuple(said["poisoned"]),
        )


class Reader:
    """A process that reads.

    Attributes:
        received: What it said so far.
        complaints: What its subscriber has logged; once it has left.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.received: list[Received] = []
        self.complaints = ""
        self._process = process

    async def read(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        errors = asyncio.create_task(self._process.stderr.read())
        async for line in self._process.stdout:
            self.received.append(Received.read(line))
        self.complaints = (await errors).decode()

    async def wait(self, number: int) -> list[Received]:
        """Until it has received so many."""
        await until(lambda: len(self.received) >= number, f"Watermill has {number}")
        return self.received

    async def leave(self) -> None:
        """Have it leave, as a service does at a stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(60):
            code = await self._process.wait()
        assert code == 0, self.complaints

    async def kill(self) -> None:
        """Have it end without a word to the server."""
        self._process.kill()
        await self._process.wait()


@dataclass(frozen=True)
class Watermill:
    """The program.

    Attributes:
        path: Where it is.
        options: What it is told each time: the server, and how to use it.
    """

    path: Path
    options: tuple[str, ...]

    async def declare(self, topic: str, group: str) -> str:
        """What a topic and a group need; returns why it could not."""
        process = await self._start("declare", "-topic", topic, "-group", group)
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
        return errors.decode() if process.returncode else ""

    async def publish(self, topic: str, *messages: Written) -> None:
        """Those with a key through the partitioning marshaler, the others through the default."""
        process = await self._start("publish", "-topic", topic)
        async with asyncio.timeout(60):
            lines = b"".join(message.line() for message in messages)
            _, errors = await process.communicate(lines)
        assert process.returncode == 0, errors.decode()

    @asynccontextmanager
    async def running(self, command: str, **options: object) -> AsyncGenerator[Reader]:
        """One of its other commands, with its options by name, until the block is left."""
        said = [f"-{name}={value}" for name, value in options.items()]
        process = await self._start(command, *said)
        reader = Reader(process)
        reading = asyncio.create_task(reader.read())
        try:
            yield reader
            if process.returncode is None:
                await reader.leave()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reading

    async def _start(self, command: str, *options: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *(str(self.path), command, *self.options, *options),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            limit=1 << 24,
        )


async def shares(kafka: Kafka, group: str, **members: int) -> dict[str, set[int]]:
    """The partitions of each member, once the group has settled on so many for each client."""
    admin = _library.AdminClient({"bootstrap.servers": kafka.address, "logger": log})
    found: dict[str, set[int]] = {}

    def look() -> bool:
        state = admin.describe_consumer_groups([group])[group].result(30)
        found.clear()
        for member in state.members:
            places = member.assignment.topic_partitions
            found[member.client_id] = {place.partition for place in places}
        wanted = set(members.items())
        settled = state.state == confluent_kafka.ConsumerGroupState.STABLE
        return settled and {(name, len(places)) for name, places in found.items()} == wanted

    async with asyncio.timeout(60):
        while not await asyncio.to_thread(look):  # noqa: ASYNC110 - a broker does it
            await asyncio.sleep(0.05)
    return found
