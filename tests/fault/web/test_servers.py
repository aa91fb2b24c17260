"""Real servers, real signals, real disconnects; the verdict is a file's, not the bus's."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.sync.client import connect

from tests.fault.web.server import ROOT, SERVERS, Server, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

IN_FLIGHT = 20
# What each makes of a SIGTERM after a stop in good order; pinned, so a new version that differs
# is noticed. uvicorn raises the signal once more when it is done: the process ends by it, which
# a shell and Kubernetes call 143.
EXIT_CODES = {"uvicorn": -signal.SIGTERM, "hypercorn": 0, "granian": 0}


@pytest.mark.fault("SHD-01")
@pytest.mark.parametrize("name", SERVERS)
def test_a_sigterm_ends_requests_then_handlers_then_the_process(name: str, tmp_path: Path) -> None:
    """Requests in flight are answered; what they announced is handled before the exit."""
    with Server(name, tmp_path) as server, ThreadPoolExecutor(IN_FLIGHT) as pool:
        requests = [
            pool.submit(httpx.post, f"{server.url}/work-then-publish/{n}", timeout=20)
            for n in range(IN_FLIGHT)
        ]
        server.wait_for("requested", IN_FLIGHT)
        server.terminate()
        answers = [request.result().status_code for request in requests]
        code = server.wait()

    recorded = server.recorded()
    assert answers == [200] * IN_FLIGHT
    assert recorded["published"] == list(range(IN_FLIGHT))
    assert recorded["handled"] == recorded["published"]
    assert code == EXIT_CODES[name], server.log.read_text()


@pytest.mark.fault("SHD-01")
@pytest.mark.parametrize("name", SERVERS)
def test_under_load_nothing_that_was_published_is_lost(name: str, tmp_path: Path) -> None:
    """Clients go on posting until they are refused; what a client was told holds too."""

    def post_until_refused(client: int) -> list[int]:
        accepted: list[int] = []
        with httpx.Client(timeout=20) as session:
            for number in range(client, 1_000_000, 8):
                try:
                    answer = session.post(f"{server.url}/publish-then-work/{number}")
                except httpx.TransportError:
                    break
                if answer.status_code != 200:
                    break
                accepted.append(number)
        return accepted

    with Server(name, tmp_path, WORK_S="0.01") as server, ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(post_until_refused, client) for client in range(8)]
        server.wait_for("published", 100)
        server.terminate()
        accepted = [number for client in clients for number in client.result()]
        server.wait()

    recorded = server.recorded()
    assert len(accepted) > 50
    assert set(accepted) <= set(recorded["published"])
    assert recorded["handled"] == recorded["published"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_draining_service_is_not_ready(name: str, tmp_path: Path) -> None:
    """While handlers finish, a probe is refused, unanswered for a second, or a 503."""
    with Server(name, tmp_path, WORK_S="0", HANDLING_S="5") as server:
        httpx.post(f"{server.url}/publish-then-work/1", timeout=20)
        server.wait_for("began", 1)
        server.terminate()
        until(server.is_not_ready, "the probe fails")
        assert "handled" not in server.recorded()
        server.wait()
    assert server.recorded()["handled"] == [1]


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("times", [1, 10])
def test_a_handler_does_not_die_with_its_request(name: str, times: int, tmp_path: Path) -> None:
    """The client goes away in the middle, with Starlette's BaseHTTPMiddleware in between."""
    with Server(name, tmp_path, WORK_S="0.6", HANDLING_S="0.3") as server:
        for n in range(times):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(
                    f"POST /publish-then-work/{n} HTTP/1.1\r\n"
                    "Host: localhost\r\nContent-Length: 0\r\n\r\n".encode()
                )
                server.wait_for("began", n + 1)
        server.wait_for("handled", times)
        server.wait_for("answered", times)  # the route has run to its end, too
        assert server.is_ready()

    assert server.recorded()["handled"] == list(range(times))
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("name", SERVERS)
def test_a_websocket_publishes(name: str, tmp_path: Path) -> None:
    """The same dependency serves a WebSocket route; its event outlives the connection."""
    with Server(name, tmp_path) as server:
        with connect(f"ws://127.0.0.1:{server.port}/orders") as websocket:
            websocket.send("7")
            assert websocket.recv(timeout=10) == "published"
        server.terminate()
        server.wait()

    assert server.recorded()["handled"] == [7]


def test_a_reload_leaves_no_listener_of_the_old_code(tmp_path: Path) -> None:
    """``uvicorn --reload``: each event is handled once, by the new process and the new code."""
    source = tmp_path / "code"
    source.mkdir()
    text = ROOT.joinpath("tests/fault/web/app.py").read_text()
    app = source / "reloaded.py"
    app.write_text(text)
    options = ("--reload", "--reload-dir", str(source), "--app-dir", str(source))
    with Server("uvicorn", tmp_path, *options, target="reloaded:app") as server:
        assert httpx.post(f"{server.url}/publish-then-work/1", timeout=20).status_code == 200
        app.write_text(text.replace('CODE = "first"', 'CODE = "second"'))

        def answered_by_new_code() -> bool:
            number = len(server.lines()) + 100
            try:
                httpx.post(f"{server.url}/publish-then-work/{number}", timeout=20)
            except httpx.TransportError:
                return False
            return any(line[3] == "second" for line in server.lines())

        until(answered_by_new_code, "the new code answers")
        httpx.post(f"{server.url}/publish-then-work/2", timeout=20)
        server.terminate()
        server.wait()

    lines = server.lines()
    first = next(i for i, line in enumerate(lines) if line[3] == "second")
    assert {line[3] for line in lines[first:]} == {"second"}
    assert len({line[2] for line in lines}) == 2
    recorded = server.recorded()
    assert recorded["handled"] == recorded["published"]
