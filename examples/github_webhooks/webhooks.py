"""``POST /webhooks/github``: check a delivery, announce it, answer. Nothing is handled here."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from eventflow import EventPublisher, RawJson
from eventflow.errors import (
    BrokerError,
    BufferFullError,
    BusClosedError,
    EventDecodeError,
    PublishError,
)
from examples.github_webhooks.events import WebhookReceived
from examples.github_webhooks.signature import is_signed

MAX_BODY_BYTES = 25 * 1024 * 1024  # GitHub sends no more than this.
MAX_HEADER_CHARS = 100

router = APIRouter()


def publisher_of(request: Request) -> EventPublisher:
    """The publisher this app was put together with: here a bus; it could be one to a broker."""
    publisher: EventPublisher = request.app.state.publisher
    return publisher


def secret_of(request: Request) -> str:
    """The secret that deliveries are signed with."""
    secret: str = request.app.state.settings.secret
    return secret


@router.post("/webhooks/github", status_code=202)
async def receive(
    request: Request,
    publisher: Annotated[EventPublisher, Depends(publisher_of)],
    secret: Annotated[str, Depends(secret_of)],
) -> Response:
    """Take one delivery."""
    body = await bounded_body(request)
    # Before anything is read into the bytes: who has not signed them gets no answer about them.
    if not is_signed(body, request.headers.get("X-Hub-Signature-256"), secret):
        raise HTTPException(401, "the signature does not belong to this body")
    delivery = WebhookReceived(
        delivery=header(request, "X-GitHub-Delivery"),
        event=header(request, "X-GitHub-Event"),
        body=json_body(body),
    )
    try:
        await publisher.publish(delivery)
    except (BufferFullError, BusClosedError, BrokerError, PublishError) as exc:
        # Not accepted, so the sender has to know: GitHub shows it as failed, and can redeliver.
        raise HTTPException(503, "too busy, or stopping", headers={"Retry-After": "5"}) from exc
    return Response(status_code=202)


async def bounded_body(request: Request) -> bytes:
    """Read the body, and no more than the limit: Content-Length may be absent, or a lie."""
    # The rest is not going to be read, so the connection can't be used again.
    too_large = HTTPException(413, "more than 25 MB", headers={"Connection": "close"})
    if int(request.headers.get("Content-Length") or 0) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise too_large
    except ClientDisconnect as exc:
        # Nobody is there to read this; it keeps a traceback out of the log.
        raise HTTPException(400, "the body ends early") from exc
    return bytes(body)


def header(request: Request, name: str) -> str:
    """Return a header that GitHub always sends."""
    value = request.headers.get(name, "")
    if not value or len(value) > MAX_HEADER_CHARS or not value.isprintable():
        raise HTTPException(400, f"{name} is missing, or is not what GitHub sends")
    return value


def json_body(body: bytes) -> RawJson:
    """Check that the body is JSON, without decoding it."""
    try:
        return RawJson(body)
    except EventDecodeError as exc:
        raise HTTPException(400, str(exc)) from exc
