"""How a handler is called: its middlewares, on the loop or in a thread, and what it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger
from eventflow.lifecycle.callables import is_async
from eventflow.messaging._outputs import Outputs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventflow.lifecycle.threads import ThreadRunner
    from eventflow.messaging._binding import Binding
    from eventflow.messaging._worker import Worker
    from eventflow.messaging.batch import Batch
    from eventflow.messaging.codec import Codec
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.middleware.protocol import HandlerControls

__all__ = ("Handling",)

log = EventLogger("eventflow.router")


class Handling:
    """How one handler is called; its workers share it."""

    def __init__(
        self,
        binding: Binding,
        middlewares: Sequence[Any],
        controls: HandlerControls,
        threads: ThreadRunner,
        codec: Codec,
    ) -> None:
        self._name = binding.name
        self._handler = binding.handler
        self._takes_message = binding.takes_message
        self._is_async = is_async(binding.handler)
        self._threads = threads
        self._resource: tuple[object, ...] = ()
        self._outputs = Outputs(binding, codec)
        # One that wants something of its own for each handler is asked for it, once.
        self._middlewares = tuple(
            m.for_handler(controls) if hasattr(m, "for_handler") else m for m in middlewares
        )

    def use_resource(self, value: object) -> None:
        """From now on, the handler gets this as second argument."""
        self._resource = (value,)

    @property
    def plain(self) -> Callable[[Any], Awaitable[Any]] | None:
        """The handler, where calling it with the event is all there is to an attempt."""
        if (
            self._is_async
            and not (self._middlewares or self._resource)
            and not self._outputs.are_looked_at
        ):
            return self._handler
        return None

    def call_for(self, worker: Worker) -> Callable[[Delivery], Awaitable[Any]]:
        """How a worker runs one attempt, in any case."""
        call = self._innermost(worker)
        for middleware in reversed(self._middlewares):
            call = _around(middleware, call)
        outputs = self._outputs
        if not outputs.are_looked_at:
            return call

        async def call_and_publish(delivery: Delivery) -> None:
            given = await call(delivery)
            if given is not None:
                await outputs.publish(given, delivery)

        return call_and_publish

    def _innermost(self, worker: Worker) -> Callable[[Delivery], Awaitable[Any]]:
        """The call of the handler itself, with as little in between as there can be."""
        handler, takes_message = self._handler, self._takes_message
        if not self._is_async or self._resource:
            return lambda delivery: self._call(
                worker, delivery.message if takes_message else delivery.event
            )
        if takes_message:
            return lambda delivery: handler(delivery.message)
        return lambda delivery: handler(delivery.event)

    def call_with_batch(self, worker: Worker, batch: Batch[Any]) -> Awaitable[Any]:
        """Run the handler on a batch."""
        return self._call(worker, batch)

    def _call(self, worker: Worker, argument: object) -> Awaitable[Any]:
        if self._is_async:
            found: Awaitable[Any] = self._handler(argument, *self._resource)
            return found
        return worker.call_in_thread(self._threads, self._handler, argument, *self._resource)

    async def publish(self, given: object, delivery: Delivery) -> None:
        """Publish what the handler returned, where that means something; confirmed."""
        if given is not None and self._outputs.are_looked_at:
            await self._outputs.publish(given, delivery)

    def close(self) -> None:
        """Tell the middlewares that the handler stops."""
        for middleware in self._middlewares:
            if (close := getattr(middleware, "close", None)) is not None:
                try:
                    close()
                except Exception as exc:  # noqa: BLE001 - the user's own: the stop goes on
                    log.error("eventflow.middleware_failed", error=exc, subscription=self._name)


def _around(
    middleware: Any, inner: Callable[[Delivery], Awaitable[Any]]
) -> Callable[[Delivery], Awaitable[Any]]:
    return lambda delivery: middleware(delivery, inner)
