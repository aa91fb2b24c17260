"""How a process ends that something in it wants to keep, or to end in its own way."""

from __future__ import annotations

import time
from signal import SIGTERM
from typing import TYPE_CHECKING

import pytest

from tests.fault.service.processes import TRACER_S, Recorder, Run, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TOP = """
import asyncio, atexit, sys, threading
from contextlib import asynccontextmanager, suppress
from eventflow import Event, EventBus, Service
from tests.fault.service.target import note

class Happened(Event, topic="happened"):
    n: int = 0

bus = EventBus("shop", drain_timeout=1.0, cancel_grace=1.0)

def service_of(*members):
    return Service(*members, name="shop", drain_timeout=1.0, cancel_grace=1.0)
"""


def run_of(directory: Path, code: str, recorder: Recorder, *options: str) -> Run:
    """A module of its own in the directory; ``service`` in it is run."""
    directory.joinpath("ends.py").write_text(TOP + code)
    return Run(directory, "ends:service", *options, recorder=recorder, cwd=directory)


# ------------------------------------------------------------------------- Held up


AT_EXIT = """
atexit.register(threading.Event().wait)
service = service_of(bus)
"""


@pytest.mark.promise("6")
def test_a_function_of_atexit_can_not_hold_it_up(tmp_path: Path, recorder: Recorder) -> None:
    """The bound holds to the very end, whatever is registered after us."""
    with run_of(tmp_path, AT_EXIT, recorder) as run:
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == 1, run.stderr
        assert time.monotonic() - sent <= 1 + 1 + 2 + TRACER_S
        assert "the process does not end after the stop" in run.stderr
        assert "eventflow.service_stopped" in run.stderr


START_IN_THREAD = """
@asynccontextmanager
async def slow():
    note("hangs", "start")
    await asyncio.to_thread(threading.Event().wait)
    yield

service = service_of(slow())
"""


@pytest.mark.fault("SHD-07")
def test_a_start_that_waits_for_a_thread(tmp_path: Path, recorder: Recorder) -> None:
    """A signal ends it within 5 s, with the code of a signal, though the thread stays."""
    with run_of(tmp_path, START_IN_THREAD, recorder) as run:
        until(lambda: recorder.all("hangs") != [], "hanging")
        sent = run.send(SIGTERM)
        assert run.wait() == 128 + SIGTERM, run.stderr
        assert time.monotonic() - sent <= 5 + TRACER_S


BLOCKED = """
@bus.on(Happened)
async def blocks(event):
    note("start", "")
    while True:
        pass

@asynccontextmanager
async def later():
    loop = asyncio.get_running_loop()
    loop.call_later(0.2, lambda: asyncio.ensure_future(bus.publish(Happened())))
    yield

service = service_of(bus, later())
"""


def test_the_ready_file_goes_with_the_signal(tmp_path: Path, recorder: Recorder) -> None:
    """Also while the loop is blocked, and when a third one ends the process."""
    ready = tmp_path / "ready"
    with run_of(tmp_path, BLOCKED, recorder, "--ready-file", str(ready)) as run:
        until(lambda: recorder.all("start") != [], "blocked")
        assert ready.exists()
        run.send(SIGTERM)
        until(lambda: not ready.exists(), "not ready")
        assert run.process.poll() is None
        run.send(SIGTERM, SIGTERM)
        assert run.wait() == 128 + SIGTERM, run.stderr
        assert not ready.exists()


# ---------------------------------------------------------------------- SystemExit


MEMBERS = {
    "entering": """
        sys.exit(0)
        yield
    """,
    "leaving": """
        asyncio.get_running_loop().call_later(0.2, lambda: the.request_stop())
        yield
        sys.exit(0)
    """,
}

MEMBER = """
@asynccontextmanager
async def member():
    {body}

the = service = service_of(bus, member())
"""


