"""A link that can be broken: a TCP proxy on 127.0.0.1, and a Kafka that is reached through it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

from tests.servers.kafka import Kafka
from tests.servers.process import free_port

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Callable
    from pathlib import Path

__all__ = ("Direction", "ProxiedKafka", "Proxy")

Direction = Literal["to_server", "to_client"]
CHUNK = 65_536


class Proxy:
    """Forwards connections to a port, in a thread of its own, until told otherwise.

    Its own port stays taken all the time, so that nobody else can get it.

    Attributes:
        port: Where it takes connections.
        cuts: How often `cut_after` has come true.
    """

    def __init__(self, target: int) -> None:
        self.cuts = 0
        self._target = target
        self._delay = 0.0
        self._left: dict[Direction, int] = {}
        self._is_refusing = self._refuses_then = False
        self._links: dict[asyncio.Task[None], tuple[StreamWriter, ...]] = {}
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._ending.set)
        self._thread.join()

    def give_up(self) -> None:
        """Let go of the port, if it was never entered."""
        self._listener.close()

    # What can be done to it, from any other thread

    def cut_after(self, count: int, direction: Direction, *, refuse: bool = False) -> None:
        """Let so many more bytes pass, of all connections; then end the one that has the next.

        Args:
            count: How many.
            direction: Which bytes are counted.
            refuse: Whether to go on as after `refuse`.
        """
        self._refuses_then = refuse
        self._call(lambda: self._left.__setitem__(direction, count))

    def reset(self) -> None:
        """Reset all connections; new ones are taken."""
        self._call(self._reset)

    def stall(self) -> None:
        """Take connections and bytes, and forward none, until `restore`."""
        self._call(self._flowing.clear)

    def refuse(self) -> None:
        """Reset all connections, and new ones at once, until `restore`."""
        self._is_refusing = True
        self._call(self._reset)

    def delay(self, seconds: float) -> None:
        """Keep each piece that comes from the server so long, until `restore`."""
        self._delay = seconds

    def restore(self) -> None:
        """Forward again, what was held back too, and at once."""
        self._is_refusing = False
        self._delay = 0.0
        self._call(self._left.clear)
        self._call(self._flowing.set)

    # In the thread

    def _call(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        server = await asyncio.start_server(self._accepted, sock=self._listener)
        self._started.set()
        await self._ending.wait()
        server.close()
        self._reset()
        for task in [*self._links]:
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _accepted(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._links[task] = (writer,)
        task.add_done_callback(self._links.pop)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        writers, pumps = [writer], set[asyncio.Task[None]]()
        try:
            if self._is_refusing:
                _abort(writer)
                return
            try:
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                _abort(writer)
                return
            writers.append(to_server)
            task = asyncio.current_task()
            assert task is not None
            self._links[task] = (writer, to_server)
            pumps.add(asyncio.create_task(self._pump(reader, to_server, "to_server")))
            pumps.add(asyncio.create_task(self._pump(from_server, writer, "to_client")))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in writers:
                end.close()

    async def _pump(self, reader: StreamReader, writer: StreamWriter, way: Direction) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if way == "to_client":
                    await asyncio.sleep(self._delay)
                left = self._left.get(way)
                if left is not None and left < len(data):
                    # The part arrives, and then the connection ends.
                    del self._left[way]
                    self.cuts += 1
                    self._is_refusing |= self._refuses_then
                    writer.write(data[:left])
                    return
                if left is not None:
                    self._left[way] = left - len(data)
                writer.write(data)
                await writer.drain()

    def _reset(self) -> None:
        for writers in self._links.values():
            for writer in writers:
                _abort(writer)


def _abort(writer: StreamWriter) -> None:
    """End a connection with a reset instead of a good-bye."""
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class ProxiedKafka(Kafka):
    """Has a second port that is advertised as that of a proxy; the first one is for observers.

    Attributes:
        proxy: In front of the second port.
    """

    def __init__(self, directory: Path) -> None:
        behind = free_port()
        self.proxy = Proxy(behind)
        listeners = "PLAINTEXT://127.0.0.1:{port},LINK://127.0.0.1:"
        protocols = "PLAINTEXT:PLAINTEXT,LINK:PLAINTEXT,CONTROLLER:PLAINTEXT"
        lines = (
            f"listeners={listeners}{behind},CONTROLLER://127.0.0.1:{{controller}}",
            f"advertised.listeners={listeners}{self.proxy.port}",
            f"listener.security.protocol.map={protocols}",
            "log.segment.delete.delay.ms=1000",
        )
        super().__init__(directory, extra="\n".join(lines) + "\n")

    def discard(self) -> None:
        """It will not be used any more."""
        super().discard()
        self.proxy.give_up()

    @property
    def linked(self) -> str:
        """Where clients find it that are to go through the proxy."""
        return f"127.0.0.1:{self.proxy.port}"
