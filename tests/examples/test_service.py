"""The example service as its users meet it: a process, HTTP, a database, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from examples.github_webhooks.events import ACTIVITIES
from tests.examples.service import (
    OWN,
    ROOT,
    SOURCES,
    Delivery,
    Service,
    deliveries,
    headers,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

UNFINISHED = b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"


def expected(sent: list[Delivery]) -> dict[str, tuple[str, bytes]]:
    return {delivery.id: (delivery.event, delivery.body) for delivery in sent}


def ledger_row(printed: str, name: str) -> dict[str, int]:
    """A row of the ledger that was printed at the end."""
    table = printed[printed.index("ledger of bus") :].splitlines()[1:]
    columns = table[0].split()[1:]
    row = next(line.split() for line in table if line.split()[:1] == [name])
    return dict(zip(columns, (int(cell.replace(",", "")) for cell in row[1:]), strict=True))


@pytest.mark.promise(2, 7)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_delivery_is_kept_byte_for_byte(source: Path, tmp_path: Path) -> None:
    """None is lost or changed between the socket and the database, and the sums are right."""
    sent = deliveries(source)
    modelled = sum(delivery.event in ACTIVITIES for delivery in sent)
    with Service(tmp_path) as service:
        assert Counter(service.send(delivery) for delivery in sent) == {202: len(sent)}
        until(lambda: service.stats("store")["handled"] == len(sent), "all are stored")

        ledger = service.http.get("/stats").json()
        assert ledger["adds_up"]
        assert ledger["state"] == "open"
        assert service.stop() == 0

    assert service.stored() == expected(sent)
    for name, count in (("store", len(sent)), ("decode", len(sent)), ("count", modelled)):
        row = ledger_row(service.printed, name)
        assert (row["offered"], row["handled"], row["failed"]) == (count, count, 0)
    notified = ledger_row(service.printed, "notify")
    assert notified["handled"] + notified.get("dropped", 0) == modelled
    assert re.sub(r"WARNING event='eventflow\.events_dropped' .*\n", "", service.stderr) == ""


@pytest.mark.promise(2, 6)
def test_a_stop_while_handlers_run_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM after the last 202, the first delivery still being stored: all of them are stored."""
    sent = deliveries(OWN)
    with Service(tmp_path) as service, closing(sqlite3.connect(service.database)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")  # Nobody else can write now.
        assert {service.send(delivery) for delivery in sent} == {202}
        until(lambda: service.stats("store")["in_flight"] == 1, "a handler runs")
        assert service.stored() == {}

        service.process.send_signal(signal.SIGTERM)
        until(lambda: not service.is_listening(), "the server takes nothing in any more")
        assert service.process.poll() is None
        other.execute("ROLLBACK")

        assert service.wait() == 0

    assert service.stored() == expected(sent)
    assert "ledger of bus 'webhooks' (closed)" in service.printed


@pytest.mark.promise(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_in_the_middle_of_a_burst_keeps_what_was_accepted(
    number: int, tmp_path: Path
) -> None:
    """Several connections send at once; whatever was answered with 202 is in the database."""
    queue = [Delivery(each.event, f"{n}-{each.id}", each.body) for n in range(200)
             for each in deliveries(OWN)]  # fmt: skip
    accepted: list[Delivery] = []
    enough = threading.Event()

    def send(part: list[Delivery]) -> None:
        with httpx.Client(base_url=service.url, trust_env=False) as http:
            for delivery in part:
                try:
                    response = http.post(
                        "/webhooks/github", content=delivery.body, headers=headers(delivery)
                    )
                except httpx.TransportError:
                    return
                if response.status_code == 202:
                    accepted.append(delivery)
                if len(accepted) > 50:
                    enough.set()

    with Service(tmp_path, NOTIFY_SECONDS="0.001") as service:
        senders = [threading.Thread(target=send, args=(queue[n::4],)) for n in range(4)]
        for sender in senders:
            sender.start()
        assert enough.wait(30)
        code = service.stop(number)
        for sender in senders:
            sender.join()

    assert code == 0, service.printed + service.stderr
    assert 50 < len(accepted) < len(queue)
    stored = service.stored()
    assert {d.id: stored.get(d.id) for d in accepted} == expected(accepted)
    assert "Traceback" not in service.stderr


@pytest.mark.promise(6)
def test_an_open_page_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """The live feed shows a delivery, and ends by itself on Ctrl-C."""
    sent = deliveries(OWN)[0]
    with Service(tmp_path) as service, service.http.stream("GET", "/live") as live:
        assert live.headers["content-type"].startswith("text/event-stream")
        with httpx.Client(base_url=service.url, trust_env=False) as http:
            # Subscribed before the response began, or soon after.
            until(
                lambda: any(
                    row["name"].startswith("stream")
                    for row in http.get("/stats").json()["subscriptions"]
                ),
                "the page is subscribed",
            )
            http.post("/webhooks/github", content=sent.body, headers=headers(sent))
        lines = live.iter_lines()
        entry = json.loads(next(line for line in lines if line).removeprefix("data: "))
        assert entry["delivery"] == sent.id
        assert entry["summary"] == "amelie pushed 2 to main: Fix a typo"

        service.process.send_signal(signal.SIGINT)

        assert not any(line.startswith("data:") for line in lines)
        assert service.wait() == 0
    assert service.stderr == ""
    assert ledger_row(service.printed, "store")["handled"] == 1


@pytest.mark.slow
@pytest.mark.promise(6)
def test_a_request_that_never_ends_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """It is cut after 5 s, and what was accepted from others is handled all the same."""
    sent = deliveries(OWN)
    with (
        Service(tmp_path) as service,
        socket.create_connection(("127.0.0.1", service.port)) as connection,
    ):
        connection.sendall(UNFINISHED)
        for delivery in sent:
            assert service.send(delivery) == 202
        assert service.stop() == 0
        assert connection.recv(100).startswith(b"HTTP/1.1 500 ")
    assert service.stored() == expected(sent)
    assert "Cancel 1 running task(s)" in service.stderr


def test_a_sender_that_gives_up_leaves_no_trace(tmp_path: Path) -> None:
    """Whoever can connect could fill the log otherwise."""
    with Service(tmp_path) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(UNFINISHED)
        assert service.send(deliveries(OWN)[0]) == 202
        assert service.stop() == 0
    assert service.stderr == ""


def test_a_browser_that_goes_away_is_forgotten(tmp_path: Path) -> None:
    """Its subscription ends, and the exit code doesn't hold it against the service."""
    with Service(tmp_path) as service:
        with service.http.stream("GET", "/live"):
            pass

        def is_gone() -> bool:
            rows = service.http.get("/stats").json()["subscriptions"]
            return not any(r["name"].startswith("stream") and r["in_flight"] for r in rows)

        until(is_gone, "the stream has ended")
        assert service.send(deliveries(OWN)[0]) == 202
        assert service.stop() == 0
    assert service.stderr == ""


def test_the_page_is_safe_to_open(tmp_path: Path) -> None:
    """It loads nothing from elsewhere, runs no inline script, and makes no HTML of payloads."""
    with Service(tmp_path) as service:
        page, script, style = (
            service.http.get(path).raise_for_status() for path in ("/", "/page.js", "/page.css")
        )
        assert service.stop() == 0
    for response in (page, script, style):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
    assert [page.headers["content-type"], script.headers["content-type"].partition(";")[0]] == [
        "text/html; charset=utf-8",
        "text/javascript",
    ]
    assert re.findall(r"<script[^>]*>(.*?)</script>", page.text) == [""]
    assert not re.search(r"https?://|\son\w+=|style=", page.text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval", script.text
    )
    assert not re.search(r"https?://|@import|url\(", style.text)


def test_the_feed_and_the_counters_can_be_read(tmp_path: Path) -> None:
    """Newest first, with who did what and where, also for events that nobody modelled."""
    sent = deliveries(OWN)
    with Service(tmp_path) as service:
        for delivery in sent:
            assert service.send(delivery) == 202
        until(lambda: service.stats("store")["handled"] == len(sent), "all are stored")
        until(lambda: service.stats("notify")["in_flight"] == 0, "the chat was told")
        feed = service.http.get("/feed").json()
        board = service.http.get("/board").json()
        assert service.stop() == 0

    assert [entry["delivery"] for entry in feed] == [each.id for each in reversed(sent)]
    said = {entry["summary"] for entry in feed}
    assert {
        "renovate[bot] merged pull request #15: Zoë, Jürgen, 東京 🚢",
        "chidi published release v2.0",
        "amelie deleted v1.0",
        "amelie did something else",
        "somebody did something else",
    } <= said
    assert feed[2]["repository"] == "harbour/buoy-firmware"
    assert {row["name"]: row["counts"] for row in board["repositories"]} == {
        "kiosk/till": {"github.issues": 3},
        "kiosk/receipts": {"github.pull_request": 2},
        "harbour/tide-tables": {"github.push": 2},
        "harbour/buoy-firmware": {"github.release": 2},
    }
    assert board["notified"]


def test_a_body_that_is_too_large_is_refused_over_a_real_connection(tmp_path: Path) -> None:
    """At once when its length is said, and as soon as it is too long when it is not."""
    with Service(tmp_path) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(
                b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: 26214401\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
        chunk = bytes(1024 * 1024)
        # One chunk above the limit, so that all of it is read and the answer is not cut off.
        response = service.http.post("/webhooks/github", content=iter([chunk] * 25 + [b"x"]))
        assert response.status_code == 413
        assert service.stats("store")["offered"] == 0
        assert service.stop() == 0
    assert service.stderr == ""


def test_the_printed_example_can_be_pasted(tmp_path: Path) -> None:
    """The shell makes a request of it that the service accepts."""
    with Service(tmp_path) as service:
        command = service.printed[service.printed.index("curl -i") :].partition("\n\n")[0]
        pasted = subprocess.run(
            ["sh", "-c", 'curl() { printf "%s\\0" "$@"; }\n' + command],
            capture_output=True,
            text=True,
            check=True,
        )
        _, url, *rest = pasted.stdout.split("\0")[:-1]
        options = list(zip(rest[::2], rest[1::2], strict=True))
        sent = dict(value.split(": ", 1) for flag, value in options if flag == "-H")
        response = service.http.post(url, headers=sent, content=dict(options)["--data-binary"])
        assert response.status_code == 202
        assert service.stop() == 0
    assert ledger_row(service.printed, "count")["handled"] == 1


def test_the_port_is_the_one_asked_for_or_the_next_that_is_free(tmp_path: Path) -> None:
    """PORT is used when it can be; what is printed is where it really listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with Service(first, PORT=str(port)) as one, Service(second, PORT=str(port)) as two:
        assert one.port == port
        assert two.port > port
        assert one.http.get("/").status_code == two.http.get("/").status_code == 200
        assert (one.stop(), two.stop()) == (0, 0)


@pytest.mark.parametrize(
    "wrong", [{"PORT": "eighty"}, {"PORT": "99999"}, {"NOTIFY_SECONDS": "soon"}], ids=str
)
def test_a_wrong_setting_ends_with_one_line(wrong: dict[str, str], tmp_path: Path) -> None:
    """And exit code 1, before anything starts."""
    service = Service(tmp_path, **wrong)
    with pytest.raises(AssertionError, match="can't start"):
        service.__enter__()
    assert service.process.returncode == 1
    assert service.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.promise(7)
def test_the_demo_ends_by_itself() -> None:
    """With exit code 0, the ledger last, and nothing on stderr but what was dropped by choice."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.github_webhooks", "--demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "100 of 100 are in the feed, byte for byte" in result.stdout
    row = ledger_row(result.stdout, "store")
    assert (row["offered"], row["handled"]) == (100, 100)
    assert result.stdout.splitlines()[-1].startswith("total ")
    assert re.sub(r"WARNING event='eventflow\.events_dropped' .*\n", "", result.stderr) == ""


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    """Without DATABASE the feed is a temporary file, named at the start and gone at the end."""
    with Service(tmp_path, DATABASE="", TMPDIR=str(tmp_path)) as service:
        found = re.search(r"The feed is stored in (.+)", service.printed)
        assert found
        assert found[1].startswith(str(tmp_path))
        assert service.stop() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["stderr"]
