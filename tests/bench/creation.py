"""Making an event, and reading one, beside the bare Pydantic model with the same fields."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from pydantic import BaseModel

from eventflow import Event
from tests.bench.harness import Figure, Settings, Spread, ratios, rounds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("creation",)


class Placed(Event, topic="bench.placed"):
    order_id: str
    amount_cents: int
    quantity: int
    coupon: str | None = None


class BarePlaced(BaseModel):
    order_id: str
    amount_cents: int
    quantity: int
    coupon: str | None = None


BODY = b'{"order_id":"A-1","amount_cents":1990,"quantity":3,"coupon":"SPRING"}'


def _make(model: Callable[..., object], number: int) -> float:
    began = perf_counter()
    for _ in range(number):
        model(order_id="A-1", amount_cents=1990, quantity=3, coupon="SPRING")
    return (perf_counter() - began) / number * 1e6


def _read(read: Callable[[bytes], object], number: int) -> float:
    began = perf_counter()
    for _ in range(number):
        read(BODY)
    return (perf_counter() - began) / number * 1e6


def creation(settings: Settings) -> list[Figure]:
    """Keyword arguments, and JSON."""
    number = settings.amount(200_000)
    contenders: tuple[tuple[str, dict[str, Callable[[], float]], float, float], ...] = (
        (
            "creating an event, int64 bounds",
            {"ours": lambda: _make(Placed, number), "bare": lambda: _make(BarePlaced, number)},
            1.3,
            1.2,
        ),
        (
            "`from_json`",
            {
                "ours": lambda: _read(Placed.from_json, number),
                "bare": lambda: _read(BarePlaced.model_validate_json, number),
            },
            1.25,
            1.1,
        ),
    )
    figures: list[Figure] = []
    for label, pair, at_most, aim in contenders:
        times = rounds(pair, settings.rounds)
        figures.append(
            Figure(
                label,
                "µs",
                ratios(times["ours"], times["bare"]),
                Spread.of(times["ours"]),
                Spread.of(times["bare"]),
                at_most=at_most,
                aim=aim,
                note="the bare model is not strict, not frozen, has no bounds, no id and no time",
            )
        )
    return figures
