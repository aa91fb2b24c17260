"""FastStream over confluent-kafka, and watermill-kafka, on the same broker."""

# Installed for measuring alone; without it what it gives is of unknown type.
# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import watermill
from tests.bench.kafka.conditions import IN_FLIGHT, PUBLISHED, READ, group
from tests.bench.orders import BODY, NAME, Bare, FirstToLast, each_in_flight

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Watermill", "faststream_consume", "faststream_publish")

SOURCE = Path(__file__).parent / "watermill"


async def faststream_consume(hosts: str, topic: str, number: int) -> float:
    """Seconds from the first model handled to the last, each acked after its handler."""
    from faststream import AckPolicy
    from faststream.confluent import KafkaBroker

    broker, handle = KafkaBroker(hosts, logger=None), FirstToLast(number)
    subscriber = broker.subscriber(
        topic,
        group_id=group(),
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )

    async def handler(body: Bare) -> None:
        if not handle.came.done():
            await handle(body)

    subscriber(handler)
    async with broker:
        await broker.start()
        return await handle.came


async def faststream_publish(hosts: str, given: Sequence[dict[str, str]]) -> float:
    """Seconds from the first of so many bodies to the confirmation of the last."""
    from faststream.confluent import KafkaBroker

    broker: Any = KafkaBroker(hosts, logger=None)
    async with broker:
        await broker.publish(BODY, PUBLISHED)

        async def publish(headers: dict[str, str]) -> None:
            await broker.publish(BODY, PUBLISHED, headers=headers)

        return await each_in_flight(given, publish, tasks=IN_FLIGHT)


class Watermill:
    """The program in Go, built.

    Attributes:
        conditions: What ran; after the first run.
    """

    def __init__(self, program: Path) -> None:
        self._program = program
        self.conditions = ""

    @classmethod
    def built(cls) -> Watermill | str:
        """Build it; or why there is none."""
        program = watermill.build(SOURCE)
        return program if isinstance(program, str) else cls(program.path)

    def consume(self, hosts: str, number: int) -> float:
        """Seconds from the first message handled to the last."""
        return self._run("consume", hosts, READ, number, "-group", group())

    def publish(self, hosts: str, number: int) -> float:
        """Seconds from the first message of so many to the confirmation of the last."""
        own = ("-in-flight", str(IN_FLIGHT), "-body", BODY.decode(), "-name", NAME)
        return self._run("publish", hosts, PUBLISHED, number, *own)

    def _run(self, kind: str, hosts: str, topic: str, number: int, *own: str) -> float:
        answer = watermill.ask(
            *(self._program, "-kind", kind, "-hosts", hosts, "-topic", topic),
            *("-messages", str(number), *own),
        )
        self.conditions = f"v3.1.4, {answer['go']}, GOMAXPROCS {answer['gomaxprocs']}"
        return float(answer["seconds"])