@pytest.mark.parametrize("when", ["entering", "leaving"])
def test_a_member_that_calls_sys_exit_has_failed(
    tmp_path: Path, recorder: Recorder, when: str
) -> None:
    """Exit code 1, whatever code it asked for, and a line that names it."""
    with run_of(tmp_path, MEMBER.format(body=MEMBERS[when]), recorder) as run:
        assert run.wait() == 1, run.stderr
        line = {"entering": "start_failed", "leaving": "member_failed"}[when]
        assert [entry for entry in run.log() if entry["event"] == f"eventflow.{line}"]


HANDLER = """
@bus.on(Happened, concurrency=2)
async def leaves(event):
    note("start", str(event.n))
    if event.n:
        await asyncio.sleep(0.1)
        sys.exit({code})
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(0.5)
        note("cleaned", "")

@asynccontextmanager
async def publisher():
    await bus.publish(Happened(n=0))
    await bus.publish(Happened(n=1))
    yield

service = service_of(bus, publisher())
"""


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.promise("2")
def test_a_handler_that_calls_sys_exit(tmp_path: Path, recorder: Recorder, code: int) -> None:
    """The program ends as it asks; the others are cancelled, clean up, and are in the ledger."""
    with run_of(tmp_path, HANDLER.format(code=code), recorder) as run:
        assert run.wait() == code, run.stderr
        assert [line for line in run.log() if line["event"] == "eventflow.handler_cancelled"]
        ledger = run.ledger()
        assert (ledger["failed"], ledger["cancelled"]) == (1, 1)
        assert run.stderr.count("eventflow.service_stopped") == 1
    recorder.end()
    assert recorder.all("cleaned") == [""]


# ------------------------------------------------------------------------ What is said


def test_an_import_that_fails_forges_nothing_and_keeps_its_end(
    tmp_path: Path, recorder: Recorder
) -> None:
    """Of a long traceback the middle is left out; control and bidi characters are escaped."""
    code = """
def first(n):
    second(n)

def second(n):
    if not n:
        raise ValueError("\\x1b[31mred \\u202e turned\\nforged: the reason")
    third(n - 1)

def third(n):
    first(n)

first(60)
"""
    with run_of(tmp_path, code, recorder) as run:
        assert run.wait() == 2
        said = run.stderr
    assert said.startswith("eventflow: ends:service could not be imported")
    assert "forged: the reason" in said.splitlines()[-1]
    assert "ValueError" in said.splitlines()[-1]
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "[...]" in said


FAILS = """
@bus.on(Happened)
async def fails(event):
    if event.n == 49:
        note("last", "")
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
    raise RuntimeError("always")

@asynccontextmanager
async def publisher():
    for n in range(50):
        await bus.publish(Happened(n=n))
    yield

service = service_of(bus, publisher())
"""


@pytest.mark.promise("2")
def test_the_third_signal_leaves_no_failure_unseen(tmp_path: Path, recorder: Recorder) -> None:
    """The ids of lines that were held back as repeats are written, also then."""
    with run_of(tmp_path, FAILS, recorder) as run:
        until(lambda: recorder.all("last") != [], "49 have failed")
        run.until_ready()
        run.send(SIGTERM, SIGTERM, SIGTERM)
        assert run.wait() == 128 + SIGTERM, run.stderr
        lines = run.log()
    failed = [line for line in lines if line["event"] == "eventflow.handler_failed"]
    held = [line for line in lines if line.get("line") == "eventflow.handler_failed"]
    ids = {line["event_id"] for line in failed}
    ids.update(each for line in held for each in line["event_ids"])
    assert len(ids) == 49


REFUSES = """
@asynccontextmanager
async def refuses():
    yield
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)

service = service_of(bus, refuses())
"""


def test_a_member_that_is_given_up_is_named_once(tmp_path: Path, recorder: Recorder) -> None:
    """As abandoned by the service, and not again among tasks that nobody owns."""
    with run_of(tmp_path, REFUSES, recorder) as run:
        run.until_ready()
        run.send(SIGTERM)
        assert run.wait() == 1, run.stderr
        events = [line["event"] for line in run.log()]
    assert events.count("eventflow.member_abandoned") == 1
    assert "eventflow.tasks_left" not in events
