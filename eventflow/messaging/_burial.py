"""The end of a message that failed: its dead letter, or the call of whom the policy names.

It runs in a task of its own, so that no timeout and no cancellation of the handler reaches it,
and goes on until it is done: nothing is acked before. Meanwhile the handler is paused.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from eventflow._cause import Attempt, current_cause
from eventflow._log import EventLogger, shown
from eventflow.errors import HandlerTimeoutError, MessageTooLargeError, OutsideTransactionError
from eventflow.messaging.dead_letter import MAX_TEXT, dead_letter
from eventflow.messaging.settlement import SettlementState

if TYPE_CHECKING:
    from eventflow.failure import FailureCallback
    from eventflow.messaging._runner import Runner
    from eventflow.messaging.delivery import Delivery

__all__ = ("Burial",)

log = EventLogger("eventflow.router")

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

SHORT_TEXT = 50
"""Longest text of ours in a dead letter that was too large with longer ones."""
BARE_TEXT = 0
"""Of one that was too large with these: it has nothing of its metadata and native headers."""


class Burial:
    """Ends one message for good.

    Attributes:
        job: The message.
        callback: Whom to call; ``None``: it is dead-lettered.
        is_done: Whether it was.
        is_waiting: Whether it could not be done, and waits to try again.
        timed_out: Whether its last attempt timed out.
        unstarted: Whether it reached no handler.
    """

    def __init__(
        self,
        runner: Runner,
        job: Delivery,
        error: BaseException,
        attempts: int,
        callback: FailureCallback | None,
    ) -> None:
        self.job = job
        self.callback = callback
        self.is_done = self.is_waiting = self.timed_out = self.unstarted = False
        self._longest = MAX_TEXT
        self._runner = runner
        self._error = error
        self._attempts = attempts

    async def run(self) -> None:
        """Go on until it is done; a stop cancels it."""
        runner, job = self._runner, self.job
        wait = FIRST_WAIT_S
        while True:
            failure: BaseException
            now = runner.scope.loop.time()
            current_cause.set(Attempt(job, runner, max(self._attempts, 1), now))
            try:
                await self._once()
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                failure = exc  # raised by the callback itself
            except BaseException as exc:  # noqa: BLE001 - whatever the publisher or the user raises
                failure = exc
            else:
                self.is_done = True
                return
            job.attempt_failed()
            if self._ends_elsewhere(failure):
                return
            if isinstance(failure, MessageTooLargeError) and self._longest > BARE_TEXT:
                self._longest = SHORT_TEXT if self._longest > SHORT_TEXT else BARE_TEXT
                continue
            self._report(failure, wait)
            runner.pause(self, f"message {job.message.id!r} can't be ended: {shown(failure)}")
            self.is_waiting = True
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - not for secrets
            self.is_waiting = False
            wait = min(wait * 2, LONGEST_WAIT_S)

    def _ends_elsewhere(self, failure: BaseException) -> bool:
        """Whether trying again is of no use: it comes again, or nothing goes along with its ack."""
        state = self.job.state
        if state is SettlementState.PENDING:
            return False
        return state is not SettlementState.ACKED or isinstance(failure, OutsideTransactionError)

    async def _once(self) -> None:
        runner, job = self._runner, self.job
        if self.callback is None:
            letter = dead_letter(
                job,
                self._error,
                handler=runner.name,
                group=str(job.reader.subscriber.group),
                attempts=self._attempts,
                first_failed_at=getattr(job, "first_failed_at", None),
                longest=self._longest or SHORT_TEXT,
                is_bare=self._longest == BARE_TEXT,
            )
            topic = runner.binding.dead_letters.topic_for(job.topic)
            await runner.dead_letters_of(job.reader).publish(topic, letter)
            return
        scope = asyncio.timeout(runner.timeout)
        try:
            async with scope:
                await self.callback(runner.argument(job), self._error, self._attempts)
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise HandlerTimeoutError(
                f"the failure callback of {runner.name} took longer than {runner.timeout:g} s",
                subscription=runner.name,
                timeout_s=runner.timeout or 0.0,
            ) from exc

    def _report(self, failure: BaseException, wait: float) -> None:
        facts = {
            "subscription": self._runner.name,
            "event_id": self.job.message.id,
            "topic": self.job.topic,
            "attempts": self._attempts,
            "reason": shown(self._error),
            "retried_in_s": round(wait, 3),
        }
        if self.callback is None:
            log.error("eventflow.dead_letter_failed", error=failure, **facts)
        else:
            log.error("eventflow.failure_callback_failed", error=failure, **facts)
