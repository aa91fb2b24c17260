"""Change notices: a listener that is busy gets the newest value of each setting, not all of them.

Prints::

    apply log_level=INFO
    apply log_level=ERROR
    apply rate=30
    5 published, 3 applied, 2 replaced by newer ones
"""

import asyncio
import logging

from eventflow import Event, EventBus, Overflow


class SettingChanged(Event, topic="config.changed"):
    """A setting has a new value."""

    setting: str
    value: str


async def main() -> None:
    """Five changes, while the listener is busy with the first."""
    # What was replaced is logged with its id, as a warning. Here that is what we want to happen.
    logging.getLogger("eventflow").setLevel(logging.ERROR)
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def apply(event: SettingChanged) -> None:
        busy.set()
        await go_on.wait()
        print(f"apply {event.setting}={event.value}")

    async with EventBus() as bus:
        bus.subscribe(
            SettingChanged,
            apply,
            overflow=Overflow.KEEP_LATEST,
            latest_key=lambda event: event.setting,
        )
        await bus.publish(SettingChanged(setting="log_level", value="INFO"))
        await busy.wait()
        await bus.publish(SettingChanged(setting="log_level", value="DEBUG"))
        await bus.publish(SettingChanged(setting="rate", value="10"))
        await bus.publish(SettingChanged(setting="log_level", value="ERROR"))
        await bus.publish(SettingChanged(setting="rate", value="30"))
        go_on.set()
    total = bus.ledger.total
    print(
        f"{total.offered} published, {total.handled} applied, "
        f"{total.dropped} replaced by newer ones"
    )


if __name__ == "__main__":
    asyncio.run(main())
