"""Which brokers and we do not trust each other, as the client library hears it beside all calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.brokers.kafka._errors import is_distrust

if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import KafkaError

__all__ = ("Trust",)


class Trust:
    """Hears from the client library which brokers and we do not trust each other.

    Args:
        hosts: Those that were named.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = tuple(hosts)
        self._refused: dict[str, KafkaError] = {}

    def heard(self, error: KafkaError) -> None:
        """The library's callback for errors that are not of one call."""
        if is_distrust(error):
            for host in self._hosts:
                if f"//{host}/" in error.str():
                    self._refused[host] = error

    def forget(self) -> None:
        """One of them has answered."""
        self._refused.clear()

    @property
    def refusal(self) -> KafkaError | None:
        """Why, once all of them have refused: then trying again is of no use."""
        if len(self._refused) < len(set(self._hosts)):
            return None
        return next(iter(self._refused.values()))
