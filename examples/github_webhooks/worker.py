"""A worker: ``eventflow run examples.github_webhooks.worker:service``, as often as wanted.

It does what is work for a receiver (``python -m examples.github_webhooks --receiver``). Workers
are members of the same groups, so each delivery goes to one of them; when one dies, the others
get its partitions, and with them what it had not done. They share the database of the feed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from eventflow import Service
from eventflow.messaging import BrokerEventPublisher, Router, connect
from examples.github_webhooks.events import CARRIED, WebhookReceived
from examples.github_webhooks.listeners import WORK, Board, listeners_for
from examples.github_webhooks.settings import Settings

if TYPE_CHECKING:
    from eventflow.messaging import Delivery
    from eventflow.messaging.middleware import CallNext, HandlerControls, Middleware

NAME = f"worker {os.getpid()}"


def service() -> Service:
    """Put a worker together: the same listeners, on the broker that the environment names.

    Raises:
        ValueError: It names none, or no database.
    """
    settings = Settings.of_several(os.environ)
    assert settings.broker is not None
    broker = connect(settings.broker)
    publisher = BrokerEventPublisher(broker.publisher(), events=CARRIED)
    router = Router(NAME, middlewares=[Told()])
    router.include(
        listeners_for(publisher, settings, Board()).only(*WORK),
        subscriber=lambda name: broker.subscriber(group=f"webhooks.{name}"),
        events=CARRIED,
    )
    return Service(broker, router, name=NAME)


class Told:
    """Prints a line for each delivery that a listener has handled, and where it came from."""

    def for_handler(self, handler: HandlerControls) -> Middleware:
        """Return the one that tells of this listener."""

        async def tell(delivery: Delivery, call_next: CallNext) -> Any:
            outputs = await call_next(delivery)
            received = delivery.event
            assert isinstance(received, WebhookReceived)
            partition = delivery.coordinates.get("partition", "-")
            what = f"{handler.name:6} {received.delivery} {received.event}"
            # At once, also into a pipe: whoever watches wants to see it go on elsewhere.
            print(f"{NAME}: {what} from partition {partition}", flush=True)
            return outputs

        return tell
