"""The example service with its events in the process, and on a broker: nobody can tell."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from eventflow.testing import no_leaks
from examples.github_webhooks.app import create_app
from examples.github_webhooks.events import ACTIVITIES
from examples.github_webhooks.pages import rows_of
from examples.github_webhooks.settings import Settings
from tests.examples.service import (
    OWN,
    SECRET,
    SOURCES,
    Delivery,
    Service,
    deliveries,
    headers,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

WAYS = {"process": None, "broker": "memory://"}


class Outcome(NamedTuple):
    """What is left when the service has stopped."""

    stored: list[tuple[str, str, str, str, bytes]]
    repositories: dict[str, dict[str, int]]
    handled: dict[str, int]
    dead_lettered: int


async def send_all(sent: list[Delivery], broker: str | None, database: Path) -> Outcome:
    app = create_app(Settings(secret=SECRET, database=database, notify_s=0.0, broker=broker))
    transport = httpx.ASGITransport(app)
    with no_leaks():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as http,
        ):
            for delivery in sent:
                response = await http.post(
                    "/webhooks/github", content=delivery.body, headers=headers(delivery)
                )
                assert response.status_code == 202
    ledger = app.state.service.ledger
    assert ledger.adds_up
    assert not ledger.abandoned
    with closing(sqlite3.connect(database)) as connection:
        stored = connection.execute(
            "SELECT delivery, event, repository, summary, body FROM feed ORDER BY number"
        ).fetchall()
    rows = {row.name: row for row in rows_of(ledger)}
    return Outcome(
        stored,
        {name: dict(counter) for name, counter in app.state.board.repositories.items()},
        {name: rows[name].handled for name in ("store", "decode", "count")},
        sum(getattr(row, "dead_lettered", 0) for row in rows.values()),
    )


@pytest.mark.promise("2", "3")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
async def test_every_delivery_goes_both_ways(source: Path, tmp_path: Path) -> None:
    """None is lost, none comes twice, in the same order; and every body is what was sent."""
    sent = deliveries(source)
    found = {
        name: await send_all(sent, broker, tmp_path / f"{name}.db") for name, broker in WAYS.items()
    }

    for outcome in found.values():
        assert [(row[0], row[1], row[-1]) for row in outcome.stored] == [
            (delivery.id, delivery.event, delivery.body) for delivery in sent
        ]
        assert outcome.handled["store"] == outcome.handled["decode"] == len(sent)
        assert outcome.handled["count"] == sum(d.event in ACTIVITIES for d in sent)
        assert outcome.dead_lettered == 0
    assert found["process"] == found["broker"]


async def test_one_that_can_t_be_decoded_is_dead_lettered(tmp_path: Path) -> None:
    """In the process it is failed and logged; on a broker it is kept beside that."""
    strange = Delivery("push", "1", b'{"ref":17}')
    settings = Settings(secret=SECRET, database=tmp_path / "feed.db", broker="memory://")
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as http,
    ):
        sent = await http.post("/webhooks/github", content=strange.body, headers=headers(strange))
        assert sent.status_code == 202
    rows = {row.name: row for row in rows_of(app.state.service.ledger)}
    assert (rows["store"].handled, rows["decode"].failed) == (1, 1)
    assert getattr(rows["decode"], "dead_lettered", 0) == 1


def test_the_process_takes_the_broker_from_its_environment(tmp_path: Path) -> None:
    """The page, its live feed and its counters show what came that way; the stop drains it."""
    sent = deliveries(OWN)
    with Service(tmp_path, EVENTFLOW_BROKER="memory://") as service:
        for delivery in sent:
            assert service.send(delivery) == 202
        until(lambda: service.stats("store")["handled"] == len(sent), "all are stored")
        until(lambda: service.stats("notify")["handled"] > 0, "the chat was told")
        assert len(service.http.get("/feed").json()) == len(sent)
        assert service.stop() == 0, service.stderr
    assert service.stored() == {d.id: (d.event, d.body) for d in sent}
    assert service.stderr == ""


@pytest.mark.parametrize("broker", ["nobody://h", "memory://u:geheim@h", "u:geheim@h"])
def test_a_wrong_address_ends_with_one_line(broker: str, tmp_path: Path) -> None:
    """Without its password."""
    service = Service(tmp_path, EVENTFLOW_BROKER=broker)
    with pytest.raises(AssertionError, match="can't start"):
        service.__enter__()
    assert service.process.returncode == 1
    assert service.stderr.count("\n") == 1
    assert "geheim" not in service.stderr
