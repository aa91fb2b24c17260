"""`python -m tests.bench.kafka`: the measures of the Kafka backend, on a broker of their own."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.command import measure_on_a_server
from tests.bench.kafka import raw
from tests.bench.kafka.conditions import (
    DEAD_LETTERS,
    LATENCY,
    PARTITIONS,
    PUBLISHED,
    READ,
    SHARED,
    OrderPlaced,
    OrderShared,
)
from tests.bench.kafka.measures import MEASURES, READS, SHARES
from tests.servers.kafka import Kafka, missing

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def started() -> Generator[str]:
    """A Kafka, with topics, and with what is read from them."""
    with tempfile.TemporaryDirectory() as directory:
        server = Kafka.started(Path(directory))
        try:
            for topic in (READ, SHARED, PUBLISHED, LATENCY, *DEAD_LETTERS):
                server.create_topic(topic, partitions=PARTITIONS)
            raw.fill(server.address, READ, READS, name=OrderPlaced.__name__)
            raw.fill(server.address, SHARED, SHARES, name=OrderShared.__name__)
            yield server.address
        finally:
            server.kill()


if __name__ == "__main__":
    sys.exit(measure_on_a_server("kafka", __doc__, MEASURES, lacking=missing(), started=started))
