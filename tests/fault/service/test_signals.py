"""``eventflow run`` and the signals that end it: real processes, judged from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.cli import main
from tests.fault.service.processes import TRACER_S, Recorder, Run, together, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

ABANDONED = "eventflow.stop_incomplete"


BUSY_S = 3
"""Room for a machine that does other things at the same time."""

# ------------------------------------------------------------------------------ SHD-01


@pytest.mark.fault("SHD-01")
@pytest.mark.promise("2", "6")
@pytest.mark.parametrize(
    ("number", "loop"), [(SIGTERM, "asyncio"), (SIGINT, "uvloop")], ids=["asyncio", "uvloop"]
)
def test_a_thousand_handlers_in_flight(
    tmp_path: Path, recorder: Recorder, number: signal.Signals, loop: str
) -> None:
    """Each takes 2 s: all are handled, exit 0 within 3 s; started again, nothing is done twice.

    A quiet machine takes 2.1 to 2.9 s. The bound here has room for one that does other things.
    """
    scenario: dict[str, Any] = {
        "handler_s": 2,
        "events": 1_000,
        "options": {"concurrency": 1_000},
    }
    ready = tmp_path / "ready"
    options = ("--loop", loop, "--ready-file", str(ready))
    with Run(tmp_path, "shop", *options, recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.counts()["start"] == 1_000, "all in flight")
        until(ready.exists, "entered as a whole")
        assert recorder.counts()["done"] == 0
        sent = run.send(number)
        assert run.wait() == 0, run.stderr
        took = time.monotonic() - sent
        assert run.ledger()["handled"] == 1_000
    with Run(tmp_path, "shop", *options, recorder=recorder, name="again") as again:
        until(ready.exists, "started again")
        again.send(SIGTERM)
        assert again.wait() == 0, again.stderr
    recorder.end()
    assert took <= 3 + BUSY_S + TRACER_S
    assert sorted(recorder.all("done")) == sorted(recorder.all("ok"))
    assert len(set(recorder.all("done"))) == 1_000


# ------------------------------------------------------------------------------ SHD-02


@pytest.mark.fault("SHD-02")
def test_a_drain_shorter_than_the_handlers(tmp_path: Path, recorder: Recorder) -> None:
    """They are cancelled, counted and named; what was still buffered is released; exit 0."""
    scenario = {"handler_s": 60, "events": 30, "drain": 0.5, "options": {"concurrency": 10}}
    with Run(tmp_path, "shop", recorder=recorder, scenario=scenario) as run:
        until(lambda: len(recorder.all("ok")) == 30, "all published")
        until(lambda: len(recorder.all("start")) == 10, "ten in flight")
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert time.monotonic() - sent <= 0.5 + 1 + TRACER_S
        ledger = run.ledger()
        assert (ledger["cancelled"], ledger["released"], ledger["handled"]) == (10, 20, 0)
        told = [line for line in run.log() if "eventflow.handler_cancelled" in line.values()]
        named = [line.get("event_ids", [line.get("event_id")]) for line in told]
        assert len({each for ids in named for each in ids}) == 10
    recorder.end()
    assert recorder.all("done") == []


@pytest.mark.fault("SHD-01")
@pytest.mark.promise("6")
def test_a_thread_that_outlived_its_timeout(tmp_path: Path, recorder: Recorder) -> None:
    """Its event has failed already; it has the drain to return all the same, and exit is 0."""
    scenario: dict[str, Any] = {
        "handler": "in_thread",
        "handler_s": 2,
        "events": 1,
        "options": {"timeout": 0.05},
    }
    with Run(tmp_path, "shop", recorder=recorder, scenario=scenario) as run:
        run.until_said("eventflow.handler_failed")
        run.until_ready()
        assert recorder.all("done") == []
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert run.ledger()["failed"] == 1
    recorder.end()
    assert recorder.all("done") == recorder.all("ok")


# ------------------------------------------------------------------------ SHD-04, SHD-09


@pytest.mark.fault("SHD-04", "SHD-09")
@pytest.mark.promise("8")
def test_a_stop_with_full_buffers_and_blocked_publishers(
    tmp_path: Path, recorder: Recorder
) -> None:
    """The publishers get a typed error, then and later; what was accepted is handled."""
    scenario: dict[str, Any] = {
        "handler_s": 0.05,
        "publishers": 50,
        "events": 100_000,
        "insists": True,
        "pause": 0.05,
        "linger": 0.5,
        "options": {"capacity": 4},
    }
    with Run(tmp_path, "shop", recorder=recorder, scenario=scenario) as run:
        until(lambda: len(recorder.all("done")) >= 5, "in full flow")
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
        assert time.monotonic() - sent <= 3 + TRACER_S
    recorder.end()
    refused = recorder.all("refused")
    assert {what.split()[1] for what in refused} == {"BusClosedError"}
    # Those that were blocked, and the same ones again and again until the process ended.
    assert len({what.split("-")[1] for what in refused}) == 50
    assert len(refused) > 100
    assert sorted(recorder.all("ok")) == sorted(recorder.all("done"))


# ------------------------------------------------------------------------------ SHD-06

End = tuple[str, tuple[signal.Signals, ...], int, dict[str, Any]]
ENDS: list[End] = [
    ("works", (SIGTERM, SIGTERM), 0, {}),
    ("works", (SIGINT, SIGTERM), 0, {}),
    ("swallows", (SIGTERM, SIGINT, SIGTERM), 143, {}),
    ("swallows", (SIGINT, SIGINT, SIGINT), 130, {}),
    ("in_thread", (SIGTERM, SIGTERM, SIGTERM), 143, {}),
    ("blocks", (SIGINT, SIGINT, SIGINT), 130, {}),
    ("deaf_and_blocks", (SIGTERM, SIGINT, SIGTERM), 143, {}),
    ("swallows", (SIGTERM, SIGTERM), 1, {"grace": 0.3}),
    ("in_thread", (SIGINT, SIGINT), 1, {"grace": 0.3}),
]


@pytest.mark.fault("SHD-06")
def test_signals_after_the_first(tmp_path: Path) -> None:
    """The second cancels, the third leaves at once: within 2 s, and without a traceback."""
    together(ENDS, end_by_signals, tmp_path)


def end_by_signals(case: End, directory: Path) -> None:
    handler, numbers, code, more = case
    scenario = {"handler": handler, "handler_s": 1000, "events": 1, "delay": 0.2, **more}
    with (
        Recorder(directory) as recorder,
        Run(directory, "shop", recorder=recorder, scenario=scenario) as run,
    ):
        until(lambda: recorder.all("start") != [], "in flight")
        run.until_ready()
        sent = run.send(*numbers)
        assert run.wait() == code, run.stderr
        assert time.monotonic() - sent <= 2 + TRACER_S
        assert "Traceback" not in run.stderr
        assert ("third signal" in run.stderr) == (code > 128)
        assert (ABANDONED in run.stderr) == (code == 1)


@pytest.mark.fault("SHD-06")
def test_the_first_signal_drains(tmp_path: Path) -> None:
    """Also one that comes while a handler holds the loop: nothing is thrown into it."""
    cases = [(number, loop) for number in (SIGTERM, SIGINT) for loop in ("asyncio", "uvloop")]
    together(cases, drain_by_a_signal, tmp_path)


def drain_by_a_signal(case: tuple[signal.Signals, str], directory: Path) -> None:
    number, loop = case
    scenario = {"handler": "blocks", "handler_s": 0.5, "events": 2, "delay": 0.1}
    with Recorder(directory) as recorder:
        with Run(directory, "shop", "--loop", loop, recorder=recorder, scenario=scenario) as run:
            until(lambda: recorder.all("start") != [], "in flight")
            run.send(number)
            assert run.wait() == 0, run.stderr
            assert "Traceback" not in run.stderr
        recorder.end()
        assert recorder.all("thrown") == []
        assert len(recorder.all("ok")) == len(recorder.all("done")) >= 1


@pytest.mark.promise("6")
@pytest.mark.parametrize("handler", ["blocks", "deaf_and_blocks"])
def test_a_blocked_loop_ends_within_the_bound(
    tmp_path: Path, recorder: Recorder, handler: str
) -> None:
    """A handler that never gives the loop back: the process leaves by itself, with 1."""
    scenario = {"handler": handler, "events": 1, "delay": 0.2, "drain": 0.3, "grace": 0.3}
    with Run(tmp_path, "shop", recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.all("start") != [], "in flight")
        sent = run.send(SIGTERM)
        assert run.wait() == 1, run.stderr
        assert time.monotonic() - sent <= 0.3 + 0.3 + 3 + TRACER_S
        assert "the event loop is blocked" in run.stderr


# ------------------------------------------------------------------------------ SHD-07

SLOW_MODULE = """
import signal, threading, time
from tests.fault.service.target import note
{first}
note("hangs", "import")
while True:
    try:
        time.sleep(1000)
    except {caught}:
        pass
