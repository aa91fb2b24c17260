"""The table of docs/guarantees.md, made of what the backends declare; as a script it writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from eventflow.brokers.kafka import KafkaBroker
from eventflow.brokers.memory import MemoryBroker
from eventflow.brokers.rabbitmq import RabbitMQBroker

if TYPE_CHECKING:
    from eventflow.messaging import Features

PAGE = Path(__file__).resolve().parents[2] / "docs/guarantees.md"
BEGIN, END = "<!-- made by tests/docs/guarantees.py -->\n", "\n<!-- until here -->"

BACKENDS: dict[str, Features] = {
    "memory": MemoryBroker().features,
    "kafka": KafkaBroker("localhost").features,
    "rabbitmq": RabbitMQBroker("amqp://localhost").features,
}
"""What each package below eventflow/brokers declares as it comes."""

WITH: dict[str, dict[str, Features]] = {
    "kafka": {"`delays=True`": KafkaBroker("localhost", delays=True).features},
}
"""What it declares with an option."""

ON_REQUEST = {
    ("kafka", "transactional"): "`transactional=True`",
}
"""What a subscriber declares that was made with an option."""

ROWS = {
    "groups": ("consumer groups", "each_group_gets_everything"),
    "broadcast": ("receiving on every instance", "broadcast_reaches_every_instance"),
    "order": ("keeps the order of", "order_is_kept_as_far_as_declared"),
    "partitions": ("partitions", "a_partition_is_told_and_kept"),
    "persistent": ("outlives the process", "a_process_killed_between_handler_and_ack"),
    "old_messages": (
        "a new group gets old messages",
        "a_new_group_and_what_was_published_before_it",
    ),
    "nack_delay": ("`nack(delay=…)`", "a_nack_with_a_delay"),
    "publish_delay": ("delayed messages", "a_publish_with_a_delay"),
    "recorded_failures": ("keeps recorded failures", "failures_are_recorded_or_not"),
    "delivery_count": ("counts deliveries", "deliveries_are_counted_or_unknown"),
    "headers": ("native headers", "native_headers_come_back_or_are_refused"),
    "atomic_publish": (
        "a publish of several is all or nothing",
        "a_cancelled_publish_is_stored_or_not",
    ),
    "transactional": ("stores outputs with the ack", "outputs_are_stored_with_the_ack"),
    "lag": ("tells the lag", "lag_is_what_is_not_settled"),
    "at_most_once": ("delivery", "a_crash_between_handler_and_ack"),
    "settle_within": ("waits for a handler", "a_slow_handler_keeps_its_message"),
    "max_payload_bytes": ("largest payload", "sizes_at_the_limit"),
}
"""For each feature what it is called, and the test of the contract that shows it."""


def cell(feature: str, value: object) -> str:
    match feature, value:
        case "at_most_once", _:
            return "at most once" if value else "at least once"
        case "order", str():
            return {"none": "nothing", "key": "a key", "topic": "a topic"}[value]
        case "settle_within", None:
            return "while its process lives"
        case "settle_within", float():
            return f"{value:,.0f} s"
        case "max_payload_bytes", None:
            return "no bound"
        case "max_payload_bytes", int():
            return f"{value:,} bytes"
        case _:
            return "yes" if value else "no"


def _cell(backend: str, feature: str) -> str:
    value = getattr(BACKENDS[backend], feature)
    if (asked := ON_REQUEST.get((backend, feature))) is not None:
        return asked
    for option, features in WITH.get(backend, {}).items():
        if (other := getattr(features, feature)) != value:
            assert (value, other) == (False, True)
            return f"with {option}"
    return cell(feature, value)


def table() -> str:
    lines = [
        f"| | {' | '.join(f'`{name}`' for name in BACKENDS)} | shown by |",
        f"|---|{'---|' * len(BACKENDS)}---|",
    ]
    for feature, (title, test) in ROWS.items():
        cells = " | ".join(_cell(name, feature) for name in BACKENDS)
        lines.append(f"| {title} | {cells} | `test_{test}` |")
    return "\n".join(lines)


def written() -> str:
    """The page with the table as it has to be."""
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + table() + END, text, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
