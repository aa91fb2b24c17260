"""`eventflow.logging.configure`: one form, escaped, never raising, repeats counted."""

from __future__ import annotations

import asyncio
import io
import json
import linecache
import logging
import subprocess
import sys
import threading
import unicodedata
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow._escape import error_text, escaped
from eventflow._log import EventLogger, flush_repeats, flush_repeats_at_once
from eventflow.bus import EventBus
from eventflow.errors import InvalidOptionError
from eventflow.logging import configure
from eventflow.logging._configure import remove
from eventflow.logging._handler import MAX_DEPTH, LogHandler
from eventflow.logging._reminder import NAME, Reminder
from eventflow.logging._renderers import Line, console, json_line, plain
from eventflow.logging._repeats import FIRST, MAX_WINDOWS, WINDOW_S, Repeats
from eventflow.testing import no_leaks
from tests.unit.bus.support import Ping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Logging as it was before."""
    level = logging.getLogger().level
    yield
    remove()
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_every_line_of_a_handler_has_its_event() -> None:
    """From structlog and stdlib; on the loop, in a child task and in a thread."""
    stream = io.StringIO()
    configure(format="json", stream=stream)

    def both(name: str) -> None:
        structlog.get_logger("mine").info(name, n=1)
        logging.getLogger("mine").info("%s %s", "std", name, extra={"n": 1})

    async def child() -> None:
        both("child")

    async def on_loop(event: Ping) -> None:
        both("loop")
        await asyncio.create_task(child())

    def in_thread(event: Ping) -> None:
        both("thread")

    async with EventBus() as bus:
        bus.subscribe(Ping, on_loop)
        bus.subscribe(Ping, in_thread)
        event = Ping()
        await bus.publish(event)
    both("outside")
    by_event = {line["event"]: line for line in lines(stream)}
    for name, subscription in (("loop", "on_loop"), ("child", "on_loop"), ("thread", "in_thread")):
        for line in (by_event[name], by_event[f"std {name}"]):
            assert subscription in line["subscription"]
            assert (line["event_id"], line["correlation_id"]) == (event.id, event.id)
            assert (line["topic"], line["n"], line["level"]) == ("test.ping", 1, "info")
            assert line["timestamp"].endswith("Z")
            assert line["logger"] == "mine"
    assert "event_id" not in by_event["outside"]
    assert "event_id" not in by_event["std outside"]


async def test_our_own_lines_tell_of_their_own_event() -> None:
    """One about the event that is handled has its correlation id; one about another has not."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    ours = EventLogger("eventflow.test")

    async def handle(event: Ping) -> None:
        ours.warning("eventflow.thing_happened", event_id=event.id)
        ours.warning("eventflow.other_happened", event_ids=["other"], subscription="b")

    async with EventBus() as bus:
        bus.subscribe(Ping, handle)
        event = Ping()
        await bus.publish(event)
    about, other = lines(stream)
    assert about["correlation_id"] == event.id
    assert other["subscription"] == "b"
    assert not {"event_id", "correlation_id", "topic"} & set(other)


async def test_own_lines_have_the_correlation_id_without_configure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through stdlib, too."""

    async def fails(event: Ping) -> None:
        raise ValueError

    async with EventBus() as bus:
        bus.subscribe(Ping, fails)
        event = Ping()
        await bus.publish(event)
    assert f"correlation_id='{event.id}'" in caplog.text


@pytest.mark.fault("SEC-11")
async def test_unconfigured_an_error_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback that stdlib's formatter writes has the message as one line."""
    handler = logging.StreamHandler()
    logging.getLogger("eventflow.test").addHandler(handler)
    try:
        EventLogger("eventflow.test").error(
            "eventflow.x_failed", error=ValueError("no\nERROR forged\x1b[31m\u202e")
        )
    finally:
        logging.getLogger("eventflow.test").removeHandler(handler)
    err = capsys.readouterr().err
    assert "ValueError: no\\nERROR forged\\x1b[31m\\u202e" in err
    assert not unprintable(err)


def unprintable(text: str) -> list[str]:
    return [
        c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
    ]


hostile = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"]),
        st.sampled_from("\n\r\x1b\x7f\x85\x9b\u200b\u202e\u2028\u2066\ufeff\ud800"),
    )
)


