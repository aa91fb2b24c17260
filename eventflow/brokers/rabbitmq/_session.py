"""One connection, for as long as it lasts: aiormq's, with messages and acks sorted out of it."""

from __future__ import annotations

import asyncio
import contextlib
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import aiormq
from aiormq.connection import TransportFactory

from eventflow.brokers._tls import context_of
from eventflow.brokers.rabbitmq._client_log import ours, quiet
from eventflow.brokers.rabbitmq._confirms import ConfirmingChannel
from eventflow.brokers.rabbitmq._declarations import Declarations
from eventflow.brokers.rabbitmq._errors import channel_error, connection_error
from eventflow.brokers.rabbitmq._sifter import Sifter
from eventflow.errors import BrokerConnectionError, BrokerError
from eventflow.lifecycle.supervisor import Supervisor, cancel_and_wait
from eventflow.lifecycle.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable

    from eventflow.brokers.rabbitmq._channel import MessageChannel
    from eventflow.brokers.rabbitmq._settings import Settings
    from eventflow.brokers.rabbitmq.topology import Part

    C = TypeVar("C", bound=MessageChannel)
    T = TypeVar("T")

__all__ = ("Session",)

CLOSE_S = 2.0
"""Seconds that the server gets to answer when something is closed."""
MOST_CHANNELS = 64
"""Channels to publish on, of which each exchange has its own until the last one is for all others.
No more than half of those that a connection may have."""
CHANNEL_MAX = 65_535
"""Channels of a connection where the server sets no limit."""
PROVEN = 128 * 1_024
"""Bytes of a message that any server takes; larger ones are tried first."""
MOST_UNSENT = 4 * 1_024 * 1_024
"""Bytes that wait to be sent; then publishers wait."""
ASK_S = 10.0
"""Seconds that it gets to answer a question."""


class _Connection(aiormq.Connection):
    # Silence is noticed after twice the heartbeat and a little, not three times.
    HEARTBEAT_GRACE_MULTIPLIER = 2


class _Transport(TransportFactory):
    """Has the connection read through a `Sifter`."""

    def __init__(self, settings: Settings, host: str, port: int, sifter: Sifter) -> None:
        self._settings, self._host, self._port = settings, host, port
        self._sifter = sifter
        self.writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: object, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._sifter, loop=loop)
        more: dict[str, Any] = {}
        if tls := self._settings.tls:
            # Read anew each time: certificates are renewed while a process runs.
            more["ssl"] = await asyncio.to_thread(context_of, tls)
            more["ssl_shutdown_timeout"] = CLOSE_S
        transport, _ = await loop.create_connection(
            lambda: protocol, self._host, self._port, **more
        )
        self.writer = asyncio.StreamWriter(transport, protocol, self._sifter, loop)
        return self._sifter, self.writer


