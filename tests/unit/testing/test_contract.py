"""What the contract suite is made of: counting, the report, and what it says when it is misused."""

from __future__ import annotations

import asyncio

import pytest

from eventflow.messaging import Delivery, Features, Message
from eventflow.testing.contract import BrokerContract, Counts, Tally
from eventflow.testing.contract._process import Elsewhere
from tests.unit.testing.elsewhere import TOPIC


class Nobody:
    features = Features(backend="nobody")

    def settle(self, delivery: Delivery) -> None:
        pass


def received(message: Message) -> Delivery:
    return Delivery(message, topic="t", settler=Nobody())


def test_what_comes_as_often_as_it_has_to_is_fine() -> None:
    """Once each; once more for each nack; and once more where that was excused."""
    tally = Tally()
    one, two, three = messages = [Message(b"1"), Message(b"2"), Message(b"3")]
    tally.published(*messages)
    assert not tally.is_complete
    tally.received(received(one))
    tally.asked_again(received(one))
    tally.received(received(two))
    assert tally.received(received(one)) == 2
    tally.may_come_again(three.id)
    tally.received(received(three))
    tally.received(received(three))
    assert tally.is_complete
    assert tally.counts == Counts(published=3, received=5)
    tally.check()


def test_every_fault_is_counted_before_anything_is_said() -> None:
    """Lost, twice, foreign and altered, with the ids; none hides another."""
    tally = Tally()
    lost, twice, altered = Message(b"1", id="l"), Message(b"2", id="d"), Message(b"3", id="a")
    tally.published(lost, twice, altered)
    for message in (twice, twice, altered.copy(payload=b"4"), Message(b"5", id="f")):
        tally.received(received(message))
    assert tally.counts == Counts(3, 4, lost=1, duplicates=1, foreign=1, altered=1)
    with pytest.raises(AssertionError) as caught:
        tally.check()
    assert str(caught.value).splitlines() == [
        "3 published, 4 received, 1 lost, 1 duplicates, 1 foreign, 1 altered",
        "  lost: l",
        "  duplicates: d",
        "  foreign: f",
        f"  altered: a; the first was sent as {altered!r}",
    ]
    with pytest.raises(AssertionError, match="altered"):
        tally.check(duplicates=1, losses=1, foreign=True)


def test_a_nacked_message_that_does_not_come_again_is_lost() -> None:
    """A delivery that was asked for and did not come counts, not only a message never seen."""
    tally = Tally()
    message = Message(b"1")
    tally.published(message)
    tally.asked_again(received(message))
    tally.received(received(message))
    assert tally.counts.lost == 1
    assert not tally.is_complete


def test_what_may_be_stored_may_come_once() -> None:
    tally = Tally()
    stored, not_stored = Message(b"1"), Message(b"2")
    tally.may_be_stored(stored, not_stored)
    tally.received(received(stored))
    tally.check()
    tally.received(received(stored))
    assert tally.counts.duplicates == 1


def test_a_key_is_compared_where_it_has_to_come_back() -> None:
    message, bare = Message(b"1", id="m", key="k"), Message(b"1", id="m")
    for tally, altered in ((Tally(), 0), (Tally(key=True), 1)):
        tally.published(message)
        tally.received(received(bare))
        assert tally.counts.altered == altered


def test_redelivery_without_end_ends_the_test() -> None:
    """A hundred times more than asked for is no number to wait for the end of."""
    tally = Tally()
    message = Message(b"1", id="m")
    tally.published(message)
    for _ in range(100):
        tally.received(received(message))
    with pytest.raises(AssertionError, match="message m comes again and again: 1 published, 101"):
        tally.received(received(message))


@pytest.mark.virtual_clock
async def test_waiting_ends_when_nothing_comes_any_more() -> None:
    """Patience is for the time without progress, not for all of it."""
    tally = Tally()
    messages = [Message(b"1"), Message(b"2"), Message(b"3")]
    tally.published(*messages)
    loop = asyncio.get_running_loop()
    for n, message in enumerate(messages[:2]):
        loop.call_later(8.0 * (n + 1), tally.received, received(message))
    await tally.complete(patience=10)
    assert loop.time() == 26.0
    assert tally.counts.lost == 1


def test_long_lists_are_cut() -> None:
    tally = Tally()
    tally.published(*(Message(b"", id=f"m-{n}") for n in range(7)))
    with pytest.raises(AssertionError, match="lost: m-0, m-1, m-2, m-3, m-4 and 2 more"):
        tally.check()