@pytest.mark.fault("SEC-11")
@pytest.mark.parametrize("form", ["json", "console"])
@settings(deadline=None)
@given(event=hostile, key=hostile, value=hostile, message=hostile)
def test_a_record_is_a_line_whatever_it_says(
    form: Any, event: str, key: str, value: str, message: str
) -> None:
    """No control or bidi character comes out; JSON reads back as it was."""
    head = {"timestamp": "t", "level": "info", "event": event, "logger": event}
    facts: dict[Any, Any] = {key: value, 1: [value, {key: value}]}
    line = Line(head, facts, None)
    text = json_line(line) if form == "json" else console(line, colours=False)
    assert not unprintable(text)
    assert "\n" not in text
    error = ValueError(message)
    line = Line(head, facts, error)
    if form == "json":
        whole = json_line(line)
        assert "\n" not in whole
        assert json.loads(whole)["event"] == event
    else:
        whole = console(line, colours=False)
        assert whole == f"{text}\n{error_text(error)}"
        assert whole.count("\n") == 1
    assert not unprintable(whole)


@pytest.mark.fault("SEC-11")
@pytest.mark.parametrize("form", ["json", "console"])
def test_hostile_text_through_either_logger(form: Any) -> None:
    """In event text, key, value, logger name and error: one line a record."""
    stream = io.StringIO()
    configure(format=form, stream=stream)
    bad = "a\nb\x1b[2J\u202e\x7f\x9b"
    structlog.get_logger(bad).info(bad, **{bad: bad})
    logging.getLogger(bad).info(bad, extra={bad: bad})
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert not unprintable(text)


def test_errors_with_causes_and_groups_are_shown() -> None:
    """Each error's message on one line of its own."""
    try:
        try:
            raise KeyError("first\n")
        except KeyError as exc:
            raise ExceptionGroup("many", [ValueError("in\nside")]) from exc
    except ExceptionGroup as group:
        text = error_text(group)
    assert "KeyError: 'first\\n'" in text
    assert "direct cause" in text
    assert "  ValueError: in\\nside" in text

    class BadError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "BadError" in error_text(BadError())
    assert escaped("plain") == "plain"


def test_of_a_long_chain_of_causes_the_last_20_are_shown() -> None:
    """Those that are nearest to what was raised; however many there are."""
    error = ValueError("0")
    for n in range(1, 50):
        cause, error = error, ValueError(str(n))
        error.__cause__ = cause
    shown = [line for line in error_text(error).splitlines() if line.startswith("ValueError")]
    assert shown == [f"ValueError: {n}" for n in range(30, 50)]


