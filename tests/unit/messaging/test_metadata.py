"""Metadata that mean something: written as Watermill does, read with suspicion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from eventflow.messaging import metadata as meta

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (90, "1m30s"),
        (1.5, "1.5s"),
        (86_400, "24h0m0s"),
        (0.15, "150ms"),
        (0.0005, "500µs"),
        (2e-9, "2ns"),
        (3_600.25, "1h0m0.25s"),
        (60, "1m0s"),
        (1.000000001, "1.000000001s"),
    ],
)
def test_delays_are_written_as_go_writes_durations(seconds: float, text: str) -> None:
    assert meta.delay_metadata(seconds, now=NOON)[meta.DELAYED_FOR] == text


def test_a_delayed_message_is_never_early() -> None:
    """Whole seconds, as Watermill writes them, rounded up."""
    now = NOON + timedelta(microseconds=1)
    texts = meta.delay_metadata(5, now=now)
    assert texts[meta.DELAYED_UNTIL] == "2026-11-24T12:00:06Z"
    assert meta.delayed_until(texts) == NOON + timedelta(seconds=6)
    assert meta.delay_metadata(5, now=NOON)[meta.DELAYED_UNTIL] == "2026-11-24T12:00:05Z"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-24T12:00:00Z", NOON),
        ("2026-11-24T13:00:00+01:00", NOON),
        ("2026-11-24t12:00:00z", NOON),
        ("2026-11-24T12:00:00.000001Z", NOON + timedelta(microseconds=1)),
        ("2026-11-24T12:00:00.123456789Z", NOON + timedelta(microseconds=123456)),
        ("2026-11-24T12:00:00", None),
        ("2026-11-24", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("2026-13-24T12:00:00Z", None),
        ("", None),
        ("x" * 100_000, None),
        ("٢٠٢٦-11-24T12:00:00Z", None),
    ],
)
def test_times_are_read_with_suspicion(text: str, time: datetime | None) -> None:
    assert meta.read_time({"t": text}, "t") == time
    assert meta.read_time({}, "t") is None


def test_times_are_written_in_utc() -> None:
    eastern = NOON.astimezone(timezone(timedelta(hours=-5)))
    assert meta.format_time(eastern) == "2026-11-24T12:00:00Z"
    later = NOON + timedelta(milliseconds=5)
    assert meta.format_time(later) == "2026-11-24T12:00:00.005000Z"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("17", 17),
        ("-1", 0),
        ("1e3", 0),
        ("٣", 0),
        ("9" * 6, 999_999),
        ("9" * 7, 1_000_000),
        ("9" * 100, 0),
        ("", 0),
        (" 5", 0),
    ],
)
def test_a_foreign_count_of_failures_is_bounded(text: str, count: int) -> None:
    assert meta.failures({meta.FAILURES: text}) == count
    assert meta.failures({}) == 0


@pytest.mark.parametrize(
    ("text", "read"),
    [("r-1", "r-1"), ("", None), ("x" * 256, None), ("x" * 255, "x" * 255), ("a\nb", None)],
)
def test_foreign_ids_are_bounded(text: str, read: str | None) -> None:
    assert meta.read_id({"correlation_id": text}, "correlation_id") == read


def test_custom_metadata_are_what_is_left() -> None:
    texts = {
        "name": "Ping",
        "correlation_id": "c",
        "causation_id": "d",
        "eventflow_failures": "1",
        "_watermill_delayed_for": "1s",
        "tenant": "acme",
    }
    assert meta.custom(texts) == {"tenant": "acme"}
