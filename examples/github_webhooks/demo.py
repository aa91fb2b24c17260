"""Traffic for a service that has none: deliveries as GitHub would send them, over HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from examples.github_webhooks.feed import Feed
from examples.github_webhooks.pages import rows_of
from examples.github_webhooks.signature import sign

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from eventflow.lifecycle.ledger import ServiceLedger
    from examples.github_webhooks.server import Server
    from examples.github_webhooks.settings import Settings

DELIVERIES = 100
EVERY_S = 0.03
LONGEST_WAIT_S = 30.0  # A worker that was killed has its partitions for session_timeout more.

REPOSITORIES = ("harbour/tide-tables", "harbour/buoy-firmware", "kiosk/till", "kiosk/receipts")
PEOPLE = ("amelie", "bashir", "chidi", "dorota", "renovate[bot]")
TITLES = (
    "Tides are an hour off after the clocks change",
    "Retry when the printer is out of paper",
    "Explain how a buoy finds its neighbours",
    "Umlauts in names: Zoë, Jürgen, 東京 🚢",
    "Escape <script>alert('hello')</script> in titles",
    "Halve the memory of the forecast",
)
OTHERS = ("star", "fork", "workflow_run", "check_run", "issue_comment")


def deliveries(count: int, chance: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Event names and bodies, cut down to what is interesting about them."""
    for number in range(1, count + 1):
        event = chance.choice(("push", "push", "issues", "pull_request", "release", "other"))
        title = chance.choice(TITLES)
        body: dict[str, Any] = {
            "repository": {"id": 1000 + number, "full_name": chance.choice(REPOSITORIES)},
            "sender": {"login": chance.choice(PEOPLE), "type": "User"},
        }
        match event:
            case "push":
                messages = chance.sample(TITLES, chance.randint(1, 3))
                body |= {"ref": chance.choice(("refs/heads/main", "refs/heads/next"))}
                body |= {"commits": [{"id": f"{number:040x}", "message": m} for m in messages]}
            case "issues":
                body |= {"action": chance.choice(("opened", "closed", "labeled"))}
                body |= {"issue": {"number": number, "title": title}}
            case "pull_request":
                body |= {"action": chance.choice(("opened", "closed")), "number": number}
                body |= {"pull_request": {"title": title, "merged": chance.random() < 0.7}}
            case "release":
                body |= {"action": "published"}
                body |= {"release": {"tag_name": f"v1.{number}", "name": None}}
            case _:
                # Nobody has modelled these; the catch-all keeps them all the same.
                event = chance.choice(OTHERS)
                body |= {"action": "created", "score": 1.0e2}
        yield event, body


class Demo:
    """Sends deliveries to a server, waits until they are handled, and counts them."""

    def __init__(
        self, url: str, settings: Settings, say: Callable[[str], None], *, count: int = DELIVERIES
    ) -> None:
        self.ready = asyncio.Event()
        self._url = url
        self._settings = settings
        self._say = say
        self._count = count
        self._sent: dict[str, bytes] = {}
        self._problems: list[str] = []

    async def run(self, server: Server, sock: socket.socket) -> None:
        """Run the server for as long as the traffic lasts."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [sock])
            try:
                await self.ready.wait()
                await self._send(server)
            finally:
                server.should_exit = True

    async def _send(self, server: Server) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False) as client:
            await self._post(client, "push", b"{}", signature="sha256=forged", expected=401)
            for number, (event, body) in enumerate(deliveries(self._count, random.Random(7)), 1):  # noqa: S311 - not for secrets
                if server.should_exit:
                    self._problems.append(f"stopped after {number - 1} of {self._count}")
                    return
                data = json.dumps(body, ensure_ascii=False).encode()
                await self._post(client, event, data)
                if number % 20 == 0:
                    self._say(f"  {number:4} of {self._count} accepted, the last a {event}")
                await anyio.sleep(EVERY_S)
            await self._check_database()

    async def _post(
        self,
        client: httpx.AsyncClient,
        event: str,
        data: bytes,
        *,
        signature: str | None = None,
        expected: int = 202,
    ) -> None:
        delivery = str(uuid.uuid4())
        response = await client.post(
            "/webhooks/github",
            content=data,
            headers={
                "X-GitHub-Event": event,
                "X-GitHub-Delivery": delivery,
                "X-Hub-Signature-256": signature or sign(data, self._settings.secret),
            },
        )
        if response.status_code != expected:
            self._problems.append(f"{event}: {response.status_code}, not {expected}")
        elif expected == 202:
            self._sent[delivery] = data

    async def _check_database(self) -> None:
        with anyio.move_on_after(LONGEST_WAIT_S):
            # Nothing tells when a row is written, here or in another process.
            while self._count_intact() != len(self._sent):  # noqa: ASYNC110
                await anyio.sleep(EVERY_S)
        intact = self._count_intact()
        self._say(f"  {intact} of {len(self._sent)} are in the feed, byte for byte")
        if intact != len(self._sent):
            self._problems.append(f"{len(self._sent) - intact} are missing in the feed, or differ")

    def _count_intact(self) -> int:
        with closing(Feed(self._settings.database)) as feed:
            stored = feed.bodies()
        return sum(stored.get(delivery) == data for delivery, data in self._sent.items())

    def is_complete(self, ledger: ServiceLedger) -> bool:
        """Tell, and say, whether everything that was sent was handled."""
        handled = {row.name: row.handled for row in rows_of(ledger)}
        for name in ("store", "decode"):
            # Where workers do that, their own ledgers tell.
            if handled.get(name, len(self._sent)) != len(self._sent):
                self._problems.append(f"{name} handled {handled[name]}")
        if len(self._sent) != self._count:
            self._problems.append(f"{len(self._sent)} of {self._count} were accepted")
        for problem in self._problems:
            self._say(f"problem: {problem}")
        return not self._problems