class Refusing(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError("disk full")


@pytest.mark.parametrize("why", ["stderr is closed", "not in production"])
def test_a_line_that_can_not_be_written_where_nobody_is_told(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in stdlib: without a stderr, or with ``logging.raiseExceptions`` off, it goes on."""
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", None if why == "stderr is closed" else told)
    monkeypatch.setattr(logging, "raiseExceptions", why == "stderr is closed")
    configure(stream=Refusing())
    logging.getLogger("x").warning("one")
    assert told.getvalue() == ""


@pytest.mark.fault("SEC-11")
def test_a_source_line_forges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the module author's text, and may hold bidi controls, too."""
    name, source = "<made here>", "raise ValueError('no')  # \u202e\x1b[2J\n"
    monkeypatch.setitem(linecache.cache, name, (len(source), None, [source], name))
    with pytest.raises(ValueError, match="no") as caught:
        exec(compile(source, name, "exec"), {})
    text = error_text(caught.value)
    assert "raise ValueError('no')  # \\u202e\\x1b[2J" in text
    assert not unprintable(text)


def test_values_that_json_can_not_hold() -> None:
    """Are text; nothing raises."""

    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    circle: list[Any] = []
    circle.append(circle)
    assert plain(float("nan")) == "nan"
    assert plain(float("-inf")) == "-inf"
    assert plain(b"x") == "b'x'"
    assert plain({1: (2, None, True)}) == {"1": [2, None, True]}
    assert plain(10**5000).startswith("0x")
    assert plain(Hostile()) == "<Hostile, whose repr() fails>"
    assert plain(circle) == ["[[...]]"]
    json.dumps(plain({"a": {"b": circle}}), allow_nan=False)


def test_record_facts_keep_their_place() -> None:
    """A key named as one of the record's stays beside it; arguments that do not fit do, too."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    structlog.get_logger("l").warning("%d", "x", level="gold", exception="mine")
    (line,) = lines(stream)
    assert (line["level"], line["level_"], line["event"]) == ("warning", "gold", "%d")
    assert (line["positional_args"], line["exception"]) == (["x"], "mine")
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger().exception("failed %s", "here")
        logging.getLogger("l").exception("failed %s", "there")
    assert lines(stream)[1]["event"] == "failed here"
    assert lines(stream)[2]["event"] == "failed there"
    assert lines(stream)[1]["exception"].endswith("ValueError: no")
    assert lines(stream)[2]["exception"].endswith("ValueError: no")
    logging.getLogger("l").info("from", stack_info=True)
    assert "test_record_facts_keep_their_place" in lines(stream)[3]["stack"]


def test_no_fact_takes_the_place_of_another() -> None:
    """However many of its names are taken already."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    structlog.get_logger().info("x", level="mine", level_="other", stack="s", stack_info=1)
    logging.getLogger().info("x", extra={"event": 1, "event_": 2, "level": 3, "timestamp": 4})
    logging.getLogger("std").info("x", extra={"_logger": "own", "_name": "name"})
    of_structlog, of_stdlib, odd = lines(stream)
    assert (of_structlog["level_"], of_structlog["level__"]) == ("other", "mine")
    assert (of_stdlib["event"], of_stdlib["event_"], of_stdlib["event__"]) == ("x", 1, 2)
    assert (of_stdlib["level_"], of_stdlib["timestamp_"]) == (3, 4)
    assert (odd["logger"], odd["event"], odd["_logger"], odd["_name_"]) == (
        "std",
        "x",
        "own",
        "name",
    )


def test_arguments_that_do_not_fit_stay_beside_the_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of stdlib's lines, which other handlers get as they were."""
    seen: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    class Hostile:
        def __str__(self) -> str:
            raise asyncio.CancelledError

        __repr__ = __str__

    # pytest's own handlers do not catch it.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    stream = io.StringIO()
    configure(format="json", stream=stream)
    log = logging.getLogger("std")
    log.addHandler(keeps := Keeps())
    try:
        log.info("%d", "x")
        log.info("none", 1, 2)  # noqa: PLE1205 - what is tested
        log.info("%(a)s", {"b": 1}, extra={"positional_args": "mine"})
        log.info("%s", Hostile())
        log.info(Hostile())
    finally:
        log.removeHandler(keeps)
    number, none, named, hostile, text = lines(stream)
    assert (number["event"], number["positional_args"]) == ("%d", ["x"])
    assert (none["event"], none["positional_args"]) == ("none", [1, 2])
    assert (named["event"], named["positional_args_"]) == ("%(a)s", {"b": 1})
    assert named["positional_args"] == "mine"
    unshown = "<Hostile, whose repr() fails>"
    assert (hostile["event"], hostile["positional_args"]) == ("%s", [unshown])
    assert text["event"] == unshown
    assert (seen[0].msg, seen[0].args) == ("%d", ("x",))
    assert capsys.readouterr().err == ""


def test_again_replaces_and_others_stay() -> None:
    """No line twice; a handler of the user's is where it was."""
    own = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(own)
    first, second = io.StringIO(), io.StringIO()
    try:
        configure(stream=first)
        configure(stream=second, level="warning")
        assert own in root.handlers
    finally:
        root.removeHandler(own)
    logging.getLogger("x").warning("one")
    structlog.get_logger("x").info("left out")
    assert first.getvalue() == ""
    assert [line["event"] for line in lines(second)] == ["one"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("level", "LOUD"),
        ("level", -1),
        ("level", True),
        ("level", None),
        ("format", "xml"),
        ("stream", 1),
        ("processors", [1]),
    ],
)
def test_nonsense_is_refused(option: str, value: Any) -> None:
    """With the option's name; nothing is changed."""
    with pytest.raises(InvalidOptionError) as caught:
        configure(**{option: value})
    assert caught.value.option == option
    assert not structlog.is_configured()


def test_a_level_can_be_a_number() -> None:
    """Also one that has no name."""
    stream = io.StringIO()
    configure(stream=stream, level=25, format="json")
    for level in (24, 25):
        logging.getLogger("x").log(level, "at %d", level)
    assert [line["event"] for line in lines(stream)] == ["at 25"]


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the console form by default only there; NO_COLOR is heeded."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, start in ((Terminal(), "\x1b"), (io.StringIO(), "{")):
        configure(stream=stream)
        logging.getLogger("x").warning("one")
        assert stream.getvalue().startswith(start)
    monkeypatch.setenv("NO_COLOR", "1")
    plain_terminal = Terminal()
    configure(stream=plain_terminal)
    logging.getLogger("x").warning("one")
    assert not unprintable(plain_terminal.getvalue())


def test_a_failing_processor_costs_no_line() -> None:
    """The line is written as it was before the processors; DropEvent drops it."""

    def broken(logger: Any, name: str, line: Any) -> Any:
        line["secret"] = 1
        if line["event"] == "drop":
            raise structlog.DropEvent
        raise RuntimeError("broken\n")

    stream = io.StringIO()
    configure(format="json", stream=stream, processors=[broken])
    structlog.get_logger().info("one")
    structlog.get_logger().info("drop")
    (line,) = lines(stream)
    assert "RuntimeError" in line["processor_failed"]
    assert "secret" not in line

    def renders(logger: Any, name: str, line: Any) -> str:
        return "text"

    configure(format="json", stream=stream, processors=[renders])
    structlog.get_logger().info("two")
    assert "returned str" in lines(stream)[1]["processor_failed"]


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, BaseException])
@pytest.mark.parametrize("configured", [True, False])
async def test_nothing_that_a_log_raises_reaches_a_handler(
    error: type[BaseException], configured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation that a processor or a repr() makes up is the log's, not the handler's."""

    def broken(logger: Any, name: str, line: Any) -> Any:
        raise error

    class Hostile:
        def __repr__(self) -> str:
            raise error

    # pytest's own handlers do not catch it.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    stream = io.StringIO()
    if configured:
        configure(format="json", stream=stream, processors=[broken])
    else:
        structlog.configure(processors=[broken])

    async def handle(event: Ping) -> None:
        EventLogger("eventflow.test").error("eventflow.x_failed", error=error(), value=Hostile())
        if configured:
            structlog.get_logger("mine").info("mine", value=Hostile(), more=[{"a": Hostile()}])
            logging.getLogger("std").info("std %r", Hostile())

    async with EventBus() as bus:
        sub = bus.subscribe(Ping, handle)
        await bus.publish(Ping())
    assert sub.statistics().handled == 1
    if configured:
        written = lines(stream)
        assert [line["event"] for line in written] == ["eventflow.x_failed", "mine", "std %r"]
        assert all(error.__name__ in line["processor_failed"] for line in written)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_wish_to_end_the_program_passes_through_a_log(error: type[BaseException]) -> None:
    """An interrupt that comes while a line is written is not the line's."""

    class Interrupted:
        def __repr__(self) -> str:
            raise error

    configure(format="json", stream=io.StringIO())
    with pytest.raises(error):
        EventLogger("eventflow.test").warning("eventflow.thing_happened", value=[Interrupted()])


def test_a_processor_may_change_a_line_and_write_one() -> None:
    """What it returns is written; the line that it writes itself does not come to it again."""
    inside = logging.getLogger("inside")

    def marks(logger: Any, name: str, line: Any) -> Any:
        inside.info("while %s", line["event"])
        return {**line, "marked": True}

    stream = io.StringIO()
    configure(format="json", stream=stream, processors=[marks])
    structlog.get_logger().info("one")
    inner, outer = lines(stream)
    assert (inner["event"], "marked" in inner) == ("while one", False)
    assert (outer["event"], outer["marked"]) == ("one", True)


def test_a_value_that_logs_itself_does_not_go_on_for_ever() -> None:
    """Its own lines end at some depth, and the line it belongs to is written."""
    stream = io.StringIO()
    configure(format="json", stream=stream)

    class Chatty:
        def __repr__(self) -> str:
            logging.getLogger("x").info("shown", extra={"value": self})
            return "chatty"

    logging.getLogger("x").info("first", extra={"value": Chatty()})
    written = [line for line in lines(stream) if "value" in line]  # others may log meanwhile
    assert written[-1]["event"] == "first"
    assert {line["value"] for line in written} == {"chatty"}
    assert len(written) == MAX_DEPTH


def test_a_closed_stream_raises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error says so, on lines that forge none."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    stream.close()
    structlog.get_logger().info("lost\n\x1b")
    err = capsys.readouterr().err
    assert "could not write a log line" in err
    assert "closed file" in err
    assert not unprintable(err)


def test_a_stream_of_another_encoding() -> None:
    """What it can't hold is escaped."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    configure(format="console", stream=stream)
    logging.getLogger("x").warning("äöü")
    assert b"\\xe4" in raw.getvalue()


# Repeats


def test_repeats_are_counted_with_every_id() -> None:
    """100,000 failures: a few lines in full, all ids in summaries of at most 100."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    ours = EventLogger("eventflow.test")
    ids = [f"id-{n}" for n in range(100_000)]
    error = ValueError("no")
    for event_id in ids:
        ours.error("eventflow.handler_failed", error=error, subscription="s", event_id=event_id)
    flush_repeats()
    written = lines(stream)
    full = [line["event_id"] for line in written if line["event"] == "eventflow.handler_failed"]
    summaries = [line for line in written if line["event"] == "eventflow.lines_repeated"]
    held = [i for line in summaries for i in line["event_ids"]]
    assert sorted(full + held) == sorted(ids)
    assert sum(line["count"] for line in summaries) + len(full) == len(ids)
    assert all(len(line["event_ids"]) <= 100 for line in summaries)
    assert summaries[0]["error"] == "ValueError"
    assert summaries[0]["level"] == "error"
    assert len(written) < 1_200


def test_a_users_lines_are_not_limited() -> None:
    """Nor lines of ours that hold many ids already."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    for _ in range(50):
        structlog.get_logger("mine").warning("same")
        EventLogger("eventflow.test").ids("eventflow.events_dropped", ["a"])
    assert len(lines(stream)) == 100


def test_lines_about_no_event_are_all_written() -> None:
    """What they say stands nowhere else: which member failed, and how."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    ours = EventLogger("eventflow.test")
    for n in range(50):
        error = ValueError(f"reason {n}")
        ours.error("eventflow.member_failed", error=error, service="s", member=f"member {n}")
        ours.error("eventflow.task_abandoned", bus="b", task="t", event_id=None, topic=None)
    flush_repeats()
    written = lines(stream)
    assert len(written) == 100
    assert [line["member"] for line in written[::2]] == [f"member {n}" for n in range(50)]
    assert all(f"reason {n}" in line["exception"] for n, line in enumerate(written[::2]))


def test_no_name_is_held_back() -> None:
    """Lines about an event that name a task, or an option, are equal when those are."""
    stream = io.StringIO()
    configure(format="json", stream=stream)
    ours = EventLogger("eventflow.test")
    for n in range(20):
        ours.error("eventflow.task_abandoned", bus="b", task=f"task {n}", event_id="id")
    for n in range(20):
        ours.error("eventflow.task_abandoned", bus="b", task="same", event_id=f"id {n}")
        ours.error("eventflow.key_failed", subscription="s", option="order_key", event_id=f"id {n}")
    flush_repeats()
    written = lines(stream)
    assert [line["task"] for line in written[:20]] == [f"task {n}" for n in range(20)]
    tasks, keys = written[-2:]
    assert (tasks["bus"], tasks["task"], tasks["count"]) == ("b", "same", 15)
    assert tasks["event_ids"] == [f"id {n}" for n in range(5, 20)]
    assert (keys["subscription"], keys["option"], keys["count"]) == ("s", "order_key", 15)


def test_a_window_ends_with_the_next_line_after_it() -> None:
    """By any line, through the handler; then the first few come in full again."""
    now = [0.0]
    stream = io.StringIO()
    handler = LogHandler(stream, as_json=True, clock=lambda: now[0])
    configure()
    root = logging.getLogger()
    remove()
    root.addHandler(handler)
    ours = EventLogger("eventflow.test")
    for _ in range(FIRST + 2):
        ours.warning("eventflow.thing_happened", event_id="id")
    now[0] = WINDOW_S
    logging.getLogger("x").warning("next")
    ours.warning("eventflow.thing_happened", event_id="id")
    events = [line["event"] for line in lines(stream)]
    assert events == [
        *["eventflow.thing_happened"] * FIRST,
        "eventflow.lines_repeated",
        "next",
        "eventflow.thing_happened",
    ]
    assert lines(stream)[FIRST]["count"] == 2


class Asked:
    """Stands in for the thread that reminds: the test does what that would."""

    all: ClassVar[list[Asked]] = []

    def __init__(self, act: Callable[[], float | None]) -> None:
        self.act = act
        self.woken = 0
        self.all.append(self)

    def wake(self) -> None:
        self.woken += 1


def test_what_is_held_back_is_written_when_no_other_line_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of its window; one thread at a time waits for that, and only for that."""
    now = [0.0]
    stream = io.StringIO()
    monkeypatch.setattr("eventflow.logging._handler.Reminder", Asked)
    monkeypatch.setattr(Asked, "all", asked := list[Asked]())
    handler = LogHandler(stream, as_json=True, clock=lambda: now[0])
    configure()
    remove()
    logging.getLogger().addHandler(handler)
    ours = EventLogger("eventflow.test")

    def flood(subscription: str) -> None:
        for n in range(FIRST + 2):
            ours.warning("eventflow.thing_happened", subscription=subscription, event_id=str(n))

    def summaries() -> list[dict[str, Any]]:
        return [line for line in lines(stream) if line["event"] == "eventflow.lines_repeated"]

    ours.warning("eventflow.thing_happened", event_id="0")
    assert asked == []
    flood("a")
    now[0] = 4.0
    flood("b")
    (reminder,) = asked
    assert reminder.act() == WINDOW_S - 4.0
    assert summaries() == []
    now[0] = WINDOW_S
    assert reminder.act() == 4.0
    assert [(line["subscription"], line["event_ids"]) for line in summaries()] == [
        ("a", ["5", "6"])
    ]
    now[0] = WINDOW_S + 4.0
    assert reminder.act() is None
    assert [line["subscription"] for line in summaries()] == ["a", "b"]
    flood("c")
    flush_repeats()
    assert len(asked) == 2
    assert asked[1].woken == 1
    assert asked[1].act() is None
    assert [line["subscription"] for line in summaries()] == ["a", "b", "c"]


def test_a_reminder_ends_when_there_is_nothing_to_wait_for() -> None:
    """A daemon thread; woken, it asks before its time."""
    answers: list[float | None] = [3600.0, None]
    before = reminders()
    reminder = Reminder(lambda: answers.pop(0))
    (thread,) = reminders() - before
    assert thread.daemon
    reminder.wake()
    thread.join(20)
    assert answers == []
    assert not thread.is_alive()


def test_a_processor_that_ends_the_thread_does_not_end_reminding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next line that is held back starts another."""

    def ends(logger: Any, name: str, line: Any) -> Any:
        if line["event"] == "eventflow.lines_repeated":
            raise SystemExit
        return line

    now = [0.0]
    monkeypatch.setattr("eventflow.logging._handler.Reminder", Asked)
    monkeypatch.setattr(Asked, "all", asked := list[Asked]())
    handler = LogHandler(io.StringIO(), as_json=True, processors=[ends], clock=lambda: now[0])
    configure()
    remove()
    logging.getLogger().addHandler(handler)
    ours = EventLogger("eventflow.test")
    try:
        for started in (1, 2):
            for n in range(FIRST + 1):
                ours.warning("eventflow.thing_happened", event_id=str(n))
            assert len(asked) == started
            now[0] += WINDOW_S
            with pytest.raises(SystemExit):
                asked[-1].act()
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_thread_of_the_log_is_no_leak_of_a_block() -> None:
    """It belongs to the log; and a flush ends it."""
    configure(format="json", stream=io.StringIO())
    before = reminders()
    with no_leaks():
        for n in range(FIRST + 1):
            EventLogger("eventflow.test").warning("eventflow.thing_happened", event_id=str(n))
        (thread,) = reminders() - before
    flush_repeats()
    thread.join(20)
    assert not thread.is_alive()


def reminders() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == NAME}