class Session:
    """One connection.

    Attributes:
        loop: Its event loop.
        connection: The library's.
        sifter: What it is read through.
        lost: Is done when it is no more; its result says why.
        room: Those who wait until the server takes more.
        channel_max: Channels that it may have.
        proven: Bytes of the largest message that the server is known to take.
        trying: Is held by whoever publishes a larger one, on a channel of its own.
    """

    def __init__(
        self,
        connection: aiormq.Connection,
        sifter: Sifter,
        writer: asyncio.StreamWriter,
        room: Waiters,
        again: Callable[[], Awaitable[Session]],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.sifter = sifter
        self.lost: asyncio.Future[BaseException | None] = self.loop.create_future()
        self.room = room
        self.connection: Any = connection
        self._writer = writer
        self._declarations = Declarations(self, again)
        self._publishing: dict[str, ConfirmingChannel] = {}
        self._retired: dict[str, float] = {}  # when a channel was last given up, by exchange
        self._opening = asyncio.Lock()
        self._supervisor = Supervisor("rabbitmq", on_stop=self._end)
        self.channel_max = int(connection.connection_tune.channel_max) or CHANNEL_MAX
        self._number = 0  # of the channel that was opened last
        self._most_publishing = max(min(MOST_CHANNELS, self.channel_max // 2), 1)
        self.proven = PROVEN
        self.trying = asyncio.Lock()
        self.connection.closing.add_done_callback(self._ended)

    @classmethod
    async def begin(cls, settings: Settings) -> Session:
        """Connect to the first host that lets us in.

        Raises:
            BrokerConnectionError: None does, and one of them may later.
            BrokerAuthenticationError: None does, or we don't trust them.
        """
        failures: list[BrokerError] = []
        for host, port in settings.hosts:
            try:
                return await cls._at(settings, host, port)
            except BrokerError as exc:
                failures.append(exc)
        if len(failures) == 1:
            raise failures[0]
        # One that is away may let us in once it is back.
        first = next((one for one in failures if one.retriable), failures[0])
        raise type(first)("; ".join(map(str, failures)))

    @classmethod
    async def _at(cls, settings: Settings, host: str, port: int) -> Session:
        room = Waiters()

        sifter = Sifter(room.wake_all)
        transport = _Transport(settings, host, port, sifter)
        where = f"{host}:{port}"
        quiet()
        try:
            with ours():
                async with asyncio.timeout(settings.connect_timeout):
                    connection: Any = _Connection(
                        settings.url(host, port), transport_factory=transport
                    )
                    connection.vhost = settings.vhost  # in a URL, some names mean something else
                    await connection.connect()
        except TimeoutError:
            _abort(transport.writer)
            failure: Exception = BrokerConnectionError(
                f"RabbitMQ at {where} did not answer within {settings.connect_timeout:g} s"
            )
        except Exception as exc:  # noqa: BLE001 - whatever the library raises where there is none
            failure = connection_error(
                exc,
                where,
                sifter.refusal,
                is_tls=bool(settings.tls),
                is_begun=transport.writer is not None,
            )
        except BaseException:
            _abort(transport.writer)
            raise
        else:
            assert transport.writer is not None
            return cls(
                connection,
                sifter,
                transport.writer,
                room,
                again=lambda: cls._at(settings, host, port),
            )
        raise failure  # out of the block: the library's error knows the password

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        for taker in [*self.sifter.takers.values()]:
            taker.end(error)  # type: ignore[attr-defined]
        if not self.lost.done():
            self.lost.set_result(error)
        self.room.wake_all()

    @property
    def is_open(self) -> bool:
        """Whether it can be used; no more once it is being closed, before the library says so."""
        is_lost = self.sifter.refusal is not None or self.lost.done()
        return not is_lost and not self._writer.is_closing()

    @property
    def most(self) -> int:
        """Bytes that a frame may have."""
        return int(self.connection.connection_tune.frame_max) or 131_072

    def write(self, data: bytes) -> None:
        """Send whole frames; what is written while it is being closed goes nowhere."""
        with contextlib.suppress(RuntimeError):
            self._writer.write(data)

    @property
    def unsent(self) -> int:
        """Bytes that were written and are not on their way yet."""
        return int(self._writer.transport.get_write_buffer_size())

    async def may_publish(self) -> None:
        """Wait until there is room for more, and the server takes it; or until it is lost."""
        while self.is_open and (self.sifter.is_blocked or self.unsent > MOST_UNSENT):
            if self.sifter.is_blocked:
                await self.room.wait()
            else:
                await self._writer.drain()

    @contextlib.asynccontextmanager
    async def asking(self, what: str, *, within: float = ASK_S) -> AsyncGenerator[None]:
        """Ask the server for something; bounded, and the library's errors become ours.

        Raises:
            BrokerError: It refuses, or the connection is lost.
        """
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        failure: BaseException
        try:
            with ours():
                async with asyncio.timeout(within):
                    yield
        except TimeoutError:
            raise BrokerConnectionError(f"{what}: RabbitMQ did not answer in time") from None
        except asyncio.CancelledError as exc:
            # What the library had under way is cancelled when it closes a connection.
            if task.cancelling() > cancelled:
                raise
            failure = exc
        except Exception as exc:  # noqa: BLE001 - whatever the library raises
            if task.cancelling() > cancelled:  # also instead of a cancellation of ours
                raise asyncio.CancelledError from None
            failure = exc
        else:
            if task.cancelling() > cancelled:  # which the library has kept to itself
                raise asyncio.CancelledError
            return
        raise channel_error(failure, what)

    async def open(self, kind: Callable[[Session, Any], C], *, confirms: bool = False) -> C:
        """Open a channel of ours.

        Raises:
            BrokerConnectionError: The connection is lost.
            BrokerError: It has as many as it may have.
        """
        return kind(self, await self.open_channel(confirms=confirms))

    async def open_channel(self, *, confirms: bool = False) -> Any:
        """Open a channel of the library's.

        Raises:
            BrokerConnectionError: The connection is lost.
            BrokerError: It has as many as it may have.
        """
        number = self._free_number()
        async with self.asking("a channel"):
            return await self.connection.channel(number, publisher_confirms=confirms)
        raise AssertionError("it returns or raises")

    def _free_number(self) -> int:
        """The number of a new channel: the next one that is free, up to the server's limit.

        The library goes beyond that, and the server ends the connection then.
        """
        taken, most = self.connection.channels, self.channel_max
        for step in range(most):
            number = (self._number + step) % most + 1
            if number not in taken:
                self._number = number
                return number
        raise BrokerError(
            f"this connection has {most} channels, and RabbitMQ allows no more: see its channel_max"
        )

    async def publishing(self, exchange: str) -> ConfirmingChannel:
        """The channel to publish to an exchange on; another one when the last one has ended.

        A message that the server refuses ends the channel. So each exchange has its own, and what
        goes wrong with one does not touch what is under way to another.

        Raises:
            BrokerConnectionError: The connection is lost.
            BrokerError: It has as many channels as it may have.
        """
        key = self._key(exchange)
        channel = self._publishing.get(key)
        if channel is None or not channel.is_open:
            async with self._opening:
                channel = self._publishing.get(key)
                if channel is None or not channel.is_open:
                    if channel is not None:
                        # It may have ended by what is no longer there.
                        self._declarations.forget_all()
                    channel = await self.open(ConfirmingChannel, confirms=True)
                    self._publishing[key] = channel
        return channel

    def retire(self, channel: ConfirmingChannel, *, at_most_each: float) -> bool:
        """Publish on another channel from now on; whether it was this one.

        A queue that answers nothing may hold up all that the server has for a channel.

        Args:
            channel: The channel.
            at_most_each: Seconds since the last one of the same exchange; else it is kept, as it
                is where a quarter of all that the connection may have is none to publish on.
        """
        names = [name for name, one in self._publishing.items() if one is channel]
        now = self.loop.time()
        if not names or self.sifter.is_blocked:
            return False
        if len(self.connection.channels) - len(self._publishing) >= self.channel_max // 4:
            return False
        if at_most_each and now < self._retired.get(names[0], -inf) + at_most_each:
            return False
        if len(self._retired) >= MOST_CHANNELS:
            self._retired.clear()
        self._retired[names[0]] = now
        del self._publishing[names[0]]
        return True

    async def close_later(self, channel: ConfirmingChannel, *, after: float) -> None:
        """Close a channel after so many seconds: what is under way may still be confirmed."""
        await asyncio.sleep(after)
        if channel.is_open:
            channel.end(None)
            with contextlib.suppress(Exception):
                await channel.channel.close()

    def _key(self, exchange: str) -> str:
        """Whose channel an exchange has: beyond so many, one for all."""
        channels = self._publishing
        return exchange if exchange in channels or len(channels) < self._most_publishing - 1 else ""

    def ready_channel(
        self, exchange: str, parts: tuple[Part, ...], size: int
    ) -> ConfirmingChannel | None:
        """The channel to publish on, where nothing has to be opened, declared or waited for."""
        channel = self._publishing.get(self._key(exchange))
        if (
            channel is None
            or not channel.is_open
            or size > self.proven
            or self.sifter.is_blocked
            or self.unsent > MOST_UNSENT
            or not self._declarations.has_all(parts)
        ):
            return None
        return channel

    def forget(self, parts: Iterable[Part]) -> None:
        """What was declared may be there no more."""
        self._declarations.forget(parts)

    async def declare(self, parts: Iterable[Part]) -> None:
        """Declare what was not declared yet on this connection.

        Raises:
            TopologyError: Something is there with other properties.
            BrokerAuthenticationError: We may not.
            BrokerConnectionError: The connection is lost.
        """
        await self._declarations.declare(parts)

    async def messages_ready(self, queue: str) -> int:
        """How many messages wait in a queue.

        Raises:
            TopologyError: There is none of that name.
            BrokerConnectionError: The connection is lost.
        """
        return await self._declarations.messages_ready(queue)

    async def shielded(
        self, work: Coroutine[Any, Any, T], name: str, *, then: Callable[[], None] | None = None
    ) -> T:
        """Do what goes on where the caller is cancelled.

        The library ends what is cancelled by closing the channel, also one that is being closed,
        and that ends the connection.

        Args:
            work: What is done.
            name: Of its task.
            then: Is called before the caller goes on, or at the end of the work where it is gone.

        Raises:
            BrokerConnectionError: The connection is given up meanwhile.
        """
        task: asyncio.Task[T] = self._supervisor.spawn(work, name)
        task.add_done_callback(_read)  # the caller may be gone
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            if then is not None:
                task.add_done_callback(lambda _: then())
            raise
        if then is not None:
            then()
        if task.cancelled():  # with the connection; the caller is not
            raise BrokerConnectionError("the connection was lost")
        return task.result()

    async def close_channel(self, channel: Any) -> None:
        """Close a channel; bounded, and the connection goes where it takes too long."""
        if not channel.is_closed and self.is_open:
            await self.shielded(self._close_channel(channel), "close-channel")

    async def _close_channel(self, channel: Any) -> None:
        try:
            async with self.asking("a channel", within=CLOSE_S):
                await channel.close()
        except BrokerError:
            if not channel.is_closed:
                self.abort()

    async def close(self) -> None:
        """Close the connection; bounded."""
        for channel in self._publishing.values():
            channel.flush()
        await self._supervisor.stop(abort=False)

    async def _end(self) -> None:
        if self.is_open:
            with contextlib.suppress(BrokerError):
                async with self.asking("the connection", within=CLOSE_S):
                    await self.connection.close()
        _abort(self._writer)
        await cancel_and_wait(self._supervisor.tasks, grace=CLOSE_S)

    def abort(self) -> None:
        """End it without a word, and all that runs for it."""
        _abort(self._writer)
        self._supervisor.request_stop()


def _read(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _abort(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.transport.abort()
