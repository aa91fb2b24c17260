"""What a message may hold, how large it may be, and a publish of several with one that can't be."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import (
    InvalidTopicError,
    MessageTooLargeError,
    PublishError,
    PublishTimeoutError,
    UnsupportedFeatureError,
)
from eventflow.messaging import Message
from eventflow.testing.contract._case import ContractCase

if TYPE_CHECKING:
    from eventflow.messaging import Delivery, Publisher

__all__ = ("ContentsContract",)

MIB = 1_048_576
POISON = (
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"\x00" * 100,
    b"[" * 20_000,
    b'{"n": 1e99999}',
    b'{"text": "\xed\xa0\x80"}',
    b"null",
    b"\r\n\r\n",
)
"""Payloads that one codec or another can't read."""
METADATA = {
    "plain": "value",
    "empty": "",
    "Zażółć": "gęślą jaźń",
    "emoji": "🜂 👩‍👩‍👧",
    "spaces and: marks/": " around ",
    "quotes": "\"'\\",
    "lines": "one\ntwo\r\nthree\ttab",
    "nul": "a\x00b",
    "long": "x" * 5_000,
    "_": "\u202eright to left\u202c",
}


class ContentsContract(ContractCase):
    """Payloads, metadata, ids, native headers, sizes, and what is refused."""

    async def _sent_and_received(self, messages: list[Message]) -> list[Message]:
        """What came of messages that were published one by one."""
        came: list[Message] = []
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            tally = self.tally()

            def handle(delivery: Delivery) -> None:
                came.append(delivery.message)
                delivery.ack()

            async with self.reading(subscriber, topic, tally, handle=handle):
                await self.publish(broker.publisher(), topic, messages, tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)
        return came

    async def test_ids_are_kept(self) -> None:
        """Those that the library makes, short ones, long ones, and ones that are no UUID."""
        messages = [
            Message(b"x"),
            *(Message(b"x", id=i) for i in ("1", "a/b c", "ż" * 40, "i" * 36)),
        ]
        came = await self._sent_and_received(messages)
        assert sorted(m.id for m in came) == sorted(m.id for m in messages)

    async def test_metadata_is_kept_to_the_character(self) -> None:
        """Unicode in names and values, blanks around, line ends, quotes, an empty value."""
        (came,) = await self._sent_and_received([Message(b"x", METADATA)])
        assert came.metadata == METADATA

    async def test_a_payload_is_kept_to_the_byte(self) -> None:
        """An empty one, all 256 bytes, and 1 MiB of noise (less where the backend takes less)."""
        async with self.opened() as broker:
            limit = broker.features.max_payload_bytes
        size = MIB if limit is None else min(MIB, limit)
        noise = random.Random(1).randbytes(size)  # noqa: S311 - no secret
        payloads = [b"", bytes(range(256))[:size], noise]
        came = await self._sent_and_received([Message(payload) for payload in payloads])
        assert sorted(m.payload for m in came) == sorted(payloads)

    async def test_a_poison_body_passes_through_and_blocks_nothing(self) -> None:
        """A backend does not read payloads: what no codec can read comes as it was sent."""
        async with self.opened() as broker:
            limit = broker.features.max_payload_bytes
        payloads = [poison for poison in POISON if limit is None or len(poison) <= limit]
        messages = [
            message
            for n, payload in enumerate(payloads)
            for message in (Message(payload), Message(f'{{"n":{n}}}'.encode(), {"good": "yes"}))
        ]
        came = await self._sent_and_received(messages)
        assert sum("good" in message.metadata for message in came) == len(payloads)

    async def test_publishing_nothing_does_nothing(self) -> None:
        """No message, no error, no delivery."""
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            await broker.publisher().publish(topic)
            async with self.subscribed(subscriber, topic) as deliveries:
                await self.is_silent(deliveries)

    async def test_native_headers_come_back_or_are_refused(self) -> None:
        """Bytes that are no text, a name that comes twice; beside the metadata.

        Those of one name in their order; of others the broker may make one of its own. What could
        be metadata may come back as such: on the wire there may be no difference.
        """
        headers = (("h", b"\xff\x00"), ("twice", b"\xfe"), ("twice", b"\x80"), ("a", b"\xff"))
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            message = Message(b"x", {"a": "1"}, headers=headers)
            if not broker.features.headers:
                await self._is_refused(broker.publisher(), topic, message, UnsupportedFeatureError)
                async with self.subscribed(subscriber, topic) as deliveries:
                    await self.is_silent(deliveries)
                return
            await broker.publisher().publish(topic, message)
            async with self.subscribed(subscriber, topic) as deliveries:
                for _ in range(2):
                    delivery = await self.next(deliveries)
                    assert sorted(delivery.message.headers, key=_name) == sorted(headers, key=_name)
                    assert delivery.message.metadata == {"a": "1"}
                    assert set(headers) <= set(delivery.headers)
                    delivery.nack()

    async def test_sizes_at_the_limit(self) -> None:
        """Limit − 1 and limit are taken, limit + 1 is refused before anything is sent.

        The refused one's neighbours of the same call are not stored either; those before and
        after come, and the publisher goes on. Without a limit two MiB are taken.
        """  # noqa: RUF002 - the minus of the sentence
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            publisher, limit = broker.publisher(), broker.features.max_payload_bytes
            tally = self.tally()
            if limit is None:
                sizes, refused = [2 * MIB], list[Message]()
            else:
                sizes = [limit - 1, limit]
                refused = [Message(b"x"), Message(b"x" * (limit + 1)), Message(b"x")]
            fits = [Message(b"x" * size) for size in sizes]
            async with self.reading(subscriber, topic, tally):
                await self.publish(publisher, topic, fits, tally)
                if refused:
                    with pytest.raises(MessageTooLargeError) as caught:
                        await publisher.publish(topic, *refused)
                    _names_all_as_not_stored(caught.value, refused)
                    assert caught.value.message_id == refused[1].id
                    assert (caught.value.size, caught.value.limit) == (
                        len(refused[1].payload),
                        limit,
                    )
                await self.publish(publisher, topic, self.messages(3), tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates)

    async def test_one_bad_message_of_several(self) -> None:
        """A call with one that can't be sent: the error tells what of it is stored, truly.

        Whatever the backend refuses: too large, a delay or native headers that it does not have.
        """
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            publisher, features = broker.publisher(), broker.features
            bad = [
                *([Message(b"x" * (limit + 1))] if (limit := features.max_payload_bytes) else []),
                *([] if features.headers else [Message(b"x", headers=(("h", b"1"),))]),
                *([] if features.publish_delay else [Message(b"x", _DELAYED)]),
            ]
            tally = self.tally()
            async with self.reading(subscriber, topic, tally):
                for one in bad:
                    call = [Message(b"before"), one, Message(b"behind")]
                    try:
                        await publisher.publish(topic, *call)
                    except UnsupportedFeatureError:
                        pass  # nothing was sent
                    except PublishError as error:
                        told = (*error.stored, *error.not_stored, *error.unknown)
                        assert sorted(told) == sorted(m.id for m in call)
                        tally.published(*(m for m in call if m.id in error.stored))
                        tally.may_be_stored(*(m for m in call if m.id in error.unknown))
                    else:
                        raise AssertionError(f"{one!r} was taken")
                with pytest.raises(InvalidTopicError):
                    await publisher.publish("no topic!", Message(b"x"))
                with pytest.raises(InvalidTopicError):
                    await publisher.publish("a.*", Message(b"x"))
                await self.publish(publisher, topic, self.messages(3), tally)
                await self.complete(tally)
            # A neighbour that came though the error said that it is not stored is foreign here.
            tally.check(duplicates=self.max_duplicates)

    async def _is_refused(
        self, publisher: Publisher, topic: str, message: Message, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await publisher.publish(topic, Message(b"before"), message, Message(b"behind"))

    async def test_a_publish_ends_within_its_deadline(self) -> None:
        """While the broker takes nothing: a typed error, then nothing is stored behind our back.

        Whoever tries again with the same id when the broker is back has it handled at least once,
        and exactly once if the error said that it was not stored.
        """
        async with self.opened() as broker:
            topic, subscriber = await self.place(broker)
            publisher, tally = broker.publisher(), self.tally()
            message, after = Message(b"refused"), Message(b"after")
            blocked = self.blocked(broker, topic)
            loop = asyncio.get_running_loop()
            async with self.reading(subscriber, topic, tally):
                if blocked is not None:
                    async with AsyncExitStack() as stack:
                        await self.bounded(stack.enter_async_context(blocked), "blocked()")
                        began = loop.time()
                        with pytest.raises(PublishTimeoutError) as caught:
                            await self.bounded(
                                publisher.publish(topic, message),
                                "a publish that can't be taken",
                                within=self.publish_timeout + self.patience,
                            )
                        assert loop.time() - began <= self.publish_timeout + 1.0
                        assert caught.value.retriable
                        _names_all(caught.value, [message])
                    if message.id in caught.value.not_stored:
                        await asyncio.sleep(self.silence)
                        assert not tally.times(message.id), "stored after it was said not to be"
                    else:
                        tally.may_come_again(message.id)
                await self.publish(publisher, topic, [message, after], tally)
                await self.complete(tally)
            tally.check(duplicates=self.max_duplicates, foreign=True)


_DELAYED = {"_watermill_delayed_until": "2999-01-01T00:00:00Z", "_watermill_delayed_for": "1h0m0s"}


def _names_all(error: PublishError, messages: list[Message]) -> None:
    told = (*error.stored, *error.not_stored, *error.unknown)
    assert sorted(told) == sorted(message.id for message in messages), "each once, in one group"


def _names_all_as_not_stored(error: PublishError, messages: list[Message]) -> None:
    _names_all(error, messages)
    assert len(error.not_stored) == len(messages)


def _name(header: tuple[str, bytes]) -> str:
    return header[0]
