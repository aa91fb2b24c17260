"""What docs/events.md says of events and FastAPI."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints below.

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request

from eventflow.errors import EventDecodeError
from eventflow.events import BigInt, Event, Int64String, Part, RawJson


class Line(Part):
    price: Decimal
    note: str | None = None


class Shipped(Event, topic="orders.shipped"):
    order: UUID
    at: datetime
    after: timedelta = timedelta(seconds=2)
    data: bytes = b""
    big: BigInt = 0
    count: Int64String = 0
    lines: tuple[Line, ...] = ()
    payload: RawJson = RawJson(b"{}")
    note: str | None = None


EVENT = Shipped(
    order=UUID(int=1),
    at=datetime(2024, 5, 1, 8, tzinfo=UTC),
    data=b"\xff",
    lines=(Line(price=Decimal("1.50")),),
)
app = FastAPI()


async def shipped(request: Request) -> Shipped:
    try:
        return Shipped.from_json(await request.body())
    except EventDecodeError as error:
        raise HTTPException(422, str(error)) from None


@app.post("/read")
async def read(event: Annotated[Shipped, Depends(shipped)]) -> Shipped:
    return event


@app.post("/parsed")
async def parsed(event: Shipped) -> Shipped:
    return event


class Plain(Event, topic="orders.plain"):
    order: str
    count: int


@app.post("/plain")
async def plain(event: Plain) -> Plain:
    return event


async def send(method: str, path: str, content: bytes = b"") -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        headers = {"content-type": "application/json"}
        return await client.request(method, path, content=content, headers=headers)


async def test_an_endpoint_reads_the_body_itself_and_returns_an_event() -> None:
    """What comes back is what was sent, but for the raw value, which is parsed on its way."""
    response = await send("POST", "/read", EVENT.to_json())
    assert response.status_code == 200
    assert response.content == EVENT.to_json()
    event = EVENT.model_copy(update={"payload": RawJson(b'{"a": 1e2}')})
    response = await send("POST", "/read", event.to_json())
    assert b'"payload":{"a":100.0}' in response.content


async def test_unknown_fields_are_passed_over_and_wrong_ones_named() -> None:
    """The body is read as tolerantly, and refused as exactly, as anywhere."""
    body = EVENT.to_json()
    more = body.replace(b'"price":', b'"new":1,"price":').replace(b'"at":', b'"newer":1,"at":')
    assert more.count(b"new") == 2
    response = await send("POST", "/read", more)
    assert (response.status_code, response.content) == (200, body)
    response = await send("POST", "/read", body.replace(b'"1.50"', b"1.5"))
    assert response.status_code == 422
    assert "lines[0].price" in response.json()["detail"]


async def test_a_parameter_of_an_event_class_is_no_way_in() -> None:
    """FastAPI parses the body itself and gives Python values, where text is no datetime."""
    response = await send("POST", "/parsed", EVENT.to_json())
    assert response.status_code == 422
    locations: list[Any] = [problem["loc"] for problem in response.json()["detail"]]
    assert ["body", "at"] in locations


async def test_with_plain_fields_it_works_by_accident() -> None:
    """JSON has text and numbers itself, so there is nothing to convert."""
    response = await send("POST", "/plain", b'{"order":"A-1","count":1}')
    assert (response.status_code, response.content) == (200, b'{"order":"A-1","count":1}')


async def test_the_schema_of_the_service() -> None:
    """OpenAPI describes the event by its wire."""
    response = await send("GET", "/openapi.json")
    assert response.status_code == 200
    properties = response.json()["components"]["schemas"]["Shipped"]["properties"]
    assert properties["after"] == {
        "type": "integer",
        "format": "int64",
        "title": "After",
        "default": 2_000_000_000,
    }
    assert properties["big"] == {"type": "integer", "title": "Big", "default": 0}
