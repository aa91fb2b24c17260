"""`python -m tests.bench.rabbitmq`: measures of the RabbitMQ backend, on a server of its own."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.command import measure_on_a_server
from tests.bench.rabbitmq.measures import MEASURES
from tests.servers.rabbitmq import RabbitMQ, missing

if TYPE_CHECKING:
    from collections.abc import Generator


CONFIGURATION = """\
vm_memory_high_watermark.absolute = 2GB
raft.wal_max_size_bytes = 64000000
"""
"""Else runs fill the log of the quorum queues, which it has in memory, and publishers wait."""


@contextmanager
def started() -> Generator[str]:
    """A RabbitMQ with nothing in it: each run makes its own queue."""
    with tempfile.TemporaryDirectory() as directory:
        server = RabbitMQ.started(Path(directory), extra=CONFIGURATION)
        try:
            yield server.address
        finally:
            server.discard()


if __name__ == "__main__":
    sys.exit(measure_on_a_server("rabbitmq", __doc__, MEASURES, lacking=missing(), started=started))
