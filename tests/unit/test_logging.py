"""Our own log lines, and the processor that puts the event on yours."""

from __future__ import annotations

import json
import logging
import logging.config
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from eventflow._log import EventLogger
from eventflow.bus import EventBus, Overflow
from eventflow.logging import add_event_context
from tests.unit.bus.support import Ping, turns

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def structured() -> Iterator[list[dict[str, Any]]]:
    """A structlog configured by the user; what it was given."""
    lines: list[dict[str, Any]] = []

    def keep(logger: Any, name: str, event_dict: Any) -> Any:
        lines.append(dict(event_dict))
        raise structlog.DropEvent

    structlog.configure(processors=[add_event_context, structlog.processors.add_log_level, keep])
    yield lines
    structlog.reset_defaults()


async def test_a_handlers_lines_carry_its_event(structured: list[dict[str, Any]]) -> None:
    """Event id, topic and correlation id, from a coroutine, a child task and a thread."""
    import asyncio

    async def on_loop(event: Ping) -> None:
        structlog.get_logger().info("loop")
        await asyncio.gather(child())

    async def child() -> None:
        structlog.get_logger().info("child", topic="mine")

    def in_thread(event: Ping) -> None:
        structlog.get_logger().info("thread")

    async with EventBus() as bus:
        bus.subscribe(Ping, on_loop)
        bus.subscribe(Ping, in_thread)
        event = Ping()
        await bus.publish(event)
        await bus.wait_idle()
    structlog.get_logger().info("outside")
    by_name = {line["event"]: line for line in structured}
    for name in ("loop", "child", "thread"):
        assert by_name[name]["event_id"] == event.id
        assert by_name[name]["correlation_id"] == event.id
    assert by_name["loop"]["topic"] == "test.ping"
    assert by_name["child"]["topic"] == "mine"
    assert "event_id" not in by_name["outside"]


async def test_our_lines_go_where_structlog_sends_them(structured: list[dict[str, Any]]) -> None:
    """With the error for its processors, and with facts as values."""

    async def fails(event: Ping) -> None:
        raise ValueError("no")

    async with EventBus() as bus:
        bus.subscribe(Ping, fails)
        event = Ping()
        await bus.publish(event)
        await bus.wait_idle()
    (line,) = structured
    assert line["event"] == "eventflow.handler_failed"
    assert line["level"] == "error"
    assert line["event_id"] == event.id
    assert isinstance(line["exc_info"], ValueError)


async def test_a_broken_processor_does_not_stop_a_handler(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Standard error says so, as stdlib logging does; the next event is handled."""

    def broken(logger: Any, name: str, event_dict: Any) -> Any:
        raise RuntimeError("broken processor")

    async def fails(event: Ping) -> None:
        raise ValueError

    structlog.configure(processors=[broken])
    try:
        async with EventBus() as bus:
            sub = bus.subscribe(Ping, fails)
            await bus.publish(Ping())
            await bus.publish(Ping())
            await bus.wait_idle()
            await turns()
            assert sub.statistics().failed == 2
            assert sub.statistics().restarts == 0
    finally:
        structlog.reset_defaults()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("RuntimeError: broken processor") == 2


def test_ids_are_written_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    """Up to 100 a line."""
    ids = [f"id-{n:04}" for n in range(250)]
    EventLogger("eventflow.test").ids("eventflow.events_dropped", ids, bus="b")
    assert [record.getMessage().count("id-") for record in caplog.records] == [100, 100, 50]
    assert all(i in caplog.text for i in ids)
    assert "bus='b'" in caplog.text


def test_a_line_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Newlines, escapes and bidi controls in a value can't forge another."""
    EventLogger("eventflow.test").warning("eventflow.x", name="a\nERROR b\x1b[31m\u202e")
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()


@pytest.mark.parametrize("configured", [True, False])
async def test_dictconfig_does_not_silence_a_loss(
    configured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """By default it disables every logger that is there; a level is still heeded."""

    async def fails(event: Ping) -> None:
        raise ValueError

    async def waits(event: Ping) -> None:
        await turns()

    if configured:
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
    bus_log, tested = logging.getLogger("eventflow.bus"), logging.getLogger("eventflow.test.quiet")
    bystander = logging.getLogger("test.bystander")
    try:
        logging.config.dictConfig({"version": 1})
        assert bus_log.disabled
        assert bystander.disabled
        async with EventBus() as bus:
            bus.subscribe(Ping, fails)
            bus.subscribe(Ping, waits, capacity=1, overflow=Overflow.DROP_NEWEST)
            events = (Ping(), Ping(), Ping())
            for event in events:
                await bus.publish(event)
        assert all(event.id in caplog.text for event in events)
        assert "eventflow.events_dropped" in caplog.text
        assert bystander.disabled
        tested.setLevel(logging.CRITICAL)
        EventLogger("eventflow.test.quiet").error("eventflow.unseen")
        assert "eventflow.unseen" not in caplog.text
    finally:
        tested.setLevel(logging.NOTSET)
        structlog.reset_defaults()
        for name in logging.getLogger().manager.loggerDict:
            logging.getLogger(name).disabled = False


def test_a_level_that_is_off_costs_no_ids() -> None:
    """`enabled` asks the logger."""
    logger = EventLogger("eventflow.test.off")
    logging.getLogger("eventflow.test.off").setLevel(logging.CRITICAL)
    try:
        assert not logger.enabled()
        assert logger.enabled(logging.CRITICAL)
    finally:
        logging.getLogger("eventflow.test.off").setLevel(logging.NOTSET)


UNCONFIGURED = """
import asyncio, json, sys
from eventflow import Event
from eventflow.bus import EventBus, Overflow

class Ping(Event, topic="test.ping"):
    n: int = 0

async def fails(event):
    raise ValueError("no")

async def waits(event):
    await asyncio.sleep(0.05)

async def main():
    ids = []
    async with EventBus() as bus:
        bus.subscribe(Ping, fails)
        bus.subscribe(Ping, waits, capacity=1, overflow=Overflow.DROP_NEWEST)
        for n in range(4):
            event = Ping(n=n)
            ids.append(event.id)
            await bus.publish(event)
    assert bus.ledger.adds_up
    return ids

with open(sys.argv[1], "w") as out:
    json.dump(asyncio.run(main()), out)
"""


@pytest.mark.promise("2")
def test_unconfigured_nothing_is_on_stdout_and_nothing_below_warning(tmp_path: Any) -> None:
    """Warnings and errors reach stderr through stdlib's last resort."""
    script = tmp_path / "script.py"
    script.write_text(UNCONFIGURED)
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "ids.json")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "."},
    )
    ids = json.loads((tmp_path / "ids.json").read_text())
    assert result.stdout == ""
    assert all(i in result.stderr for i in ids)
    assert "events_dropped" in result.stderr
    assert "ValueError: no" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("event=")]
    assert {line.split("'")[1] for line in lines} == {
        "eventflow.handler_failed",
        "eventflow.events_dropped",
    }
