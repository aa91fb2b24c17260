"""What the presets declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands

from eventflow.brokers.rabbitmq import (
    Binding,
    Exchange,
    PubSub,
    Queue,
    Route,
    Source,
    Topics,
    Topology,
    WorkQueue,
)
from eventflow.brokers.rabbitmq.topology import check_topology
from eventflow.errors import InvalidOptionError, InvalidTopicError
from eventflow.messaging import Broadcast

if TYPE_CHECKING:
    from collections.abc import Callable

QUORUM: dict[str, str | int | bool] = {"x-queue-type": "quorum"}
NET: dict[str, str | int | bool] = QUORUM | {
    "x-delivery-limit": 1_000,
    "x-dead-letter-exchange": "orders.dead_letter",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
KEPT = (
    Exchange("orders.dead_letter"),
    Queue("orders.dead_letter", arguments=QUORUM | {"x-delivery-limit": 1_000_000_000}),
    Binding("orders.dead_letter", "orders.dead_letter"),
)


@pytest.mark.parametrize("topology", [PubSub(), WorkQueue(), Topics()])
def test_the_presets_are_topologies(topology: object) -> None:
    assert isinstance(topology, Topology)
    assert check_topology(topology) is topology


@pytest.mark.parametrize(
    ("given", "said"),
    [(PubSub, "the class PubSub: call it"), (Topics, "the class Topics"), ("pub_sub", "methods")],
)
def test_what_is_no_topology(given: object, said: str) -> None:
    """A class has all the names, and answers to none of them."""
    with pytest.raises(InvalidOptionError, match=said) as caught:
        check_topology(given)
    assert caught.value.option == "topology"


def test_pub_sub() -> None:
    topology = PubSub()
    assert topology.route("orders") == Route("orders", parts=(Exchange("orders"),))
    assert topology.source("orders", "g") == Source(
        "orders_g",
        (
            Exchange("orders"),
            Queue("orders_g", arguments=NET),
            *KEPT,
            Binding("orders_g", "orders"),
        ),
        counts=True,
    )
    assert topology.keeping("orders.dead_letter") == Route("orders.dead_letter", "", True, KEPT)


def test_a_work_queue() -> None:
    topology = WorkQueue()
    parts = (Queue("orders", arguments=NET), *KEPT)
    assert topology.route("orders") == Route("", "orders", True, parts)
    assert topology.source("orders", "") == Source("orders", parts, counts=True)
    assert not topology.has_groups
    with pytest.raises(InvalidOptionError, match="PubSub"):
        topology.source("orders", Broadcast())


def test_dead_letters_are_read_as_they_are_kept() -> None:
    """The queue is declared alike by who writes and by who reads."""
    assert WorkQueue().source("orders.dead_letter", "").parts == (KEPT[1],)


def test_topics() -> None:
    topology = Topics(exchange="all")
    exchange = Exchange("all", "topic")
    assert topology.route("orders") == Route("all", "orders", parts=(exchange,))
    assert topology.source("orders", "g") == Source(
        "orders_g",
        (exchange, Queue("orders_g", arguments=NET), *KEPT, Binding("orders_g", "all", "orders")),
        counts=True,
    )


@pytest.mark.parametrize(
    ("topology", "parts"),
    [
        (
            PubSub(queue_type="classic"),
            (Exchange("orders"), Queue("orders_g"), Binding("orders_g", "orders")),
        ),
        (WorkQueue(queue_type="classic"), (Queue("orders"),)),
        (
            Topics(exchange="all", durable=False, queue_type="classic"),
            (
                Exchange("all", "topic", durable=False),
                Queue("orders_g"),
                Binding("orders_g", "all", "orders"),
            ),
        ),
    ],
)
def test_classic_is_what_watermill_declares(topology: Topology, parts: tuple[object, ...]) -> None:
    source = topology.source("orders", "g")
    assert source.parts == parts
    assert not source.counts


def test_classic_is_for_readers_of_texts() -> None:
    for classic in (
        PubSub(queue_type="classic"),
        WorkQueue(queue_type="classic"),
        Topics(queue_type="classic"),
    ):
        assert classic.route("orders").texts_only
        kept = classic.keeping("orders.dead_letter")
        assert kept.texts_only
        assert Queue("orders.dead_letter") in kept.parts
    for quorum in (PubSub(), WorkQueue(), Topics()):
        assert not quorum.route("orders").texts_only
        assert not quorum.keeping("orders.dead_letter").texts_only


def test_each_instance_has_a_queue_of_its_own() -> None:
    for topology in (PubSub(), Topics()):
        first, second = (topology.source("orders", Broadcast()) for _ in range(2))
        assert first.queue != second.queue
        queue = first.parts[1]
        assert isinstance(queue, Queue)
        assert queue.exclusive
        assert not queue.durable


def test_single_active_consumer() -> None:
    for topology in (PubSub(single_active_consumer=True), WorkQueue(single_active_consumer=True)):
        queues = [p for p in topology.source("orders", "g").parts if isinstance(p, Queue)]
        # Not that of the dead letters, which presets share.
        active = [bool(queue.arguments.get("x-single-active-consumer")) for queue in queues]
        assert active == [True, False]


def test_names_have_a_bound() -> None:
    long = "a" * 250
    for ask, said in (
        (lambda: PubSub().source("a", long + "group"), "255 bytes"),
        (lambda: PubSub().route("a" * 256), "255 bytes"),
        (lambda: PubSub().route("a" * 128), "127 characters"),
        (lambda: WorkQueue().route("a" * 256), "255 bytes"),
        (lambda: Topics().source(long, "group"), "255 bytes"),
        (lambda: Exchange(long), "127 characters"),
    ):
        with pytest.raises(InvalidTopicError, match=said):
            ask()
    assert Exchange(long, must_exist=True).name == long, "it is somebody else's"
    assert PubSub().route("a" * 127).exchange == "a" * 127
    with pytest.raises(InvalidOptionError, match="127 characters"):
        Topics(exchange="a" * 128)


def is_refused(make: Callable[[], object]) -> bool:
    try:
        make()
    except (InvalidTopicError, ValueError):
        return True
    return False


@pytest.mark.parametrize("name", [chr(code) for code in range(256)] + ["€", "a\n", "", "\ufeff"])
def test_names_are_those_that_the_client_library_writes(name: str) -> None:
    """No more, whose errors would say nothing; and no less."""
    for ours, theirs in (
        (lambda: Exchange(name), lambda: commands.Exchange.Declare(exchange=name)),
        (lambda: Queue(name), lambda: commands.Queue.Declare(queue=name)),
        (lambda: Source(name), lambda: commands.Basic.Consume(queue=name)),
        (lambda: Binding(name, "e"), lambda: commands.Queue.Bind(queue=name, exchange="e")),
        (lambda: Binding("q", name), lambda: commands.Queue.Bind(queue="q", exchange=name)),
    ):
        assert is_refused(ours) == is_refused(theirs)
    assert Route(name, name).routing_key == Binding("q", "e", name).routing_key == name


@pytest.mark.parametrize("group", ["ünï", "*", "a>b"])
def test_a_group_that_makes_no_name_says_what_does(group: str) -> None:
    for topology in (PubSub(), Topics(), PubSub(queue_type="classic")):
        with pytest.raises(InvalidTopicError, match=r"letters a to z, digits.*another") as caught:
            topology.source("orders", group)
        assert caught.value.topic == f"orders_{group}"
    with pytest.raises(InvalidOptionError, match="letters a to z"):
        Topics(exchange=group)


def test_options_are_checked() -> None:
    with pytest.raises(InvalidOptionError, match="quorum"):
        PubSub(queue_type="stream")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="exchange"):
        Topics(exchange="")


NO: Any = "no"
"""True, where only truth is asked for."""


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: PubSub(single_active_consumer=NO), "single_active_consumer"),
        (lambda: WorkQueue(single_active_consumer=NO), "single_active_consumer"),
        (lambda: Topics(single_active_consumer=NO), "single_active_consumer"),
        (lambda: Topics(durable=NO), "durable"),
        (lambda: Exchange("e", durable=NO), "durable"),
        (lambda: Exchange("e", must_exist=NO), "must_exist"),
        (lambda: Queue("q", durable=NO), "durable"),
        (lambda: Queue("q", exclusive=NO), "exclusive"),
    ],
)
def test_a_word_is_no_answer_to_yes_or_no(make: Callable[[], object], option: str) -> None:
    with pytest.raises(InvalidOptionError, match="True or False") as caught:
        make()
    assert caught.value.option == option
