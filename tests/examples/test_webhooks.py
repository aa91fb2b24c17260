"""The route of the example service, with a publisher that only writes down what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from eventflow.errors import (
    BrokerClosedError,
    BufferFullError,
    BusClosedError,
    PublishTimeoutError,
)
from eventflow.testing import no_leaks
from examples.github_webhooks.app import create_app
from examples.github_webhooks.events import ACTIVITIES, Activity, WebhookReceived, activity_of
from examples.github_webhooks.feed import Feed, entry_of
from examples.github_webhooks.settings import Settings
from tests.examples.service import OWN, SECRET, SOURCES, Delivery, deliveries, headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fastapi import FastAPI

    from eventflow import Event

LIMIT = 25 * 1024 * 1024


class Recorder:
    """A publisher."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events: list[Event] = []
        self.error = error

    async def publish(self, event: Event) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(event)


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    made = create_app(Settings(secret=SECRET, database=tmp_path / "feed.db", notify_s=0.01))
    made.state.publisher = Recorder()
    return made


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


async def send(http: httpx.AsyncClient, delivery: Delivery, **changed: str) -> httpx.Response:
    return await http.post(
        "/webhooks/github", content=delivery.body, headers=headers(delivery) | changed
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
async def test_the_event_holds_the_bytes_that_were_sent(
    source: Path, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """In the event, in to_json(), and in what is read back from that."""
    sent = deliveries(source)
    for delivery in sent:
        assert (await send(http, delivery)).status_code == 202

    assert len(app.state.publisher.events) == len(sent)
    for delivery, event in zip(sent, app.state.publisher.events, strict=True):
        assert isinstance(event, WebhookReceived)
        assert (event.event, event.delivery) == (delivery.event, delivery.id)
        assert bytes(event.body) == delivery.body
        wire = event.to_json()
        head = f'{{"delivery":"{delivery.id}","event":"{delivery.event}","body":'.encode()
        assert wire == head + delivery.body + b"}"
        assert bytes(WebhookReceived.from_json(wire).body) == delivery.body


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
async def test_the_four_events_are_decoded(
    source: Path, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """Each delivery of a modelled event is that event; the others are no activity."""
    for delivery in deliveries(source):
        await send(http, delivery)
    kinds: set[type[object]] = set()
    for received in app.state.publisher.events:
        activity = activity_of(received)
        assert type(activity) is ACTIVITIES.get(received.event, type(None))
        if activity is not None:
            assert activity.where
            assert activity.id == received.delivery
            assert len(activity.describe()) > len("somebody ")
        kinds.add(type(activity))
    assert kinds == {*ACTIVITIES.values(), type(None)}


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        "sha1=" + "0" * 40,
        "sha256=\u00e9",
        None,
        "other secret",
    ],
)
async def test_a_wrong_signature_is_refused(
    signature: str | None, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """With 401, and nothing is announced."""
    delivery = deliveries(OWN)[0]
    given = headers(delivery, secret="other secret")
    if signature is None:
        del given["X-Hub-Signature-256"]
    elif signature != "other secret":
        given["X-Hub-Signature-256"] = signature
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]

    response = await http.post("/webhooks/github", content=delivery.body, headers=encoded)

    assert response.status_code == 401
    assert app.state.publisher.events == []


async def test_a_changed_body_is_refused(app: FastAPI, http: httpx.AsyncClient) -> None:
    """The signature is of every byte, blanks at the end included."""
    delivery = deliveries(OWN)[0]
    changed = delivery._replace(body=delivery.body + b" ")
    response = await http.post("/webhooks/github", content=changed.body, headers=headers(delivery))
    assert response.status_code == 401
    assert (await send(http, changed)).status_code == 202
    assert bytes(app.state.publisher.events[0].body) == delivery.body, (
        "blanks around it are not kept"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "RawJson"),
        (b"push", "RawJson"),
        (b'{"a":1} {"secret-token":2}', "byte 8"),
        (b'{"secret-token":NaN}', "RawJson"),
        (b'{"secret-token":"\xff"}', "unicode"),
        (b"[" * 100_000, "recursion limit"),
    ],
    ids=["empty", "text", "two documents", "NaN", "not UTF-8", "too deep"],
)
async def test_a_body_that_is_not_json_is_refused(
    body: bytes, said: str, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """With 400 and what is wrong with it, and without the payload."""
    response = await send(http, Delivery("push", "1", body))
    assert response.status_code == 400
    assert said in response.json()["detail"]
    assert "secret-token" not in response.text
    assert len(response.content) < 300
    assert app.state.publisher.events == []


@pytest.mark.parametrize("name", ["X-GitHub-Event", "X-GitHub-Delivery"])
@pytest.mark.parametrize("value", ["", "x" * 101, "\t\x7f"], ids=["none", "long", "control"])
async def test_github_s_headers_are_needed(
    name: str, value: str, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """A delivery without them, or with something else in them, is refused with 400."""
    response = await send(http, deliveries(OWN)[0], **{name: value})
    assert response.status_code == 400
    assert name in response.json()["detail"]
    assert app.state.publisher.events == []


@pytest.mark.parametrize("length", [None, "10", str(LIMIT + 1)], ids=["absent", "a lie", "true"])
async def test_a_body_above_25_mb_is_refused(
    length: str | None, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """With 413, whatever its length is said to be; no more than the limit is read."""
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(40):
            taken += 1024 * 1024
            yield bytes(1024 * 1024)

    given = {} if length is None else {"Content-Length": length}
    response = await http.post("/webhooks/github", content=body(), headers=given)

    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert taken <= LIMIT + 1024 * 1024
    assert app.state.publisher.events == []


async def test_a_body_of_25_mb_is_accepted(app: FastAPI, http: httpx.AsyncClient) -> None:
    """The limit itself is allowed."""
    delivery = Delivery("star", "1", b'"' + b"x" * (LIMIT - 2) + b'"')
    assert (await send(http, delivery)).status_code == 202
    assert len(app.state.publisher.events[0].body) == LIMIT


@pytest.mark.parametrize(
    "error",
    [
        BufferFullError("full"),
        BusClosedError("closed"),
        PublishTimeoutError("away"),
        BrokerClosedError("closed"),
    ],
    ids=repr,
)
async def test_what_can_t_be_taken_is_not_accepted(
    error: Exception, app: FastAPI, http: httpx.AsyncClient
) -> None:
    """The sender gets 503 and may send it again."""
    app.state.publisher = Recorder(error)
    response = await send(http, deliveries(OWN)[0])
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"


@pytest.mark.promise(5, 7)
@pytest.mark.option("overflow", "resources", "capacity")
async def test_a_slow_chat_misses_news_and_holds_up_nobody(
    app: FastAPI, http: httpx.AsyncClient
) -> None:
    """It drops what it can't take; the feed and the counters have everything."""
    pushed = deliveries(OWN)[0]
    bus = app.state.publisher = app.state.bus
    with no_leaks():
        async with app.router.lifespan_context(app):
            for number in range(60):
                sent = await send(http, pushed._replace(id=str(number)))
                assert sent.status_code == 202
    assert bus.ledger.adds_up
    assert [bus.ledger[name].handled for name in ("store", "decode", "count")] == [60, 60, 60]
    chat = bus.ledger["notify"]
    assert chat.handled + chat.dropped == 60
    assert chat.dropped > 0
    with_feed = Feed(app.state.settings.database)
    assert [entry.delivery for entry in with_feed.latest(60)] == [str(n) for n in range(59, -1, -1)]
    with_feed.close()


async def test_a_delivery_that_can_t_be_decoded_is_kept(
    app: FastAPI, http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as failed for who decodes, with the reason in the log, and is in the feed."""
    strange = Delivery("push", "1", b'{"ref":17,"sender":{"login":"me"}}')
    bus = app.state.publisher = app.state.bus
    async with app.router.lifespan_context(app):
        assert (await send(http, strange)).status_code == 202
    assert (bus.ledger["store"].handled, bus.ledger["decode"].failed) == (1, 1)
    assert bus.ledger["count"].offered == 0
    assert "ref" in caplog.text


async def test_a_redelivery_is_stored_once(app: FastAPI, http: httpx.AsyncClient) -> None:
    """GitHub sends it again under the same id."""
    app.state.publisher = app.state.bus
    delivery = deliveries(OWN)[0]
    async with app.router.lifespan_context(app):
        for _ in range(2):
            assert (await send(http, delivery)).status_code == 202
        await app.state.bus.wait_idle()
        assert len((await http.get("/feed")).json()) == 1


async def test_a_summary_has_a_bounded_length(app: FastAPI, http: httpx.AsyncClient) -> None:
    """Also where the title has none."""
    body = b'{"action":"opened","issue":{"number":1,"title":"%s"}}' % (b"x" * 10_000)
    await send(http, Delivery("issues", "1", body))
    [received] = app.state.publisher.events
    assert len(entry_of(received).summary) == 201
    assert isinstance(activity_of(received), Activity)