"""

# The kernel gives the signal to another thread, so that nothing interrupts the sleep: what happens,
# rarely, when it comes just before the sleep begins.
DEAF = """
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
"""

STARTS: list[tuple[str, signal.Signals, list[str]]] = [
    # What hangs, the signal, and the members that were entered and have to be left.
    ("waits", SIGTERM, ["b", "a"]),
    ("waits", SIGINT, ["b", "a"]),
    ("retries", SIGTERM, ["b", "a"]),
    ("swallows", SIGTERM, ["b", "a"]),
    ("blocked", SIGTERM, []),  # nothing but the end of the process can leave a blocked loop
    ("factory", SIGINT, []),
    ("import", SIGTERM, []),
    ("import", SIGINT, []),
    ("import that is deaf", SIGTERM, []),
    ("import that is deaf", SIGINT, []),
    ("import that catches BaseException", SIGTERM, []),
    ("import that catches BaseException", SIGINT, []),
]


@pytest.mark.fault("SHD-07")
def test_a_signal_during_the_start(tmp_path: Path) -> None:
    """Ends it within 5 s, with 128 + n; what was entered is left; no traceback."""
    together(STARTS, start_and_signal, tmp_path)


def start_and_signal(case: tuple[str, signal.Signals, list[str]], directory: Path) -> None:
    how, number, left = case
    target = "slow_factory" if how == "factory" else "half_started"
    if how.startswith("import"):
        target = "slow_module:service"
        caught = "BaseException" if "catches" in how else "ZeroDivisionError"
        first = DEAF if "deaf" in how else ""
        text = SLOW_MODULE.format(caught=caught, first=first)
        directory.joinpath("slow_module.py").write_text(text)
    with Recorder(directory) as recorder:
        with Run(directory, target, recorder=recorder, cwd=directory, scenario={"how": how}) as run:
            until(lambda: recorder.all("hangs") != [], "hanging")
            sent = run.send(number)
            assert run.wait() == 128 + number, run.stderr
            assert time.monotonic() - sent <= 5 + TRACER_S
            assert "Traceback" not in run.stderr
        recorder.end()
        assert recorder.all("left") == left


BETWEEN = """
import os, signal, sys
from eventflow.cli._exit import Guard
from eventflow.cli._signals import StopSignals
signals = StopSignals(Guard())
signals.install()
signals.loaded()
for number in map(int, sys.argv[1:]):
    os.kill(os.getpid(), number)
