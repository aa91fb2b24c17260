"""`Deduplicate`: a message that was handled is not handled again."""

from __future__ import annotations

import asyncio
from time import time_ns
from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger
from eventflow.errors import InvalidOptionError
from eventflow.events.identity import new_id
from eventflow.lifecycle.options import check_seconds
from eventflow.messaging.middleware.deduplication import Reservation

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.deduplication import DeduplicationStore
    from eventflow.messaging.middleware.protocol import CallNext, HandlerControls, Middleware

__all__ = ("Deduplicate", "message_id")

log = EventLogger("eventflow.router")

FIRST_LOOK_S = 0.05
LONGEST_LOOK_S = 1.0
LEASE_MARGIN_S = 15.0
"""How much longer than an attempt may take it is reserved: time to be cancelled, and to record."""


def message_id(delivery: Delivery) -> str:
    """The default key: the message's id."""
    return delivery.message.id


class Deduplicate:
    """Handles each key once: a message that comes again after it was handled is acked unhandled.

    The key is reserved while an attempt runs, recorded after it succeeded and its outputs are
    stored, and released when it failed: so the retry, or the redelivery, **is** handled. A
    duplicate that comes while the first is being handled waits for its outcome; it takes over
    if that fails. The wait does not count towards its timeout.

    Each handler has its own keys, known by the handler's name. What is passed over is logged as
    ``eventflow.duplicate_skipped``, and counted. If the store fails before the handler, the
    attempt has failed; if it fails afterwards, that is logged, the message is acked, and a
    duplicate might be handled.

    List it outside of everything that may fail a message after its handler has succeeded. The
    outputs of a transform are published inside it; what changes them has to be further in.

    It makes duplicates rare, not impossible: a process that dies between the handler and the
    record is one. Only a record in the handler's own transaction leaves none.

    Args:
        store: Where keys are kept.
        key: Gives the key of a delivery; default `message_id`. What it raises is the attempt's
            error, and so is a key that is no text, or empty.
        lease: Longest time in seconds that a key is reserved, for processes that die; above 0.
            Default: the handler's timeout and 15 s. A handler without a timeout needs one, and
            so does one that waits longer than that inside: put a `Throttle` outside.

    Attributes:
        skipped: How many duplicates were passed over so far, on all handlers.

    Raises:
        InvalidOptionError: An option is out of range.

    Example::

        once = Deduplicate(store=MemoryDeduplicationStore())
        router = Router(middlewares=[once])
    """

    def __init__(
        self,
        *,
        store: DeduplicationStore,
        key: Callable[[Delivery], str] = message_id,
        lease: float | None = None,
    ) -> None:
        for method in ("reserve", "record", "release"):
            if isinstance(store, type) or not callable(getattr(store, method, None)):
                raise InvalidOptionError(
                    "store takes a DeduplicationStore, such as MemoryDeduplicationStore(), not "
                    f"{store!r}",
                    option="store",
                )
        if not callable(key):
            raise InvalidOptionError(
                f"key takes a function of a delivery, not {key!r}", option="key"
            )
        if lease is not None:
            check_seconds("lease", lease, least=0.001)
        self.skipped = 0
        self._store = store
        self._key = key
        self._lease = lease

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the middleware of one handler.

        Raises:
            InvalidOptionError: It has no timeout, and ``lease`` was not given.
        """
        lease = self._lease
        if lease is None:
            if handler.timeout is None:
                raise InvalidOptionError(
                    f"handler {handler.name!r} has no timeout, so nobody knows for how long its "
                    "messages are to be reserved: give Deduplicate(lease=…)",
                    option="lease",
                )
            lease = handler.timeout + LEASE_MARGIN_S
        return _Deduplicated(self, handler, self._store, self._key, lease)


class _Deduplicated:
    def __init__(
        self,
        counts: Deduplicate,
        handler: HandlerControls,
        store: DeduplicationStore,
        key: Callable[[Delivery], str],
        lease: float,
    ) -> None:
        self._counts = counts
        self._handler = handler
        self._store = store
        self._key = key
        self._lease = lease

    async def __call__(self, delivery: Delivery, call_next: CallNext) -> Any:
        handler, store, owner = self._handler, self._store, new_id(time_ns())
        # With its length, a name can't run into the key: "a/b" + "c" is not "a" + "b/c".
        key = f"{len(handler.name)}:{handler.name}:{self._key_of(delivery)}"
        if not await self._reserve(key, owner):
            self._counts.skipped += 1
            log.info("eventflow.duplicate_skipped", **self._facts(delivery))
            return None
        try:
            given = await call_next(delivery)
            await handler.publish_outputs(given, delivery)
        except GeneratorExit:
            raise  # the loop may be gone: nothing can be awaited
        except BaseException:
            await self._release(key, owner, delivery)
            raise
        if handler.has_timed_out:  # its cancellation was swallowed: the attempt has failed
            await self._release(key, owner, delivery)
            return None
        try:
            await store.record(key, owner)
        except Exception as exc:  # noqa: BLE001 - the store's own
            log.error("eventflow.deduplication_failed", error=exc, **self._facts(delivery))
        return None

    def _key_of(self, delivery: Delivery) -> str:
        key: object = self._key(delivery)
        if isinstance(key, str) and key:
            return key
        # All messages with such a key would be duplicates of the first.
        raise InvalidOptionError(
            f"the key of message {delivery.message.id!r} is {key!r}, and has to be a text of one "
            "character or more",
            option="key",
        )

    async def _reserve(self, key: str, owner: str) -> bool:
        """Whether the key is ours; ``False`` if it was handled."""
        wait = FIRST_LOOK_S
        while True:
            found = await self._store.reserve(key, owner, lease=self._lease)
            if found is not Reservation.RUNNING:
                return found is Reservation.GRANTED
            with self._handler.untimed():
                await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_LOOK_S)

    async def _release(self, key: str, owner: str, delivery: Delivery) -> None:
        try:
            await self._store.release(key, owner)
        except Exception as exc:  # noqa: BLE001 - the store's own; the lease will end
            log.error("eventflow.deduplication_failed", error=exc, **self._facts(delivery))

    def _facts(self, delivery: Delivery) -> dict[str, str]:
        return {
            "router": self._handler.bus,
            "subscription": self._handler.name,
            "topic": delivery.topic,
            "event_id": delivery.message.id,
        }
