"""A process that consumes, processes and produces, and comes to its end inside a transaction.

``python -m tests.brokers.kafka.transactional address group topic window signal``: it takes numbers
from a topic, and gives each on to ``<topic>.out``, with its number. Those that end in 3 fail once,
after they have published; those that end in 7 are dead letters. Ends when its input ends.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from typing import Any

from confluent_kafka import Producer

from eventflow.brokers.kafka import _settings, _transactions
from eventflow.errors import Permanent
from eventflow.failure import FailurePolicy, Retry
from eventflow.messaging import Message, Publisher, Router
from tests.brokers.kafka.support import broker_at

__all__ = ("AFTER", "TRANSACTION_MS", "WINDOWS", "add_handler")

WINDOWS = ("produced", "sent", "committing", "committed")
"""Where in a transaction it ends."""
AFTER = 3
"""Transactions with outputs before that."""
TRANSACTION_MS = 2_500


def add_handler(
    router: Router, topic: str, subscriber: Any, *, failed: set[bytes] | None = None
) -> None:
    """What it does with each message; also in the process of a test."""
    publisher: Publisher = subscriber.publisher()
    failures: set[bytes] = set() if failed is None else failed

    async def handle(message: Message) -> Message:
        number = message.payload
        await publisher.publish(f"{topic}.out", Message(b"first of " + number, key=message.key))
        if number.endswith(b"7"):
            raise Permanent
        if number.endswith(b"3") and number not in failures:
            failures.add(number)
            raise ValueError
        return Message(b"second of " + number, key=message.key)

    router.add_handler(
        "work",
        topic,
        handle,
        subscriber=subscriber,
        publisher=publisher,
        publish_topic=f"{topic}.out",
        concurrency=20,
        on_failure=FailurePolicy(retry=Retry(attempts=3, initial=0.01)),
    )


def plant(window: str, what: signal.Signals) -> None:
    """Have the process end in a window of its transactions."""

    def end() -> None:
        print("at", flush=True)
        os.kill(os.getpid(), what)

    class Planted(Producer):
        outputs = transactions = 0

        def produce(self, *args: Any, **options: Any) -> None:
            self.outputs += 1
            super().produce(*args, **options)

        def send_offsets_to_transaction(
            self, positions: Any, group_metadata: Any, timeout: float = -1
        ) -> None:
            self.transactions += self.outputs > 0
            at = window if self.outputs and self.transactions == AFTER else ""
            if at == "produced":
                assert self.flush(30) == 0
                end()
            super().send_offsets_to_transaction(positions, group_metadata, timeout)
            if at == "sent":
                assert self.flush(30) == 0
                end()

        def commit_transaction(self, timeout: float = -1) -> None:
            at = window if self.outputs and self.transactions == AFTER else ""
            self.outputs = 0
            if at == "committing":
                threading.Thread(target=end).start()
            super().commit_transaction(timeout)
            if at == "committed":
                end()

    module: Any = _transactions
    module.Producer = Planted


async def main(address: str, group: str, topic: str) -> None:
    """Work until the input ends."""
    async with broker_at(address, session_timeout=1.0) as broker:
        router = Router()
        add_handler(router, topic, broker.subscriber(group=group, transactional=True))
        async with router:
            print("running", flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    faulthandler.enable()
    *where, window, number = sys.argv[1:]
    _settings.TRANSACTION_MS = TRANSACTION_MS
    if window:
        plant(window, signal.Signals(int(number)))
    asyncio.run(main(*where))