with signals.told_to(lambda count: print(count, signals.exit_code)):
    pass
"""


@pytest.mark.fault("SHD-07")
@pytest.mark.parametrize("numbers", [(SIGTERM,), (SIGINT, SIGTERM)], ids=["one", "two"])
def test_a_signal_before_there_is_a_loop(numbers: Sequence[signal.Signals]) -> None:
    """It raises nothing in the middle of making one, and is not forgotten."""
    command = [sys.executable, "-W", "error", "-c", BETWEEN, *(str(int(n)) for n in numbers)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == [str(len(numbers)), str(128 + numbers[0])]


WHILE_LOADING = """
import os, signal, sys, threading
from eventflow.cli import _exit
from eventflow.cli._signals import StopSignals
leave, may_leave = _exit.leave, threading.Event()
def leave_later(code):
    may_leave.wait(0.5)
    leave(code)
_exit.leave = leave_later
signals = StopSignals(_exit.Guard())
signals.install()
os.kill(os.getpid(), int(sys.argv[1]))
signals.loaded()
print("goes on", flush=True)
may_leave.wait()
"""


@pytest.mark.fault("SHD-07")
@pytest.mark.parametrize("number", [SIGTERM, SIGINT], ids=lambda number: number.name)
def test_a_signal_as_the_last_is_loaded(number: signal.Signals) -> None:
    """The process ends, and enters nothing in the moment that its guard may need for that."""
    command = [sys.executable, "-W", "error", "-c", WHILE_LOADING, str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (128 + number, "")
    assert ended.stderr == "eventflow: stopped while it was loaded\n"


# ------------------------------------------------------------------------------ endings


@pytest.mark.promise("6")
def test_stuck_threads_are_named_and_the_interpreter_exits(
    tmp_path: Path, recorder: Recorder
) -> None:
    """Sync handlers that never return: exit 1 within the bound."""
    scenario: dict[str, Any] = {
        "handler": "in_thread",
        "handler_s": 1000,
        "events": 5,
        "drain": 0.3,
        "grace": 0.3,
        "options": {"concurrency": 5, "timeout": None},
    }
    with Run(tmp_path, "shop", recorder=recorder, scenario=scenario) as run:
        until(lambda: len(recorder.all("start")) == 5, "in flight")
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == 1, run.stderr
        assert time.monotonic() - sent <= 0.3 + 0.3 + 1.5 + TRACER_S
        line = next(line for line in run.stderr.splitlines() if ABANDONED in line)
        for n in range(1, 6):
            assert f"thread eventflow:shop-{n} in h" in line or f"shop-{n} in in_thread" in line


@pytest.mark.parametrize(("seconds", "code"), [(1.2, 0), (1000, 1)], ids=["ends", "stuck"])
def test_a_thread_of_the_loops_executor(
    tmp_path: Path, recorder: Recorder, seconds: float, code: int
) -> None:
    """It has as long as the drain has, and can't keep the interpreter from ending."""
    scenario = {"seconds": seconds, "drain": 2.0, "grace": 0.2}
    with Run(tmp_path, "executor", recorder=recorder, scenario=scenario) as run:
        until(lambda: recorder.all("start") != [], "running")
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == code, run.stderr
        assert time.monotonic() - sent <= 2.0 + 0.2 + 1.5 + TRACER_S
        assert ("threads still run (asyncio_0" in run.stderr) == bool(code)


