"""`IgnoreErrors`: which errors are as good as success."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from eventflow.errors import InvalidOptionError, Permanent
from eventflow.messaging import Router
from eventflow.messaging.middleware import IgnoreErrors
from tests.unit.messaging.middleware.support import Seen, lines, send
from tests.unit.messaging.support import QUICK, Placed, stored

if TYPE_CHECKING:
    from eventflow.brokers.memory import MemoryBroker

pytestmark = [pytest.mark.virtual_clock, pytest.mark.usefixtures("no_leaks")]


class GoneError(LookupError):
    pass


def says_a(error: Exception) -> bool:
    return error.args == ("a",)


def raises(error: Exception) -> bool:
    raise AttributeError("no status")


async def run(broker: MemoryBroker, handler: Any, *middlewares: Any, **options: Any) -> Router:
    router = Router(on_failure=QUICK, middlewares=middlewares)
    router.add_handler("h", Placed, handler, subscriber=broker.subscriber(group="g"), **options)
    async with router:
        await send(broker, 1)
    return router


@pytest.mark.parametrize(
    ("options", "error", "is_ignored"),
    [
        ({"on": LookupError}, GoneError("a"), True),
        ({"on": (ValueError, GoneError)}, GoneError("a"), True),
        ({"on": ValueError}, GoneError("a"), False),
        ({"on": GoneError}, LookupError("a"), False),
        ({"on": Exception, "when": says_a}, GoneError("a"), True),
        ({"on": Exception, "when": says_a}, GoneError("b"), False),
        ({"on": OSError, "when": bool}, GoneError("a"), False),
        ({"on": GoneError}, ExceptionGroup("two", [GoneError(), GoneError()]), True),
        ({"on": GoneError}, ExceptionGroup("two", [GoneError(), ValueError()]), False),
        ({"on": Permanent}, Permanent("never mind"), True),
        ({"on": Exception}, asyncio.CancelledError(), False),
    ],
)
async def test_errors_are_ignored_by_class_or_by_a_function(
    broker: MemoryBroker,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    error: BaseException,
    is_ignored: bool,
) -> None:
    """Acked without a retry and without a dead letter; logged with the id, and counted."""
    handler, ignore = Seen(error, error, error), IgnoreErrors(**options)
    router = await run(broker, handler, ignore)
    row = router.ledger["h"]
    letters = await stored(broker, "orders.dead_letter")
    if is_ignored:
        assert (row.handled, row.retried, row.failed, letters) == (1, 0, 0, [])
        (line,) = lines(caplog, "error_ignored")
        assert "subscription='h'" in line
        assert "event_id=" in line
        assert ignore.ignored == 1
    else:
        assert (row.handled, row.retried, row.failed, len(letters)) == (0, 2, 1, 1)
        assert ignore.ignored == 0


async def test_equal_texts_make_no_equal_errors(broker: MemoryBroker) -> None:
    """Watermill compares what the errors say."""
    router = await run(broker, Seen(*[ValueError("no rows")] * 3), IgnoreErrors(on=GoneError))
    assert router.ledger["h"].failed == 1


async def test_a_timeout_is_not_ignored(broker: MemoryBroker) -> None:
    """It is no error of the handler's; one that the handler raises itself is."""
    ignore = IgnoreErrors(on=Exception)
    router = await run(broker, Seen(takes=10), ignore, timeout=1)
    assert router.ledger["h"].timed_out == 1
    assert ignore.ignored == 0
    router = await run(broker, Seen(TimeoutError("of the database")), ignore)
    assert router.ledger["h"].handled == 1
    assert ignore.ignored == 1


async def test_a_function_that_raises_fails_the_attempt(broker: MemoryBroker) -> None:
    """With both errors in the traceback."""
    handler = Seen(GoneError(), GoneError(), GoneError())
    router = await run(broker, handler, IgnoreErrors(on=GoneError, when=raises))
    assert router.ledger["h"].failed == 1
    (letter,) = await stored(broker, "orders.dead_letter")
    assert letter.metadata["eventflow_exception"] == "builtins.AttributeError"


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"on": ()}, "on"),
        ({"on": "GoneError"}, "on"),
        ({"on": GoneError()}, "on"),
        ({"on": asyncio.CancelledError}, "on"),
        ({"on": (GoneError, 3)}, "on"),
        ({"on": GoneError, "when": "always"}, "when"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        IgnoreErrors(**options)
    assert caught.value.option == option
