"""Makes the topics: ``python -m examples.github_webhooks.topics``, once, before anybody needs them.

Those that are there stay as they are. Kafka needs this step, since neither a publish nor a
subscription creates a topic by the way. RabbitMQ needs it for what comes before the first worker:
a group gets what is published once its queue is there. A ``memory://`` needs none of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from eventflow.errors import EventFlowError
from eventflow.messaging import connect
from examples.github_webhooks.events import CARRIED, WebhookReceived
from examples.github_webhooks.listeners import WORK

PARTITIONS = 4
"""The most workers that have something to do."""


def topics() -> list[str]:
    """Return the names: of each event's topic, and of the one for its dead letters."""
    names = [str(event.topic) for event in CARRIED]
    return [*names, *(f"{name}.dead_letter" for name in names)]


async def ensure_topics(dsn: str) -> None:
    """Have the cluster create what is missing.

    Raises:
        EventFlowError: It could not.
    """
    async with connect(dsn) as broker:
        # An option of those backends alone whose topics have partitions.
        options: dict[str, Any] = {"partitions": PARTITIONS} if broker.features.partitions else {}
        await broker.ensure_topics(*topics(), **options)
        if not broker.features.old_messages:
            for name in WORK:
                group = broker.subscriber(group=f"webhooks.{name}")
                await group.prepare(str(WebhookReceived.topic))


def main() -> int:
    """Make them, and say so."""
    try:
        asyncio.run(ensure_topics(os.environ.get("EVENTFLOW_BROKER") or ""))
    except EventFlowError as exc:
        print(f"can't make the topics: {exc}", file=sys.stderr)
        return 1
    print(f"{len(topics())} topics are there: {', '.join(topics())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