def test_a_task_that_nobody_owns(tmp_path: Path, recorder: Recorder) -> None:
    """It is cancelled at the end; one that refuses is named, and exit is 1."""
    with Run(tmp_path, "with_stray_task", recorder=recorder) as run:
        until(lambda: recorder.all("start") != [], "running")
        run.until_ready()
        sent = run.send(SIGTERM)
        assert run.wait() == 1, run.stderr
        assert time.monotonic() - sent <= 2 + TRACER_S
        assert "eventflow.tasks_left" in run.stderr
        assert "stray" in run.stderr


@pytest.mark.promise("2")
def test_a_member_that_fails(tmp_path: Path, recorder: Recorder) -> None:
    """The bus beside it is drained, the error is shown once, exit is 1."""
    scenario = {"handler_s": 0.5, "events": 50}
    with Run(tmp_path, "failing_beside_a_bus", recorder=recorder, scenario=scenario) as run:
        assert run.wait() == 1, run.stderr
        assert run.stderr.count("LookupError: this is how it failed") == 1
        assert run.ledger()["handled"] == len(recorder.all("ok"))
    recorder.end()
    assert sorted(recorder.all("done")) == sorted(recorder.all("ok"))


def test_a_member_that_can_not_start(tmp_path: Path, recorder: Recorder) -> None:
    """Exit 1, its traceback once, and what was entered before is left."""
    with Run(tmp_path, "can_not_start", recorder=recorder) as run:
        assert run.wait() == 1
        assert run.stderr.count("ConnectionRefusedError: nobody there") == 1
    recorder.end()
    assert recorder.all("left") == ["a"]


