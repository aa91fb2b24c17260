"""The register of brokers with one fault each, and of the tests that have to notice it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tests.contract.proxy import ProxyBroker

if TYPE_CHECKING:
    from collections.abc import Callable

B = TypeVar("B", bound=ProxyBroker)

PLANTED: dict[type[ProxyBroker], tuple[str, ...]] = {}
"""Each broker with a fault, and the names of the tests that notice it."""


def noticed_by(*tests: str) -> Callable[[type[B]], type[B]]:
    def add(broker: type[B]) -> type[B]:
        PLANTED[broker] = tuple(f"test_{name}" for name in tests)
        return broker

    return add
