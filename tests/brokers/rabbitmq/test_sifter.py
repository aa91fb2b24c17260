"""Frames are sorted out of a stream however it is cut."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from eventflow.brokers.rabbitmq._frames import BLOCKED, HEAD, HEARTBEAT, UNBLOCKED
from eventflow.brokers.rabbitmq._sifter import Sifter

if TYPE_CHECKING:
    import pytest


class Takes:
    """Takes frames whose payload begins with ``t``."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes]] = []

    def take(self, kind: int, data: bytes, at: int, end: int) -> bool:
        if data[at : at + 1] != b"t":
            return False
        self.taken.append((kind, data[at:end]))
        return True


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


frames = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 3),
        st.one_of(st.binary(max_size=30), st.binary(max_size=30).map(b"t".__add__)),
    ),
    max_size=12,
)


@given(frames, st.lists(st.integers(1, 40)))
def test_each_frame_goes_where_it_belongs(
    made: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    async def run() -> tuple[bytes, list[tuple[int, bytes]]]:
        sifter, takes = Sifter(lambda: None), Takes()
        sifter.takers[2] = takes
        stream = b"".join(frame(*one) for one in made)
        at = 0
        for cut in cuts:
            sifter.feed_data(stream[at : at + cut])
            at += cut
        sifter.feed_data(stream[at:])
        sifter.feed_eof()
        return await sifter.read(), takes.taken

    rest, taken = asyncio.run(run())
    is_taken = [channel == 2 and payload[:1] == b"t" for _, channel, payload in made]
    wanted = [frame(*one) for one, away in zip(made, is_taken, strict=True) if not away]
    assert rest.replace(HEARTBEAT, b"") == b"".join(wanted).replace(HEARTBEAT, b"")
    assert taken == [
        (kind, payload) for (kind, _, payload), away in zip(made, is_taken, strict=True) if away
    ]


def test_a_channel_may_come_in_the_middle_of_a_frame() -> None:
    """Of another one: what follows is still understood."""

    async def run() -> tuple[bytes, list[tuple[int, bytes]]]:
        sifter, takes = Sifter(lambda: None), Takes()
        first = frame(1, 1, b"of the library")
        sifter.feed_data(first[:9])
        sifter.takers[2] = takes
        sifter.feed_data(first[9:] + frame(1, 2, b"taken"))
        sifter.feed_eof()
        return (await sifter.read()).replace(HEARTBEAT, b""), takes.taken

    assert asyncio.run(run()) == (frame(1, 1, b"of the library"), [(1, b"taken")])


def test_the_library_hears_that_the_server_lives() -> None:
    """Also while it gets to see nothing else."""

    async def run() -> bytes:
        sifter = Sifter(lambda: None)
        sifter.takers[2] = Takes()
        for _ in range(3):
            sifter.feed_data(frame(1, 2, b"t"))
        sifter.feed_eof()
        return await sifter.read()

    assert asyncio.run(run()) == HEARTBEAT


def test_what_comes_before_there_are_channels_passes() -> None:
    """Also what is no frame: the answer of a server that speaks something else."""

    async def run() -> bytes:
        sifter = Sifter(lambda: None)
        sifter.feed_data(b"AMQP\0\0\x09\x01")
        sifter.feed_eof()
        return await sifter.read()

    assert asyncio.run(run()) == b"AMQP\0\0\x09\x01"


def test_a_blocked_connection_is_noticed() -> None:
    async def run() -> None:
        told: list[bool] = []
        sifter = Sifter(lambda: told.append(sifter.is_blocked))
        sifter.takers[2] = Takes()
        sifter.feed_data(frame(1, 0, BLOCKED.to_bytes(4) + b"\x00"))
        assert sifter.is_blocked
        assert not told
        sifter.feed_data(frame(1, 0, UNBLOCKED.to_bytes(4)))
        assert told == [False]

    asyncio.run(run())


def test_a_blocked_connection_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """When it begins, with the server's reason, and when it ends."""
    blocked = BLOCKED.to_bytes(4)

    async def run() -> list[int]:
        sifter = Sifter(lambda: None)
        said: list[int] = []
        for payload in (
            UNBLOCKED.to_bytes(4),
            blocked + b"\x0flow on \xff memory",
            blocked + b"\x0blow on disk",
            UNBLOCKED.to_bytes(4),
            blocked + b"\xffcut",
        ):
            sifter.feed_data(frame(1, 0, payload))
            said.append(len(caplog.records))
        return said

    assert asyncio.run(run()) == [0, 1, 1, 2, 3]
    first, second, third = (record.getMessage() for record in caplog.records)
    assert "eventflow.broker_blocked" in first
    assert "low on \ufffd memory" in first
    assert "eventflow.broker_unblocked" in second
    assert "blocked_s=" in second
    assert "cut" in third