def test_a_process_that_the_service_forks(tmp_path: Path, recorder: Recorder) -> None:
    """It is no service: SIGTERM ends it as if there were no handlers, and its parent lives on."""
    with Run(tmp_path, "forks", recorder=recorder) as run:
        run.until(lambda: recorder.all("forked") != [], "forking")
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
    recorder.end()
    assert recorder.all("child") == [str(-SIGTERM)]


@pytest.mark.fault("SHD-07")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_that_interrupts_no_wait(tmp_path: Path, recorder: Recorder, loop: str) -> None:
    """The loop would notice it with the next thing that happens, which may be never."""
    with Run(tmp_path, "deaf", "--loop", loop, recorder=recorder) as run:
        run.until_ready()
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr


LOADING = """
import os, signal
from tests.fault.service.target import note, service_of, noted
"""
FORKS = 40
FORKING = f"""
for number in range({FORKS}):
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(3)
    os.kill(child, signal.SIGTERM)  # at once: it may not know yet that it is another process
    _, status = os.waitpid(child, 0)
    note("seen", str(os.waitstatus_to_exitcode(status)))
"""
# The guard's thread looks at who handles it: the handler stays until it has looked.
HANDLING = """
import threading
ours = signal.signal(signal.SIGTERM, lambda number, frame: note("seen", str(number)))
guard, looked = ours.__self__._guard, threading.Event()
heard = guard.on_signal
def look(number):
    heard(number)
    looked.set()
guard.on_signal = look
os.kill(os.getpid(), signal.SIGTERM)
assert looked.wait(20)
guard.on_signal = heard
signal.signal(signal.SIGTERM, ours)
"""


@pytest.mark.parametrize(
    ("loading", "seen"),
    [(FORKING, [str(-SIGTERM)] * FORKS), (HANDLING, [str(int(SIGTERM))])],
    ids=["a child that is forked", "a handler of its own, as debuggers have"],
)
def test_signals_for_others_while_the_service_is_loaded(
    tmp_path: Path, recorder: Recorder, loading: str, seen: list[str]
) -> None:
    """They are neither taken for ours, nor lost."""
    text = LOADING + loading + 'service = service_of(noted("a"))\n'
    tmp_path.joinpath("loading_module.py").write_text(text)
    with Run(tmp_path, "loading_module:service", recorder=recorder, cwd=tmp_path) as run:
        run.until_ready()
        run.send(SIGTERM)
        assert run.wait() == 0, run.stderr
    recorder.end()
    assert recorder.all("seen") == seen


def test_the_command_is_installed() -> None:
    """As ``eventflow``; importing it does nothing."""
    (command,) = entry_points(group="console_scripts", name="eventflow")
    assert command.load() is main


def test_a_service_that_stops_itself(tmp_path: Path, recorder: Recorder) -> None:
    """`request_stop` in a handler ends the process with 0."""
    with Run(tmp_path, "one_shot", recorder=recorder, scenario={"events": 1}) as run:
        assert run.wait() == 0, run.stderr
    recorder.end()
    assert len(recorder.all("done")) == 1


def test_the_ready_file(tmp_path: Path, recorder: Recorder) -> None:
    """There while the service is open; gone as soon as draining begins."""
    ready = tmp_path / "ready"
    ready.write_text("left by a process that was killed")
    scenario = {"handler_s": 1, "events": 1}
    with Run(
        tmp_path, "shop", "--ready-file", str(ready), recorder=recorder, scenario=scenario
    ) as run:
        until(lambda: recorder.all("start") != [], "in flight")
        until(lambda: ready.exists() and ready.read_text() == f"{run.process.pid}\n", "ready")
        run.send(SIGTERM)
        until(lambda: not ready.exists(), "not ready", within=0.9)
        assert run.process.poll() is None
        assert run.wait() == 0
    assert recorder.all("done") != []


