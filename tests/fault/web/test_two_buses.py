"""Two services in one process, under real servers: neither ends with the other."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fault.web.server import SERVERS, Server, free_port, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

MODULE = "tests.fault.web.app_two"


def post(url: str, path: str) -> None:
    assert httpx.post(f"{url}/{path}", timeout=20).status_code == 200


def state(url: str) -> str:
    try:
        return str(httpx.get(f"{url}/ready", timeout=5).json())
    except httpx.TransportError:
        return "gone"


def run(name: str, target: str, directory: Path, stopped: int | None) -> tuple[Server, int]:
    """Two servers; one of them may be stopped before SIGTERM; each has a handler in flight then."""
    other = free_port()
    with Server(name, directory, target=target, OTHER_PORT=str(other), HANDLING_S="0.5") as server:
        urls = [server.url, f"http://127.0.0.1:{other}"]
        until(lambda: state(urls[1]) == "open", "the other server answers")
        for number, url in enumerate(urls):
            post(url, f"publish/{number}")
        server.wait_for("began", 2)
        if stopped is not None:
            kept = 1 - stopped
            post(urls[stopped], "stop")
            until(lambda: state(urls[stopped]) == "gone", "one server is gone")
            server.wait_for(f"{('one', 'two')[stopped]}-handled", 1)
            until(lambda: server.log.read_text().count("Finished server process") == 1, "ended")
            server.wait_for(f"{('one', 'two')[kept]}-handled", 1)
            post(urls[kept], f"publish/{kept + 10}")
            server.wait_for("began", 3)
        server.terminate()
        return server, server.wait()


@pytest.mark.fault("SHD-01")
@pytest.mark.parametrize("stopped", [None, 0, 1], ids=["both", "first", "second"])
def test_two_servers_in_one_service(stopped: int | None, tmp_path: Path) -> None:
    """``eventflow run`` has the signals: whichever was stopped before, nothing is lost, exit 0."""
    server, code = run("eventflow", f"{MODULE}:service", tmp_path, stopped)

    recorded = server.recorded()
    assert code == 0, server.log.read_text()
    assert recorded["one-handled"] == ([0, 10] if stopped == 1 else [0])
    assert recorded["two-handled"] == ([1, 11] if stopped == 0 else [1])


@pytest.mark.parametrize("stopped", [None, 1], ids=["both", "second"])
def test_two_servers_that_share_the_signals(stopped: int | None, tmp_path: Path) -> None:
    """The one started last hands a signal on to the one before, as uvicorn does: both drain."""
    server, code = run("python", MODULE, tmp_path, stopped)

    recorded = server.recorded()
    assert code == -signal.SIGTERM, server.log.read_text()
    assert recorded["one-handled"] == ([0, 10] if stopped == 1 else [0])
    assert recorded["two-handled"] == [1]


def test_the_first_of_two_servers_takes_the_signals_with_it(tmp_path: Path) -> None:
    """What uvicorn does, and the docs warn of: after that SIGTERM just kills the process.

    Pinned, so that a version which does better is noticed.
    """
    server, code = run("python", MODULE, tmp_path, 0)

    recorded = server.recorded()
    assert code == -signal.SIGTERM, server.log.read_text()
    assert recorded["began"] == [0, 1, 11]
    assert recorded["two-handled"] == [1]


@pytest.mark.fault("SHD-01")
@pytest.mark.parametrize("name", SERVERS)
def test_two_buses_closed_in_the_order_they_were_started(name: str, tmp_path: Path) -> None:
    """While the first drains, its handlers publish to the second, which then drains too."""
    with Server(name, tmp_path, target=f"{MODULE}:app", HANDLING_S="0.5") as server:
        for number in range(3):
            post(server.url, f"publish/{number}")
        server.wait_for("began", 1)
        server.terminate()
        server.wait()

    recorded = server.recorded()
    assert recorded["shop-handled"] == recorded["store-handled"] == [0, 1, 2]
    order = [line[0] for line in server.lines()]
    assert order.index("shop-closed") < order.index("store-closed")
    assert order[-1] == "store-closed"
    # Handlers of both were still at work when the stop began.
    assert order.index("shop-closed") < max(
        i for i, what in enumerate(order) if what == "store-handled"
    )
