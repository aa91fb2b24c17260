"""How the jobs of a handler end: acked, dead-lettered, given back; and the counts of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventflow._log import EventLogger, shown
from eventflow.failure import CallOnFailure, Log
from eventflow.messaging._burial import Burial
from eventflow.messaging.ladder import LADDER_S, step_for
from eventflow.messaging.settlement import SettlementState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from eventflow.messaging._runner import Runner
    from eventflow.messaging.delivery import Delivery

__all__ = ("Endings",)

log = EventLogger("eventflow.router")

THROUGH_BROKER_S = 1.0
"""Waits before a retry from this on go through the broker, with ``order="relaxed"``."""


class Endings:
    """Ends the jobs of one handler, each in one of the ways that are counted.

    Attributes:
        handled: ... and so on, as `HandlerStatistics` says.
        burials: Tasks that store dead letters, or call whom the policy names.
    """

    def __init__(self, runner: Runner) -> None:
        self.handled = self.failed = self.cancelled = self.released = self.abandoned = 0
        self.dead_lettered = self.timed_out = self.undecodable = self.retried = 0
        self.burials: dict[asyncio.Task[None], Burial] = {}
        self._runner = runner
        self._jobs = runner.jobs

    def succeeded(self, job: Delivery) -> None:
        """The handler returned, and what it gave is confirmed."""
        if job.ack():
            self.handled += 1
        else:
            # It was nacked by hand, or was given back meanwhile: it comes again.
            self.released += 1
        # `Jobs.end`, without the call: nearly every message ends here.
        jobs = self._jobs
        jobs.in_flight -= 1
        if job.in_lane:
            jobs.leave_lane(job)
        if jobs.idle_watchers:
            jobs.look_whether_idle()

    def failed_attempt(self, job: Delivery, error: BaseException, *, timed_out: bool) -> None:
        """Try again, now, later or through the broker; or give up."""
        job.attempt_failed()
        options = self._runner.options
        retry = options.on_failure.retry
        delay = None if retry is None else retry.delay(error, job.number)
        if not hasattr(job, "first_failed_at"):
            job.first_failed_at = datetime.now(UTC)
        if delay is None:
            self._give_up(job, error, attempts=job.number, timed_out=timed_out)
            return
        features = job.reader.features
        through_broker = (
            options.order == "relaxed"
            and delay >= THROUGH_BROKER_S
            and features.nack_delay
            and features.recorded_failures
        )
        if through_broker:
            delay = max(delay, LADDER_S[step_for(delay)])
        self.retried += 1
        log.info(
            "eventflow.handler_retried",
            attempt=job.number,
            reason=shown(error),
            delay_s=round(delay, 3),
            **self._facts(job),
        )
        job.number += 1
        if through_broker:
            self._give_back(job, delay=delay)
        elif self._runner.is_stopping:
            self._give_back(job)
        else:
            self._jobs.retry_in(delay, job, self.untake)

    def refuse(self, job: Delivery, error: BaseException) -> None:
        """No handler can get it: it ends as a dead letter, at once."""
        self._jobs.in_flight += 1
        self._give_up(job, error, attempts=job.failures, timed_out=False, unstarted=True)

    def untake(self, job: Delivery) -> None:
        """End a job that was taken and can't go on: a stop came, or it is settled already."""
        job.release()
        self.released += 1
        self._jobs.end(job)

    def cut(self, job: Delivery) -> None:
        """A stop cut its attempt: it comes again."""
        job.release()
        self.cancelled += 1
        log.warning("eventflow.handler_cancelled", **self._facts(job))
        self._jobs.end(job)

    def release_waiting(self) -> None:
        """Give back what waits: for its first attempt, or for another one."""
        unstarted, again = self._jobs.clear()
        for job in unstarted:
            job.release()
        self.released += len(unstarted)
        for job in again:
            self._give_back(job)

    def abandon(self, jobs: Iterable[Delivery]) -> None:
        """What works on them has refused to end."""
        for job in jobs:
            self.abandoned += 1
            self._jobs.end(job)

    def abandon_burials(
        self, pending: set[asyncio.Task[Any]]
    ) -> list[tuple[asyncio.Task[None], Delivery]]:
        """Give up those of its tasks that refused to end; returns them, each with its job."""
        refusing = [task for task in self.burials if task in pending]
        found = [(task, self.burials.pop(task).job) for task in refusing]
        self.abandon(job for _, job in found)
        return found

    def _facts(self, job: Delivery) -> dict[str, Any]:
        return {
            "router": self._runner.bus,
            "subscription": self._runner.name,
            "event_id": job.message.id,
            "topic": job.topic,
        }

    def _give_back(self, job: Delivery, *, delay: float = 0.0) -> None:
        """Have it delivered again, with the failures so far where the broker can keep them."""
        failures = job.number - 1
        if failures > job.failures and job.reader.features.recorded_failures:
            job.nack(delay=delay, failures=failures)
        else:
            job.release()
        self.released += 1
        self._jobs.end(job)

    def _give_up(
        self,
        job: Delivery,
        error: BaseException,
        *,
        attempts: int,
        timed_out: bool,
        unstarted: bool = False,
    ) -> None:
        runner = self._runner
        facts = self._facts(job)
        if unstarted:
            log.error("eventflow.message_refused", error=error, attempts=attempts, **facts)
        else:
            log.error("eventflow.handler_failed", error=error, attempts=attempts, **facts)
        then = runner.options.on_failure.then
        if isinstance(then, Log):
            self._gave_up(job, timed_out=timed_out, unstarted=unstarted)
            return
        callback = then.callback if isinstance(then, CallOnFailure) and not unstarted else None
        burial = Burial(runner, job, error, attempts, callback)
        burial.timed_out, burial.unstarted = timed_out, unstarted
        supervisor = runner.scope.supervisor
        task = supervisor.spawn(burial.run(), f"{runner.name}:burial")
        self.burials[task] = burial
        task.add_done_callback(self._buried, context=supervisor.callback_context)

    def _buried(self, task: asyncio.Task[None]) -> None:
        burial = self.burials.pop(task, None)
        if burial is None:
            return  # it was given up
        self._runner.resume(burial)
        if burial.is_done:
            self._gave_up(
                burial.job,
                dead_lettered=burial.callback is None,
                timed_out=burial.timed_out,
                unstarted=burial.unstarted,
            )
        elif burial.job.release():
            self.released += 1
            self._jobs.end(burial.job)
        else:
            self._ended_elsewhere(burial.job)

    def _ended_elsewhere(self, job: Delivery) -> None:
        """It could not be ended here, and somebody has settled it meanwhile."""
        if job.state is SettlementState.ACKED:
            self.failed += 1
            log.error("eventflow.message_lost", **self._facts(job))
        else:
            self.released += 1
        self._jobs.end(job)

    def _gave_up(
        self, job: Delivery, *, timed_out: bool, unstarted: bool, dead_lettered: bool = False
    ) -> None:
        if job.ack():
            self.failed += 1
            self.dead_lettered += dead_lettered
            self.timed_out += timed_out
            self.undecodable += unstarted
        else:
            self.released += 1
        self._jobs.end(job)