def test_a_backend_has_to_be_named() -> None:
    class TestNothing(BrokerContract):
        pass

    with pytest.raises(NotImplementedError, match="TestNothing has to say what it tests"):
        TestNothing().new_broker()


SUITE = """
    import pytest
    from eventflow.brokers.memory import MemoryBroker
    from eventflow.testing.contract import BrokerContract

    @pytest.mark.virtual_clock
    class TestMine(BrokerContract):
        def new_broker(self):
            return MemoryBroker({options})
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_a_suite_of_a_few_lines_runs(pytester: pytest.Pytester, mode: str) -> None:
    """In both modes of pytest-asyncio, with strict markers; its counts are at the end."""
    result = run(pytester, SUITE.format(options=""), mode, "-k", "nacked_message or ids_are_kept")

    result.assert_outcomes(passed=2, deselected=69)
    result.stdout.fnmatch_lines(
        [
            "*= eventflow contract =*",
            "TestMine: 2 tests, 105 messages published, 305 deliveries, 0 lost, 0 that nobody *",
        ]
    )


def test_what_else_a_test_records_is_not_counted(pytester: pytest.Pytester) -> None:
    """A property of the user's own stands in the same report."""
    source = (
        SUITE.format(options="")
        + """
        @pytest.fixture(autouse=True)
        def noted(self, record_property):
            record_property("ticket", 7)
    """
    )
    result = run(pytester, source, "strict", "-k", "ids_are_kept")

    result.assert_outcomes(passed=1, deselected=70)
    result.stdout.fnmatch_lines(["TestMine: 1 tests, 5 messages published, *"])


def test_a_failure_says_what_was_lost(pytester: pytest.Pytester) -> None:
    """The counts, and the ids, stand in the error; the sums stand at the end."""
    broken = (
        SUITE.format(options="")
        + """
        def new_broker(self):
            broker = MemoryBroker()
            publisher = broker.publisher()
            async def publish(topic, *messages, _publish=type(publisher).publish):
                await _publish(publisher, topic, *messages[1:])
            broker.publisher = lambda: Losing(publisher, publish)
            return broker

    class Losing:
        def __init__(self, inner, publish):
            self.features, self.prepare, self.publish = inner.features, inner.prepare, publish
    """
    )
    result = run(pytester, broken, "strict", "-k", "ids_are_kept")

    result.assert_outcomes(failed=1, deselected=70)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: 5 published, 0 received, 5 lost, 0 duplicates*",
            "TestMine: 1 tests, 5 messages published, 0 deliveries, 5 lost, *",
        ]
    )


def test_persistence_has_to_be_shown(pytester: pytest.Pytester) -> None:
    """Whoever declares it says how another process opens the store."""
    boasts = (
        SUITE.format(options="")
        + """
        def new_broker(self):
            import dataclasses
            broker = MemoryBroker()
            broker._features = dataclasses.replace(broker.features, persistent=True)
            return broker
    """
    )
    result = run(pytester, boasts, "strict", "-k", "process_killed")

    result.assert_outcomes(failed=1, deselected=70)
    result.stdout.fnmatch_lines(
        ["*persistent=True is shown by another process: override elsewhere*"]
    )


def test_another_process_that_can_not_open_the_store_is_no_wait(pytester: pytest.Pytester) -> None:
    """It has ended, with an error of its own: the test fails at once, and says with what."""
    away = (
        SUITE.format(options="")
        + """
        def new_broker(self):
            import dataclasses
            broker = MemoryBroker()
            broker._features = dataclasses.replace(broker.features, persistent=True)
            return broker

        def elsewhere(self):
            return ("builtins:no_such_broker",)
    """
    )
    result = run(pytester, away, "strict", "-k", "process_killed")

    result.assert_outcomes(failed=1, deselected=70)
    result.stdout.fnmatch_lines(["*the other process ended with 1: see its stderr*"])


async def test_another_process_that_ends_by_itself_has_told_what_it_took() -> None:
    """All that it was asked to take, however it came; and killing it is no error."""
    where = ("tests.unit.testing.elsewhere:ending", "7")
    async with Elsewhere(where, topic=TOPIC, group="g", take=3, ack=1) as process:
        assert await process.holds() == ["m-0", "m-1", "m-2"]
        with pytest.raises(AssertionError, match="the other process ended with 7"):
            await process.holds()
        await process.kill()


def run(pytester: pytest.Pytester, source: str, mode: str, *options: str) -> pytest.RunResult:
    pytester.makeini(
        f"[pytest]\nasyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makepyfile(source)
    return pytester.runpytest_inprocess("--strict-markers", "-p", "no:cacheprovider", *options)
