"""Cancel a call at each point where it waits, one point a round."""

from __future__ import annotations

import asyncio
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, cast

from eventflow.testing._describe import where_suspended
from eventflow.testing.errors import TooManyStepsError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator

__all__ = (
    "CancelMoment",
    "CancelOutcome",
    "CancelRound",
    "cancel_at_each_suspension",
    "cancel_rounds",
)

T = TypeVar("T")

CancelMoment: TypeAlias = Literal["suspended", "resuming"]
"""When in a suspension the cancellation comes.

``"suspended"``: right after the task began to wait. ``"resuming"``: what it waits for is there,
but the task has not run yet; this is where results get lost.
"""

_MOMENTS: tuple[CancelMoment, ...] = ("suspended", "resuming")


@dataclass(frozen=True)
class CancelOutcome(Generic[T]):
    """How one round ended.

    Attributes:
        step: Number of the suspension at which the round cancels, from 1.
        moment: When in that suspension; see `CancelMoment`.
        where: Where the task stood when it was cancelled; ``None`` when it ended before it came
            to that suspension, so was not cancelled.
        status: ``"cancelled"``, ``"returned"`` or ``"raised"``. A task that was cancelled and
            still returned, or raised something else, says so here.
        result: What it returned; ``None`` otherwise.
        error: What it raised other than the cancellation; ``None`` otherwise.
    """

    step: int
    moment: CancelMoment
    where: str | None
    status: Literal["cancelled", "returned", "raised"]
    result: T | None = None
    error: BaseException | None = None

    @property
    def was_cancelled(self) -> bool:
        """Whether the cancellation was sent; how the task took it is in `status`."""
        return self.where is not None


class CancelRound:
    """One round: runs one call and cancels it at one point.

    Attributes:
        step: Number of the suspension at which it cancels, from 1.
        moment: When in that suspension.
    """

    def __init__(self, step: int, moment: CancelMoment) -> None:
        self.step = step
        self.moment: CancelMoment = moment
        self._ran = False
        self._where: str | None = None

    def __repr__(self) -> str:
        return f"<CancelRound step={self.step} moment={self.moment!r}>"

    @property
    def is_last(self) -> bool:
        """Whether the call ended before it could be cancelled, so that no further round differs.

        Raises:
            RuntimeError: The round has not run.
        """
        if not self._ran:
            raise RuntimeError("nothing was run in this round: await round.run(...) in it")
        return self._where is None

    async def run(self, call: Coroutine[Any, Any, T]) -> CancelOutcome[T]:
        """Run a coroutine in a task of its own, and cancel it at the round's point.

        Only suspensions of this task count, not those of tasks it starts.

        Args:
            call: The coroutine. It is used up.

        Returns:
            How it ended. Nothing of what it raised comes out of here.
        """
        if self._ran:
            call.close()
            raise RuntimeError("a round runs one call; put several into one coroutine")
        self._ran = True
        task = asyncio.create_task(self._main(call), name=f"cancelled at step {self.step}")
        try:
            await asyncio.wait([task])
        finally:
            if not task.done():  # the round itself was cancelled
                task.cancel()
                await asyncio.wait([task])
        if task.cancelled():
            return CancelOutcome(self.step, self.moment, self._where, "cancelled")
        error = task.exception()
        if error is not None:
            return CancelOutcome(self.step, self.moment, self._where, "raised", error=error)
        return CancelOutcome(self.step, self.moment, self._where, "returned", task.result())

    async def _main(self, call: Coroutine[Any, Any, T]) -> T:
        return await self._steps(call)

    @types.coroutine
    def _steps(self, call: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Pass every suspension of the call on to its task, and count them."""
        suspensions = 0
        sent: Any = None
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = call.send(sent) if thrown is None else call.throw(thrown)
            except StopIteration as stop:
                result: T = stop.value
                return result
            suspensions += 1
            if suspensions == self.step:
                self._cancel_soon(call, waits_for)
            sent = thrown = None
            try:
                sent = yield waits_for
            except BaseException as exc:  # noqa: BLE001 - handed to the call, whatever it is
                thrown = exc

    def _cancel_soon(self, call: Coroutine[Any, Any, Any], waits_for: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._where = where_suspended(call)
        if self.moment == "resuming" and waits_for is not None:  # None: a bare yield, sleep(0)
            # Before the task's own callback, which it adds once it gets the future: so it is
            # cancelled when the result is there and its wake-up is already on the way.
            future = cast("asyncio.Future[object]", waits_for)
            future.add_done_callback(lambda _: task.cancel())
        else:
            # Not now: the task is still running, it only starts to wait after this.
            asyncio.get_running_loop().call_soon(task.cancel)


def cancel_rounds(*, max_steps: int = 1000) -> Iterator[CancelRound]:
    """Give the rounds in which one call is cancelled at each of its suspensions.

    For every suspension there are two rounds, one for each `CancelMoment`. The last round is the
    one whose call ended by itself. Each round starts from what the loop's body sets up.

    Args:
        max_steps: Bound on the suspensions, so that a call without end is found.

    Raises:
        TooManyStepsError: The call still suspended after `max_steps`.
        RuntimeError: Nothing was run in a round.

    Example::

        for round in cancel_rounds():
            async with EventBus() as bus:
                outcome = await round.run(bus.publish(event))
                assert bus.statistics().waiting == 0, outcome
    """
    for step in range(1, max_steps + 1):
        for moment in _MOMENTS:
            current = CancelRound(step, moment)
            yield current
            if current.is_last:
                return
    raise TooManyStepsError(
        f"the call was still suspending after {max_steps} suspensions", max_steps=max_steps
    )


async def cancel_at_each_suspension(
    factory: Callable[[], Coroutine[Any, Any, T]], *, max_steps: int = 1000
) -> AsyncGenerator[CancelOutcome[T]]:
    """Call, run and cancel a coroutine again and again, one suspension further each time.

    `cancel_rounds` for a call that needs no set-up of its own: the outcomes come one by one, so
    that what must hold can be checked after each.

    Args:
        factory: Called once a round; returns the coroutine to run.
        max_steps: See `cancel_rounds`.

    Yields:
        The outcome of each round; the last was not cancelled.

    Example::

        async for outcome in cancel_at_each_suspension(lambda: queue.get()):
            assert queue.qsize() == before - (outcome.status == "returned")
    """
    for current in cancel_rounds(max_steps=max_steps):
        yield await current.run(factory())