# ------------------------------------------------------------------------------ usage


WRONG = [
    (["not_a_service"], "must be an async context manager, not 3"),
    (["undecorated"], "put @contextlib.asynccontextmanager"),
    (["needs_an_argument"], "missing a required argument: 'settings'"),
    (["builtins:dict"], "must be an async context manager, not {}"),
    (["nowhere"], "has no attribute 'nowhere'"),
    (["no_such_module:x"], "there is no module 'no_such_module'"),
    (["tests.fault.nothing:x"], "there is no module 'tests.fault.nothing'"),
    ([":x"], "write pkg.mod:service"),
    (["tests:"], "write tests:NAME"),
    (["web_app"], "an ASGI app is run by its server"),
    (["make_web_app"], "an ASGI app is run by its server"),
    (["shop", "--ready-file", "/no/such/directory/ready"], "there is no such directory"),
    (["shop", "--ready-file", "/proc"], "--ready-file /proc"),
    (["shop", "--workers", "0"], "1 or more"),
    (["shop", "--workers", "2", "--reload"], "not allowed with"),
    (["shop", "--loop", "trio"], "invalid choice"),
]


def test_what_can_not_be_run(tmp_path: Path) -> None:
    """One clear line (argparse has its usage before it), exit 2."""

    def refused(case: tuple[list[str], str], directory: Path) -> None:
        arguments, said = case
        with Run(directory, *arguments) as run:
            assert run.wait() == 2
            *usage, line = run.stderr.splitlines()
            assert line.startswith("eventflow")
            assert said in line
            assert not usage or usage[0].startswith("usage: ")

    together(WRONG, refused, tmp_path)


def test_the_working_directory_is_importable(tmp_path: Path, recorder: Recorder) -> None:
    """Also where the interpreter does not put it on its path, as with the ``eventflow`` script."""
    tmp_path.joinpath("mine.py").write_text("from tests.fault.service.target import one_shot")
    safe = "export PYTHONSAFEPATH=1"
    one = {"events": 1}
    with Run(
        tmp_path, "mine:one_shot", recorder=recorder, cwd=tmp_path, before=safe, scenario=one
    ) as run:
        assert run.wait() == 0, run.stderr
    recorder.end()
    assert len(recorder.all("done")) == 1


def test_a_module_that_can_not_be_imported(tmp_path: Path) -> None:
    """The traceback is that of the user's own code, and no more; exit 2."""
    tmp_path.joinpath("broken.py").write_text("import json\n\nimport no_such_thing\n")
    with Run(tmp_path, "broken:service", cwd=tmp_path) as run:
        assert run.wait() == 2
        assert "No module named 'no_such_thing'" in run.stderr
        assert 'broken.py", line 3' in run.stderr
        assert "importlib" not in run.stderr
        assert "eventflow/cli" not in run.stderr


def test_a_factory_that_raises(tmp_path: Path) -> None:
    """Its own error, once; exit 1."""
    with Run(tmp_path, "raises") as run:
        assert run.wait() == 1
        assert run.stderr.count("LookupError: this is how the factory failed") == 1


@pytest.mark.parametrize(
    ("option", "package"), [("--loop=uvloop", "uvloop"), ("--reload", "watchfiles")]
)
def test_an_extra_that_is_missing(tmp_path: Path, option: str, package: str) -> None:
    """How to install it; one that is there and broken shows its own error."""
    hidden = tmp_path / package
    hidden.mkdir()
    hidden.joinpath("__init__.py").write_text(
        f"raise ModuleNotFoundError('gone', name={package!r})"
    )
    with Run(tmp_path, "shop", option, cwd=tmp_path, name="missing") as run:
        assert run.wait() == 2
        assert "pip install 'eventflow-asyncio[" in run.stderr
    hidden.joinpath("__init__.py").write_text("import something_it_needs")
    with Run(tmp_path, "shop", option, cwd=tmp_path, name="broken") as run:
        assert run.wait() == 2
        assert "something_it_needs" in run.stderr
        assert "pip install" not in run.stderr