def test_a_flush_at_once_writes_even_inside_a_line() -> None:
    """A signal can come while the main thread writes one, and holds the handler's lock."""

    def leaves(logger: Any, name: str, line: Any) -> Any:
        if line["event"] == "leave":
            flush_repeats_at_once(20)
        return line

    stream = io.StringIO()
    configure(format="json", stream=stream, processors=[leaves])
    for n in range(FIRST + 1):
        EventLogger("eventflow.test").warning("eventflow.thing_happened", event_id=str(n))
    logging.getLogger().warning("leave")
    *_, summary, leave = lines(stream)
    assert (summary["event_ids"], leave["event"]) == (["5"], "leave")


def test_a_flush_at_once_does_not_wait_for_a_stream_that_is_stuck() -> None:
    """Nor for another thread that writes to it; it is the last thing that a process does."""
    stuck, free = threading.Event(), threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str, /) -> int:
            if "stuck" in text:
                stuck.set()
                assert free.wait(20)
            return super().write(text)

    stream = Stuck()
    configure(format="json", stream=stream)
    for n in range(FIRST + 1):
        EventLogger("eventflow.test").warning("eventflow.thing_happened", event_id=str(n))
    writer = threading.Thread(target=logging.getLogger().warning, args=("stuck",))
    writer.start()
    assert stuck.wait(20)
    flush_repeats_at_once(0.01)
    assert "lines_repeated" not in stream.getvalue()
    free.set()
    writer.join(20)
    flush_repeats()
    assert stream.getvalue().count("lines_repeated") == 1


