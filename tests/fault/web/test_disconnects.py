"""Requests that are cut while they publish: each seen to be cut, on real servers."""

from __future__ import annotations

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fault.web.server import SERVERS, Server, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

APP = "tests.fault.web.app_cut:app"


def request(server: Server, path: str) -> socket.socket:
    """Send a request and nothing more; closing the socket is the client that goes away."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


def fill(server: Server) -> None:
    """Two events, 0 in flight and 1 in the buffer: who publishes another one has to wait."""
    for number in (0, 1):
        assert httpx.get(f"{server.url}/plain/{number}", timeout=20).status_code == 200
        server.wait_for("began", 1)


def are_waiting(server: Server, count: int) -> None:
    until(
        lambda: httpx.get(f"{server.url}/waiting", timeout=20).json() == count,
        f"{count} publishers wait",
    )


@pytest.mark.parametrize("name", SERVERS)
def test_a_request_is_told_that_its_client_has_gone(name: str, tmp_path: Path) -> None:
    """It is told in the middle, not cancelled; what it publishes before and after is handled."""
    with Server(name, tmp_path, target=APP, HANDLING_S="0.3") as server:
        with request(server, "/listens/1"):
            server.wait_for("began", 1)
        server.wait_for("told", 1)
        assert "handled" not in server.recorded()  # the handler still waits at the gate
        httpx.post(f"{server.url}/open", timeout=20)
        server.wait_for("handled", 2)

    recorded = server.recorded()
    assert recorded["published"] == recorded["handled"] == [1, 2]
    assert "cancelled" not in recorded
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("name", SERVERS)
def test_a_publish_is_cancelled_with_its_request(name: str, tmp_path: Path) -> None:
    """Suspended for want of room: the full listener never sees the event, who had room does."""
    with Server(name, tmp_path, target=APP, HANDLING_S="0") as server:
        fill(server)
        clients = [request(server, f"/stream/{number}") for number in range(2, 12)]
        are_waiting(server, 10)
        for gone in clients[:5]:
            gone.close()
        server.wait_for("cancelled", 5)
        are_waiting(server, 5)
        assert len(server.recorded()["published"]) == 2
        httpx.post(f"{server.url}/open", timeout=20)
        server.wait_for("published", 7)
        for staying in clients[5:]:
            staying.close()
        server.terminate()
        server.wait()

    recorded = server.recorded()
    assert recorded["cancelled"] == [2, 3, 4, 5, 6]
    assert recorded["published"] == recorded["handled"] == [0, 1, 7, 8, 9, 10, 11]
    assert recorded["noted"] == list(range(12))
    counts = [recorded[f"slow.{count}"] for count in ("offered", "handled", "rejected")]
    assert counts == [[12], [7], [5]]
    assert recorded["slow.adds_up"] == recorded["roomy.adds_up"] == [1]


@pytest.mark.parametrize("name", SERVERS)
def test_a_publish_is_cancelled_by_a_middleware(name: str, tmp_path: Path) -> None:
    """A time limit around the app, with BaseHTTPMiddleware in between; it answers 504."""
    with (
        Server(name, tmp_path, target=APP, HANDLING_S="0") as server,
        ThreadPoolExecutor(10) as pool,
    ):
        fill(server)
        requests = [
            pool.submit(httpx.get, f"{server.url}/limited/{number}", timeout=20)
            for number in range(2, 12)
        ]
        answers = [each.result().status_code for each in requests]
        are_waiting(server, 0)
        httpx.post(f"{server.url}/open", timeout=20)
        server.wait_for("handled", 2)
        server.terminate()
        server.wait()

    recorded = server.recorded()
    assert answers == [504] * 10
    assert recorded["cancelled"] == list(range(2, 12))
    assert recorded["published"] == recorded["handled"] == [0, 1]
    assert recorded["noted"] == list(range(12))
    assert (recorded["slow.offered"], recorded["slow.rejected"]) == ([12], [10])
    assert recorded["slow.adds_up"] == [1]


@pytest.mark.parametrize("name", SERVERS)
def test_clients_that_go_away_as_room_comes(name: str, tmp_path: Path) -> None:
    """Cut at any moment of the publish: taken once or not at all, and the counts agree."""

    def come_and_go(client: int) -> None:
        moments = random.Random(client)
        for number in range(client, 320, 8):
            with request(server, f"/stream/{number}") as connection:
                while b"publishing" not in connection.recv(4096):
                    pass
                if client % 2:
                    time.sleep(moments.uniform(0, 0.12))  # the fault itself: any moment will do

    def stay(client: int) -> None:
        for number in range(1000 + client, 1080, 8):
            answer = httpx.get(f"{server.url}/stream/{number}", timeout=20)
            assert answer.text == "publishing\npublished\n"

    with (
        Server(name, tmp_path, target=APP, HANDLING_S="0.03") as server,
        ThreadPoolExecutor(16) as pool,
    ):
        httpx.post(f"{server.url}/open", timeout=20)
        clients = [pool.submit(do, n) for do in (come_and_go, stay) for n in range(8)]
        for client in clients:
            client.result()
        are_waiting(server, 0)
        server.terminate()
        server.wait()

    recorded = server.recorded()
    handled = recorded["handled"]
    assert len(set(handled)) == len(handled)
    assert set(recorded["published"]) <= set(handled)
    assert set(handled) - set(recorded["published"]) <= set(recorded["cancelled"])
    assert set(range(1000, 1080)) <= set(recorded["published"])
    assert len(recorded["cancelled"]) >= 10
    assert recorded["slow.offered"] == [len(recorded["noted"])]
    assert recorded["slow.handled"] == [len(handled)]
    assert recorded["slow.rejected"] == [len(recorded["noted"]) - len(handled)]
    assert recorded["slow.adds_up"] == recorded["roomy.adds_up"] == [1]
