"""What the server says, as errors of ours: what may pass by itself, and what to do else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiormq.exceptions as said
import pytest

from eventflow.brokers.rabbitmq import Binding, Exchange, PubSub, Queue, Topics
from eventflow.brokers.rabbitmq._errors import advice_on, channel_error, reason_of
from eventflow.errors import BrokerAuthenticationError, BrokerConnectionError, TopologyError

if TYPE_CHECKING:
    from eventflow.brokers.rabbitmq.topology import Part

QUORUM = PubSub().queue("orders_g", "orders.dead_letter")
CLASSIC = PubSub(queue_type="classic").queue("orders_g")
SHARE = 'say queue_type="classic"'
EMPTY = "empty and delete it"
DELETE = ". Delete it, or say in the topology what is there"


def clash(argument: str, received: str = "received …") -> TopologyError:
    return TopologyError(
        f"queue 'orders_g' is there with other properties: ChannelPreconditionFailed: "
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for queue 'orders_g' in vhost '/': "
        f"{received}"
    )


@pytest.mark.parametrize(
    ("part", "argument", "advice"),
    [
        (QUORUM, "x-queue-type", SHARE),
        # What the server compares first of what a classic queue lacks.
        (QUORUM, "x-dead-letter-exchange", SHARE),
        (CLASSIC, "x-queue-type", EMPTY),
        (CLASSIC, "x-dead-letter-exchange", EMPTY),
        (QUORUM, "x-single-active-consumer", DELETE),
        (CLASSIC, "x-single-active-consumer", DELETE),
        (QUORUM, "durable", DELETE),
        (Queue("orders_g", durable=False), "durable", DELETE),
        (Exchange("all", "topic"), "durable", "durable=False in Topics"),
        (Exchange("all", "topic", durable=False), "durable", DELETE),
        (Exchange("all", "topic"), "type", DELETE),
    ],
)
def test_a_clash_says_what_to_do(part: Part, argument: str, advice: str) -> None:
    text = advice_on(part, clash(argument))
    assert advice in text
    assert text.startswith(". ")


def test_two_topics_and_groups_of_one_name() -> None:
    """Their dead letters go to different places; Watermill's queues have none."""
    argument = "x-dead-letter-exchange"
    other = "received 'x_b.dead_letter' but current is 'x.dead_letter'"
    text = advice_on(QUORUM, clash(argument, other))
    assert "Another topic and group make the same name" in text
    assert "Watermill" not in text
    missing = "received the value 'x.dead_letter' of type 'longstr' but current is none"
    assert SHARE in advice_on(QUORUM, clash(argument, missing))


@pytest.mark.parametrize(
    ("refused", "is_ours"),
    [
        ("configure access to queue 'eventflow.due' in vhost '/' refused for user 'bob'", True),
        ("read access to exchange 'eventflow.again' in vhost '/' refused for user 'bob'", True),
        ("configure access to exchange 'eventflow' in vhost '/' refused for user 'bob'", False),
        ("configure access to queue 'orders_g' in vhost '/' refused for user 'bob'", False),
    ],
)
def test_rights_that_delays_need(refused: str, is_ours: bool) -> None:
    error = channel_error(said.ChannelAccessRefused(f"ACCESS_REFUSED - {refused}"), "queue 'q'")
    assert ("delays=False" in str(error)) == is_ours


@pytest.mark.parametrize("error", [asyncio.CancelledError(), asyncio.CancelledError("stuck")])
def test_what_was_cancelled_says_so_in_words(error: BaseException) -> None:
    assert reason_of(error) == "the connection was given up, or closed"
    assert "given up" in str(channel_error(error, "queue 'q'"))


def test_a_name_that_is_not_written_says_which_are() -> None:
    """Such as one that must be there, and is somebody else's."""
    found = channel_error(ValueError("Invalid value for exchange"), "exchange '*'")
    assert "letters a to z, digits" in str(found)
    assert "Invalid value for exchange" in str(found)


def test_other_errors_say_nothing_of_it() -> None:
    locked = TopologyError("queue 'q' can't be used: ChannelLockedResource: RESOURCE_LOCKED")
    for part in (QUORUM, Binding("q", "e"), *Topics().route("orders").parts):
        assert advice_on(part, locked) == ""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (said.ChannelNotFoundEntity("NOT_FOUND - no queue 'q' in vhost '/'"), TopologyError),
        (said.ChannelLockedResource("RESOURCE_LOCKED - cannot obtain exclusive"), TopologyError),
        (said.ChannelPreconditionFailed("PRECONDITION_FAILED - inequivalent arg"), TopologyError),
        (said.ChannelAccessRefused("ACCESS_REFUSED - "), BrokerAuthenticationError),
        (ValueError("Invalid value for queue"), TopologyError),
        # As a server that stops, or a node of several that is away, has it
        (
            said.ChannelNotFoundEntity(
                "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor"
            ),
            BrokerConnectionError,
        ),
        (
            said.ChannelNotFoundEntity(
                "NOT_FOUND - home node 'n1@localhost' of durable queue 'q' in vhost '/' is down "
                "or inaccessible"
            ),
            BrokerConnectionError,
        ),
        (ConnectionResetError(), BrokerConnectionError),
        (None, BrokerConnectionError),
    ],
)
def test_what_passes_by_itself_is_tried_again(
    error: BaseException | None, kind: type[Exception]
) -> None:
    found = channel_error(error, "queue 'q'")
    assert type(found) is kind
    assert found.retriable == (kind is BrokerConnectionError)
    assert "'q'" in str(found)
