"""Handlers that block, and a thread that publishes.

A plain function runs in a thread of the bus's own, so it may block. From any thread but the event
loop's, `publish_from_thread` announces.

Prints::

    report-1 rendered in a thread of the bus
    report-1 mailed on the event loop, caused by the right event
    report-2 rendered in a thread of the bus
    report-2 mailed on the event loop, caused by the right event
"""

import asyncio
import threading
import time

from eventflow import Event, EventBus, current


class ReportAsked(Event, topic="reports.asked"):
    """Somebody wants a report."""

    name: str


class ReportRendered(Event, topic="reports.rendered"):
    """A report is there."""

    name: str
    asked_by: str


async def main() -> None:
    """A thread that asks, a sync handler that renders, an async one that mails."""
    loop_thread = threading.get_ident()
    mailed = asyncio.Semaphore(0)

    async with EventBus() as bus:

        @bus.on(ReportAsked)
        def render(event: ReportAsked) -> None:
            assert threading.get_ident() != loop_thread
            time.sleep(0.001)  # blocks this thread, and nothing else
            print(event.name, "rendered in a thread of the bus")
            bus.publish_from_thread(ReportRendered(name=event.name, asked_by=event.id))

        @bus.on(ReportRendered)
        async def mail(event: ReportRendered) -> None:
            assert threading.get_ident() == loop_thread
            right = current().causation_id == event.asked_by
            print(event.name, f"mailed on the event loop, caused by the {right and 'right'} event")
            mailed.release()

        def ask(name: str) -> None:
            bus.publish_from_thread(ReportAsked(name=name), timeout=5)

        for name in ("report-1", "report-2"):
            await asyncio.to_thread(ask, name)
            await mailed.acquire()


if __name__ == "__main__":
    asyncio.run(main())
