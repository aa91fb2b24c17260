"""What a browser sees: the page, the feed as it grows, and the ledger."""

from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse

from eventflow import EventBus, Overflow
from eventflow.bus import BusStatistics, SubscriptionStatistics
from eventflow.lifecycle.ledger import ServiceLedger
from eventflow.messaging import HandlerStatistics, RouterStatistics
from examples.github_webhooks.events import ServiceStopping, WebhookReceived
from examples.github_webhooks.feed import Feed, FeedEntry, entry_of

HERE = Path(__file__).parent

# Titles and names in a feed are written by strangers. page.js puts them in as text only; should
# that ever fail, the browser still runs no script but ours, and sends nothing anywhere else.
SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter()


def bus_of(request: Request) -> EventBus:
    """The bus, for those who look at it."""
    bus: EventBus = request.app.state.bus
    return bus


@router.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(HERE / "page.html", headers=SAFE)


@router.get("/page.css")
def style() -> FileResponse:
    """Its style."""
    return FileResponse(HERE / "page.css", headers=SAFE)


@router.get("/page.js")
def script() -> FileResponse:
    """Its script."""
    return FileResponse(HERE / "page.js", headers=SAFE)


@router.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    """The ledgers, so far: one row for each listener, wherever it runs."""
    ledger = request.app.state.service.ledger
    # What is dropped and rejected is so by a bus; a broker's messages wait.
    none = {"dropped": 0, "rejected": 0}
    rows = [none | asdict(row) for row in rows_of(ledger)]
    return {"subscriptions": rows, "adds_up": ledger.adds_up}


def rows_of(ledger: ServiceLedger) -> list[SubscriptionStatistics | HandlerStatistics]:
    """The rows of the ledgers of a service's members."""
    rows: list[SubscriptionStatistics | HandlerStatistics] = []
    for each in ledger.ledgers:
        match each:
            case BusStatistics():
                rows += each.subscriptions
            case RouterStatistics():
                rows += each.handlers
            case _:
                pass
    return rows


@router.get("/board")
async def board(request: Request) -> dict[str, Any]:
    """Counters per repository, most active first, and what the chat was told last."""
    board = request.app.state.board
    ranked = sorted(board.repositories.items(), key=lambda item: -item[1].total())
    return {
        "repositories": [{"name": name, "counts": counts} for name, counts in ranked[:10]],
        "notified": list(board.notified),
    }


@router.get("/feed")
def feed(request: Request) -> list[FeedEntry]:
    """The newest entries, from the database, over a connection of this request's own."""
    with closing(Feed(request.app.state.settings.database)) as feed:
        return feed.latest()


@router.get("/live", response_class=EventSourceResponse)
async def live(bus: Annotated[EventBus, Depends(bus_of)]) -> AsyncIterator[FeedEntry]:
    """Entries as they come. A browser that is too slow misses some, and holds up nobody."""
    async with bus.stream("webhooks.*", overflow=Overflow.DROP_OLDEST, capacity=100) as events:
        async for event in events:
            match event:
                case WebhookReceived():
                    yield entry_of(event)
                case ServiceStopping():
                    # The server waits for every response to end before it stops.
                    return
                case _:
                    pass
