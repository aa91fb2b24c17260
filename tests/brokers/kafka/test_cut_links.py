"""The connection ends in the middle of a publish, or of its answer."""

from __future__ import annotations

import os
import random
import uuid
from typing import TYPE_CHECKING

import pytest

from eventflow.errors import PublishError
from eventflow.messaging import Message
from tests.brokers.kafka.support import broker_at, records

if TYPE_CHECKING:
    from tests.servers.proxy import ProxiedKafka

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
CUTS = 600 if STRESS else 18

pytestmark = [pytest.mark.kafka, pytest.mark.stress, pytest.mark.timeout(400)]


@pytest.fixture
def topic(proxied_kafka: ProxiedKafka) -> str:
    return proxied_kafka.create_topic(f"cut.{uuid.uuid4().hex[:12]}")


@pytest.mark.fault("PUB-01")
@pytest.mark.parametrize("stays_away", [False, True])
async def test_a_publish_that_is_cut(
    proxied_kafka: ProxiedKafka, topic: str, *, stays_away: bool
) -> None:
    """After n bytes of it, or of its answer, n random: it is stored, or its error tells the truth.

    Stored where the broker can be reached again at once. What was confirmed is there, what was
    refused is not; nothing is there twice, or another than it was.
    """
    proxy, rng = proxied_kafka.proxy, random.Random(1)
    sent: dict[str, bytes] = {}
    verdicts: dict[str, str] = {}
    cuts, before = CUTS // 6 if stays_away else CUTS, proxy.cuts
    for at in range(cuts):
        timeout = 1.0 if stays_away else 20.0
        async with broker_at(proxied_kafka.linked, publish_timeout=timeout) as broker:
            publisher = broker.publisher()
            await publisher.publish(topic, first := Message(b"first"))
            messages = [Message(rng.randbytes(rng.randrange(2_000))) for _ in range(10)]
            sent |= {m.id: m.payload for m in (first, *messages)}
            verdicts |= dict.fromkeys((m.id for m in (first, *messages)), "stored")
            if at % 3 == 2:
                proxy.cut_after(rng.randrange(100), "to_client", refuse=stays_away)
            else:
                size = sum(len(m.payload) + 50 for m in messages)
                proxy.cut_after(rng.randrange(size), "to_server", refuse=stays_away)
            try:
                await publisher.publish(topic, *messages)
            except PublishError as exc:
                assert stays_away
                verdicts |= dict.fromkeys(exc.not_stored, "not stored")
                verdicts |= dict.fromkeys(exc.unknown, "unknown")
        proxy.restore()
    assert proxy.cuts - before > cuts * 0.8
    there = records(proxied_kafka, topic)
    found = {dict(r.headers())["_watermill_message_uuid"].decode(): r.value() for r in there}
    assert len(found) == len(there)
    assert found.items() <= sent.items()
    said = {what: {n for n, v in verdicts.items() if v == what} for what in {*verdicts.values()}}
    assert said["stored"] <= found.keys()
    assert said.get("not stored", set()).isdisjoint(found)
    assert stays_away == (len(said["stored"]) < len(sent))