def test_kinds_of_lines_are_bounded() -> None:
    """The oldest kind gives way, and what it held back is written."""
    repeats = Repeats()
    for _ in range(FIRST + 1):
        repeats.admit(("e", "", "0", "", "", ""), 30, "id", 0.0)
    written: list[object] = []
    for n in range(1, MAX_WINDOWS + 1):
        _, due = repeats.admit(("e", "", str(n), "", "", ""), 30, "id", 0.0)
        written += [window.summary()["event_ids"] for window in due]
    assert written == [["id"]]


async def test_a_stop_of_the_bus_writes_what_was_held_back() -> None:
    """Before the scope is left."""
    stream = io.StringIO()
    configure(format="json", stream=stream)

    async def fails(event: Ping) -> None:
        raise ValueError("no")

    ids: set[str] = set()
    async with EventBus() as bus:
        bus.subscribe(Ping, fails)
        for _ in range(20):
            event = Ping()
            ids.add(event.id)
            await bus.publish(event)
    assert all(i in stream.getvalue() for i in ids)
    assert "eventflow.lines_repeated" in stream.getvalue()


# Real processes

PROGRAM = """
import asyncio, logging, os, sys, structlog
import eventflow.logging
from eventflow import Event, EventBus

class Ping(Event, topic="test.ping"):
    n: int = 0

def broken(logger, name, line):
    raise RuntimeError("broken")

mode = sys.argv[2]
eventflow.logging.configure(
    format="json",
    stream=sys.stdout if "stdout" in mode else None,
    processors=[broken] if "broken" in mode else [],
)
if "gone" in mode:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1 if "stdout" in mode else 2)

async def logs(event):
    structlog.get_logger().info("one")
    logging.getLogger("std").info("two %s", event.n)

async def fails(event):
    raise ValueError("no")

async def main():
    async with EventBus() as bus:
        bus.subscribe(Ping, logs)
        bus.subscribe(Ping, fails)
        for n in range(20):
            await bus.publish(Ping(n=n))
    total = bus.ledger.total
    with open(sys.argv[1], "w") as out:
        out.write(f"{total.handled} {total.failed}")

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("mode", "redirect"),
    [
        ("stdout", ">&-"),
        ("stdout gone", ""),
        ("stderr", "2>&-"),
        ("stderr gone", ""),
        ("stderr broken", ""),
        ("stdout broken", ">&- 2>&-"),
    ],
)
def test_no_log_stops_a_handler(mode: str, redirect: str, tmp_path: Path) -> None:
    """Streams closed, readers gone, processors that raise: every event is handled."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    out = tmp_path / "out"
    result = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" "$@" {redirect}', sys.executable, script, out, mode],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert out.read_text() == "20 20"
    if "stderr" in mode:
        assert result.stdout == ""
    if mode == "stderr broken":
        assert result.stderr.count("processor_failed") == len(result.stderr.splitlines()) > 45


