"""FastStream over aio-pika, and watermill-amqp, on the same server."""

# Installed for measuring alone; without it what it gives is of unknown type.
# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import watermill
from tests.bench.orders import BODY, NAME, Bare, FirstToLast, each_in_flight
from tests.bench.rabbitmq.conditions import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.rabbitmq.conditions import Place

__all__ = ("Watermill", "faststream_consume", "faststream_publish")

SOURCE = Path(__file__).parent / "watermill"


async def faststream_consume(address: str, place: Place, number: int) -> float:
    """Seconds from the first model handled to the last, each acked after its handler."""
    from faststream import AckPolicy
    from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

    broker, handle = RabbitBroker(address, logger=None), FirstToLast(number)
    subscriber = broker.subscriber(
        RabbitQueue(place.queue, declare=False),
        channel=Channel(prefetch_count=IN_FLIGHT),
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )

    async def handler(body: Bare) -> None:
        await handle(body)

    subscriber(handler)
    async with broker:
        await broker.start()
        return await handle.came


async def faststream_publish(address: str, place: Place, given: Sequence[dict[str, Any]]) -> float:
    """Seconds from the first of so many bodies to the confirmation of the last."""
    from faststream.rabbit import RabbitBroker, RabbitExchange

    broker: Any = RabbitBroker(address, logger=None)
    exchange = RabbitExchange(place.topic, declare=False)
    async with broker:
        await broker.publish(BODY, exchange=exchange, persist=True)

        async def publish(headers: dict[str, Any]) -> None:
            await broker.publish(BODY, exchange=exchange, persist=True, headers=headers)

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

    def consume(self, address: str, place: Place, number: int, *, prefetch: int) -> float:
        """Seconds from the first message handled to the last; prefetch 0 is its default."""
        return self._run("consume", address, place.queue, number, "-prefetch", str(prefetch))

    def publish(self, address: str, place: Place, number: int, *, confirms: bool) -> float:
        """Seconds from the first message of so many to the end of the last publish."""
        own = ("-in-flight", str(IN_FLIGHT), "-body", BODY.decode(), "-name", NAME)
        more = ("-confirms",) if confirms else ()
        return self._run("publish", address, place.topic, number, *own, *more)

    def _run(self, kind: str, address: str, topic: str, number: int, *own: str) -> float:
        answer = watermill.ask(
            *(self._program, "-kind", kind, "-address", address, "-topic", topic),
            *("-messages", str(number), *own),
        )
        self.conditions = f"v3.0.2, {answer['go']}, GOMAXPROCS {answer['gomaxprocs']}"
        return float(answer["seconds"])
