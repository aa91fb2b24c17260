"""Which handler of a router gets what: no two may take messages from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventflow.errors import InvalidOptionError
from eventflow.events import event_name
from eventflow.messaging.decorators import innermost
from eventflow.messaging.protocols import Broadcast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventflow.messaging._binding import Binding
    from eventflow.messaging.protocols import Subscriber

    _Place = tuple[Subscriber, str]

__all__ = ("Places",)


class Places:
    """Who gets what: one handler for each class of a topic in a group, or one for all of it."""

    def __init__(self) -> None:
        self._taken: dict[_Place, dict[str | None, str]] = {}
        self._subscribers: dict[_Place, dict[str, Subscriber]] = {}

    def take(self, bindings: Sequence[Binding]) -> None:
        """Take places for handlers; for all of them or, on an error, for none.

        Raises:
            InvalidOptionError: Two would take messages from each other, being bound to one class,
                or one of them to all messages, through equal subscribers; or they are decorated
                differently.
        """
        for number, binding in enumerate(bindings):
            try:
                self._take(binding)
            except InvalidOptionError:
                for earlier in bindings[: number + 1]:
                    self.free(earlier)
                raise

    def free(self, binding: Binding) -> None:
        """Give back what a handler has taken."""
        for topic in binding.topics:
            where = innermost(binding.subscriber), topic
            taken = self._taken.get(where, {})
            for name in [name for name, by in taken.items() if by == binding.name]:
                del taken[name]
            self._subscribers.get(where, {}).pop(binding.name, None)
            if not taken:
                self._taken.pop(where, None)
                self._subscribers.pop(where, None)

    def _take(self, binding: Binding) -> None:
        for topic in binding.topics:
            where = innermost(binding.subscriber), topic
            taken = self._taken.setdefault(where, {})
            subscribers = self._subscribers.setdefault(where, {})
            for other, subscriber in subscribers.items():
                if subscriber != binding.subscriber:
                    raise InvalidOptionError(
                        f"handlers {other!r} and {binding.name!r} read topic {topic!r} in group "
                        f"{binding.subscriber.group!r} through different decorators, but share its "
                        "messages: give both the same subscriber, or the second a group of its own",
                        option="subscriber",
                    )
                break
            for name in _names_of(binding, topic):
                self._take_name(taken, name, binding, topic)
            subscribers[binding.name] = binding.subscriber

    def _take_name(
        self, taken: dict[str | None, str], name: str | None, binding: Binding, topic: str
    ) -> None:
        other = taken.get(name) or taken.get(None)
        if other is None and name is None and taken:
            other = next(iter(taken.values()))
        if other is None:
            taken[name] = binding.name
            return
        group = binding.subscriber.group
        instead = (
            "give it to a router of its own"
            if isinstance(group, Broadcast)
            else "give the second a subscriber with a group of its own"
        )
        raise InvalidOptionError(
            f"handlers {other!r} and {binding.name!r} would both get {name or 'every message'} "
            f"from topic {topic!r} in group {group!r}, but each message of a group goes to one "
            f"handler: {instead}",
            option="subscriber",
        )


def _names_of(binding: Binding, topic: str) -> list[str | None]:
    if binding.takes_message:
        return [None]
    return [event_name(event) for event in binding.events if event.topic == topic]