FORKS = """
import os, sys
import eventflow.logging
from eventflow._log import EventLogger, flush_repeats

eventflow.logging.configure(format="json", stream=sys.stdout)
ours = EventLogger("eventflow.test")
for n in range(20):
    ours.warning("eventflow.thing_happened", event_id=f"parent-{n}")
if not (child := os.fork()):
    ours.warning("eventflow.thing_happened", event_id="child")
    flush_repeats()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_leaves_to_its_parent_what_that_held_back() -> None:
    """Each id is written once, and the child's own lines come in full."""
    result = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=50
    )
    written = lines(io.StringIO(result.stdout))
    ids = [i for line in written for i in line.get("event_ids", [line.get("event_id")])]
    assert sorted(ids) == sorted(["child", *(f"parent-{n}" for n in range(20))])
    assert {"event": "eventflow.thing_happened", "event_id": "child"}.items() <= written[
        FIRST
    ].items()


IDLE = """
import os, signal, sys, threading
import eventflow.logging
import eventflow.logging._repeats
from eventflow._log import EventLogger, flush_repeats_at_once
from eventflow.logging._reminder import NAME

eventflow.logging.configure(format="json", stream=sys.stdout)
ours = EventLogger("eventflow.test")

def flood(who):
    for n in range(20):
        ours.warning("eventflow.thing_happened", event_id=f"{who}-{n}")

def wait():
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join()

def leave(number, frame):
    flush_repeats_at_once()
    os._exit(7)

if sys.argv[1] == "signal":
    signal.signal(signal.SIGTERM, leave)
    flood("parent")
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()
eventflow.logging._repeats.WINDOW_S = 0.5
flood("parent")
if not (child := os.fork()):
    flood("child")
    wait()
    os._exit(0)
wait()
os._exit(os.waitpid(child, 0)[1] or 7)
"""


