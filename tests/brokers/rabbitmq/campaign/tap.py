"""A proxy that notes what is delivered through it, and how that is settled."""

from __future__ import annotations

import struct
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, cast

import pamqp.frame
from pamqp import commands
from pamqp.header import ContentHeader

from tests.brokers.rabbitmq.support import ID
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from tests.servers.proxy import Direction

__all__ = ("Acked", "Tap")

GREETING = b"AMQP\x00\x00\x09\x01"
BODY = 3
_head = struct.Struct(">BHI")


class Acked(NamedTuple):
    """A delivery that was acked.

    Attributes:
        came: When it was delivered, on the machine's monotonic clock.
        at: When the ack was on its way to the server.
        which: Id of the message.
    """

    came: float
    at: float
    which: str


class _Connection:
    """What passes on one connection, both ways, as far as it is about deliveries."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._data: dict[Direction, bytes] = {"to_server": b"", "to_client": b""}
        self._coming: dict[int, int] = {}  # tags whose headers are still to come, by channel
        self._open: dict[int, dict[int, tuple[float, str]]] = {}  # by channel and tag

    def pass_on(self, way: Direction, data: bytes) -> None:
        """So much goes on."""
        data = (self._data[way] + data).removeprefix(GREETING)
        at = 0
        while len(data) >= at + _head.size:
            kind, channel, size = _head.unpack_from(data, at)
            end = at + _head.size + size + 1
            if len(data) < end:
                break
            if kind < BODY:
                _, _, frame = pamqp.frame.unmarshal(data[at:end])
                (self._from_client if way == "to_server" else self._from_server)(channel, frame)
            at = end
        self._data[way] = data[at:]

    def _from_server(self, channel: int, frame: object) -> None:
        match frame:
            case commands.Basic.Deliver(delivery_tag=int(tag)):
                self._coming[channel] = tag
            case ContentHeader() if channel in self._coming:
                name = (frame.properties.headers or {})[ID]
                came = time.monotonic(), str(name)
                self._open.setdefault(channel, {})[self._coming.pop(channel)] = came
            case commands.Channel.Close():  # and takes no more acks
                self._open.pop(channel, None)
            case _:
                pass

    def _from_client(self, channel: int, frame: object) -> None:
        match frame:
            case commands.Channel.Open():
                self._open[channel] = {}
            case commands.Channel.Close():
                self._open.pop(channel, None)
            case commands.Basic.Ack() | commands.Basic.Nack() | commands.Basic.Reject():
                if (open_ := self._open.get(channel)) is not None:
                    self._settle(open_, frame)
            case _:
                pass

    def _settle(
        self,
        open_: dict[int, tuple[float, str]],
        frame: commands.Basic.Ack | commands.Basic.Nack | commands.Basic.Reject,
    ) -> None:
        last = frame.delivery_tag or 0
        if last not in open_:
            self._tap.wrong.append(f"{frame.name} of {last}, which is not open")
        is_multiple = getattr(frame, "multiple", False)
        for tag in [tag for tag in open_ if tag == last or (is_multiple and tag < last)]:
            came, name = open_.pop(tag)
            if isinstance(frame, commands.Basic.Ack):
                self._tap.acked.append(Acked(came, time.monotonic(), name))
            else:
                self._tap.given_back += 1


class Tap(Proxy):
    """In front of a RabbitMQ.

    Attributes:
        acked: Deliveries that were acked.
        given_back: How many were nacked.
        wrong: What was settled, and could not be.
    """

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.acked: list[Acked] = []
        self.given_back = 0
        self.wrong: list[str] = []

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        _connection.set(_Connection(self))
        await super()._serve(reader, writer)

    async def _pump(self, reader: StreamReader, writer: StreamWriter, way: Direction) -> None:
        noting = _Noting(writer, _connection.get(), way)
        await super()._pump(reader, cast("StreamWriter", noting), way)


class _Noting:
    """A writer's part that a proxy needs, which notes what it writes."""

    def __init__(self, writer: StreamWriter, connection: _Connection, way: Direction) -> None:
        self._writer = writer
        self._connection = connection
        self._way: Direction = way

    def write(self, data: bytes) -> None:
        self._connection.pass_on(self._way, data)
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()


_connection: ContextVar[_Connection] = ContextVar("connection")
