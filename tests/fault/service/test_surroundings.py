"""What the machine does to a service: the clock jumps, files run out."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from signal import SIGTERM

import pytest

import eventflow
from tests.fault.service.processes import ROOT, Recorder, Run, until

pytestmark = pytest.mark.slow

# ------------------------------------------------------------------------------ OSX-01

JUMPING = """
import random, time

YEARS = 10 * 365 * 86400
real, real_ns = time.time, time.time_ns
jumps = random.Random(4)
time.time = lambda: real() + jumps.choice((-YEARS, 0, YEARS))
time.time_ns = lambda: real_ns() + jumps.choice((-YEARS, 0, YEARS)) * 10**9

import asyncio
from contextlib import asynccontextmanager
from eventflow import Event, EventBus, FailurePolicy, Retry, Service
from eventflow.errors import BufferFullError
from tests.fault.service.target import note

class Thing(Event, topic="thing"):
    n: int

bus = EventBus("clock", drain_timeout=0.6, cancel_grace=0.3)
attempts = []
retries = Retry(attempts=3, initial=0.2, multiplier=2, jitter=0)

@bus.on(Thing, name="retried", on_failure=FailurePolicy(retry=retries))
async def retried(event):
    attempts.append(time.monotonic())
    if len(attempts) == 3:
        note("gap", f"0.2 {attempts[1] - attempts[0]}")
        note("gap", f"0.4 {attempts[2] - attempts[1]}")
    raise LookupError

@bus.on(Thing, name="timed out", timeout=0.3, capacity=1, block_timeout=0.1)
async def times_out(event):
    began = time.monotonic()
    try:
        await asyncio.sleep(100)
    finally:
        note("gap", f"0.3 {time.monotonic() - began}")

@asynccontextmanager
async def member():
    for n in range(2):
        await bus.publish(Thing(n=n))
    began = time.monotonic()
    try:
        await bus.publish(Thing(n=3))
    except BufferFullError:
        note("gap", f"0.1 {time.monotonic() - began}")
    await asyncio.sleep(1.2)
    note("years", " ".join(str(time.gmtime(time.time()).tm_year) for _ in range(30)))
    bus.subscribe(Thing, lambda event: time.sleep(100), name="stuck", timeout=None)
    bus.publish_nowait(Thing(n=4))
    note("ready", "-")
    yield

service = Service(bus, member(), name="clock", drain_timeout=0.6, cancel_grace=0.3)
"""


@pytest.mark.fault("OSX-01")
def test_the_wall_clock_jumps(tmp_path: Path, recorder: Recorder) -> None:
    """By ten years at each reading: timeouts, retries, blocking and the stop are as without."""
    tmp_path.joinpath("jumping.py").write_text(JUMPING)
    with Run(tmp_path, "jumping:service", recorder=recorder, cwd=tmp_path) as run:
        until(lambda: recorder.all("ready") != [], "all of it done")
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == 1, run.stderr
        assert 0.9 <= time.monotonic() - sent <= 0.6 + 0.3 + 1.5
        assert "stuck" in run.stderr
    recorder.end()
    assert len(set(recorder.all("years")[0].split())) >= 3, "the clock did not jump"
    gaps = [tuple(map(float, what.split())) for what in recorder.all("gap")]
    assert {wanted for wanted, _ in gaps} == {0.1, 0.2, 0.3, 0.4}
    for wanted, found in gaps:
        assert wanted - 0.01 <= found <= wanted + 0.5


WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "time.localtime"}


@pytest.mark.fault("OSX-01")
def test_nothing_that_waits_reads_the_wall_clock() -> None:
    """Neither bus, lifecycle nor command line: read off the source, as C can't be patched."""
    found: list[str] = []
    package = Path(eventflow.__file__).parent
    for part in ("bus", "lifecycle", "cli"):
        for path in package.joinpath(part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCK:
                    found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
                if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
                    found.append(f"{path.name}:{node.lineno} from {node.module}")
    assert found == []


# ------------------------------------------------------------------------------ OSX-04


@pytest.mark.fault("OSX-04")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_files_run_out(tmp_path: Path, recorder: Recorder, loop: str) -> None:
    """``ulimit -n 64``: what needs one fails with its own error, and the rest goes on."""
    scenario = {"handler": "opens_files", "files": 5, "events": 40, "pause": 0.001}
    options = ("--loop", loop)
    with Run(
        tmp_path, "shop", *options, recorder=recorder, before="ulimit -n 64", scenario=scenario
    ) as run:
        until(lambda: len(recorder.all("ok")) == 40, "all published")
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr[-3000:]
        ledger = run.ledger()
        assert (ledger["failed"], ledger["handled"]) == (4, 36)
        assert run.stderr.count("OSError: [Errno 24]") == 4
    recorder.end()
    assert len(recorder.all("done")) == 36


@pytest.mark.fault("OSX-04")
def test_a_service_that_can_not_be_entered_for_want_of_files(tmp_path: Path) -> None:
    """The system's own error comes out, nothing stays, and later it can be entered."""
    tmp_path.joinpath("scarce.py").write_text(
        "import os\n"
        "from contextlib import asynccontextmanager\n"
        "from eventflow import EventBus, Service\n"
        "\n"
        "class Greedy:\n"
        "    wanted = 1000\n"
        "    async def __aenter__(self):\n"
        "        self.opened = []\n"
        "        try:\n"
        "            for _ in range(self.wanted):\n"
        "                self.opened.append(os.open(os.devnull, os.O_RDONLY))\n"
        "        except OSError:\n"
        "            await self.__aexit__()\n"
        "            raise\n"
        "    async def __aexit__(self, *_):\n"
        "        for each in self.opened:\n"
        "            os.close(each)\n"
        "\n"
        "@asynccontextmanager\n"
        "async def target():\n"
        "    greedy, bus = Greedy(), EventBus()\n"
        "    service = Service(bus, greedy)\n"
        "    try:\n"
        "        await service.__aenter__()\n"
        "    except OSError as exc:\n"
        "        assert exc.errno == 24\n"
        "        assert bus.ledger.state == service.ledger.state == 'closed'\n"
        "        greedy.wanted = 3\n"
        "    async with service:\n"
        "        print('entered at last', flush=True)\n"
        "        yield service\n"
    )
    with Run(tmp_path, "scarce:target", cwd=tmp_path, before="exec 1>&2; ulimit -n 64") as run:
        run.until_said("entered at last")
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr


def test_the_tests_run_the_package_under_test() -> None:
    """Not one that is installed somewhere else, where this is a checkout."""
    assert Path(eventflow.__file__).is_relative_to(ROOT) or "site-packages" in eventflow.__file__