@pytest.mark.parametrize(("mode", "who"), [("signal", ["parent"]), ("time", ["child", "parent"])])
def test_a_process_that_leaves_without_cleaning_up_has_written_its_ids(
    mode: str, who: list[str]
) -> None:
    """By a signal handler; or after a while in which it logs nothing, a forked child, too."""
    result = subprocess.run(
        [sys.executable, "-c", IDLE, mode], capture_output=True, text=True, check=False, timeout=50
    )
    assert result.returncode == 7, result.stderr
    written = lines(io.StringIO(result.stdout))
    ids = [i for line in written for i in line.get("event_ids", [line.get("event_id")])]
    assert sorted(ids) == sorted(f"{name}-{n}" for name in who for n in range(20))


DICTCONFIG = """
import logging.config, sys
import eventflow.logging
from eventflow._log import EventLogger

eventflow.logging.configure(format="json", stream=sys.stdout)
logging.config.dictConfig({"version": 1})
ours = EventLogger("eventflow.test")
for n in range(20):
    ours.warning("eventflow.thing_happened", event_id=f"id-{n}")
"""


def test_what_is_held_back_is_written_at_the_end_after_a_dictconfig() -> None:
    """Stdlib forgets all handlers then, and flushes none of them when the process ends."""
    result = subprocess.run(
        [sys.executable, "-c", DICTCONFIG], capture_output=True, text=True, check=True, timeout=50
    )
    written = lines(io.StringIO(result.stdout))
    ids = [i for line in written for i in line.get("event_ids", [line.get("event_id")])]
    assert ids == [f"id-{n}" for n in range(20)]


async def test_a_key_function_may_log_before_there_is_an_event() -> None:
    """It runs in a worker that has no event yet; the line comes, and so does ours."""
    stream = io.StringIO()
    configure(format="json", stream=stream)

    def key(event: Ping) -> object:
        structlog.get_logger().info("key")
        raise ValueError("no key")

    async def handle(event: Ping) -> None:
        raise AssertionError

    async with EventBus() as bus:
        bus.subscribe(Ping, handle, order_key=key, concurrency=2)
        await bus.wait_idle()
        event = Ping()
        await bus.publish(event)
    by_event = {line["event"]: line for line in lines(stream)}
    assert "event_id" not in by_event["key"]
    assert by_event["eventflow.key_failed"]["event_id"] == event.id
