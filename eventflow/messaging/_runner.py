"""A handler that runs: its workers, what becomes of its jobs, and the counts."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventflow._cause import Undecoded, current_attempt
from eventflow._log import EventLogger, shown
from eventflow.errors import ResourceError, TooManyDeliveriesError
from eventflow.failure import CallOnFailure, Log
from eventflow.messaging._burial import Burial
from eventflow.messaging._handling import Handling
from eventflow.messaging._job import Job
from eventflow.messaging._jobs import Jobs
from eventflow.messaging._worker import Worker
from eventflow.messaging.settlement import SettlementState
from eventflow.messaging.statistics import HandlerHealth, HandlerStatistics

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator, Iterable, Mapping

    from eventflow.events import Event
    from eventflow.messaging._binding import Binding
    from eventflow.messaging._reader import Reader
    from eventflow.messaging._scope import Scope
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.protocols import Publisher

__all__ = ("Runner",)

log = EventLogger("eventflow.router")

THROUGH_BROKER_S = 1.0
"""Waits before a retry from this on go through the broker, with ``order="relaxed"``."""

CLOCK_SLACK_S = 0.001
"""A loop fires its timers up to the clock's resolution early."""

LADDER_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
"""Waits that brokers are asked for: few, because some need a queue for each."""


class Runner:
    """Runs one handler of a router, between entering and leaving that.

    Attributes:
        name: Name of the handler.
        bus: Name of the router, as log lines have it.
        timeout: Seconds an attempt may take.
        on_failure: What happens when one fails.
        handling: How the handler is called.
        jobs: What waits for it.
        readers: Where its messages come from.
        subscribed: Done, each, when it receives from one of these, or can't.
        is_stopping: It starts nothing more.
    """

    def __init__(self, binding: Binding, scope: Scope) -> None:
        self.binding = binding
        self.options = binding.options
        self.scope = scope
        self.name = binding.name
        self.bus = scope.name
        self.timeout = binding.options.timeout
        self.on_failure = binding.options.on_failure
        self.timer_context = scope.timer_context
        # Tuples, and dicts for sets, where there is nothing in most of them: a router may have
        # many handlers, and an empty tuple or dict is nothing that a collector has to visit.
        self.readers: tuple[Reader, ...] = ()
        self.subscribed: tuple[asyncio.Future[None], ...] = ()
        self.is_stopping = False
        self.ready: asyncio.Future[None] = scope.loop.create_future()
        self._workers: dict[Worker, asyncio.Task[None]] = {}
        self._keeper: asyncio.Task[None] | None = None
        # Of the resource; made with its keeper.
        self._leave: asyncio.Future[None] | None = None
        self.handling = Handling(
            binding, scope.middlewares_for(binding), self, scope.threads, scope.codec
        )
        options = binding.options
        self.jobs = Jobs(
            scope.loop,
            # One after another, without lanes: what waits for a retry holds up all.
            is_serial=options.concurrency == 1 and options.order == "strict",
            timer_context=self.timer_context,
            on_probe=self._adjust_readers,
            on_lapse=self._look_whether_idle,
        )
        is_single = options.batch is None
        self._order_key = options.order_key if is_single else None
        self._keeps_lanes = is_single and options.order != "relaxed"
        self._burials: dict[asyncio.Task[None], Burial] = {}
        self._idle_watchers: dict[asyncio.Future[None], None] = {}
        self._failure = ""
        self._overdue: dict[asyncio.Future[None], None] = {}
        # Counts
        self.offered = self.handled = self.failed = self.skipped = 0
        self.cancelled = self.released = self.abandoned = 0
        self.dead_lettered = self.timed_out = self.undecodable = 0
        self.retried = self.redelivered = self.restarts = 0

    # Starting

    def start(self) -> None:
        """Open the resource, where there is one, then start the workers."""
        if self.options.resources is None:
            self._start_workers()
        else:
            self._leave = self.scope.loop.create_future()
            self._keeper = self.scope.supervisor.spawn(
                self._keep(self.options.resources, self._leave), f"{self.name}:resources"
            )

    def _start_workers(self) -> None:
        if not self.is_stopping:
            for _ in range(self.options.concurrency):
                self._start_worker()
        self.ready.set_result(None)

    async def _keep(self, resources: Callable[[], Any], leave: asyncio.Future[None]) -> None:
        """Hold the resource open. Entered and left in one task, as cancel scopes need it."""
        try:
            async with resources() as value:
                self.handling.use_resource(value)
                self._start_workers()
                await asyncio.shield(leave)
        except BaseException as exc:
            if not self.ready.done():
                self._refuse_all("its resource could not be opened")
                error = ResourceError(
                    f"the resource of handler {self.name!r} could not be opened: {shown(exc)}",
                    subscription=self.name,
                )
                error.__cause__ = exc
                self.ready.set_exception(error)
                self.ready.exception()  # reported: by the router, or by wait_running()
            if not isinstance(exc, asyncio.CancelledError):
                log.error(
                    "eventflow.resource_failed", error=exc, router=self.bus, subscription=self.name
                )
            elif not leave.done():
                raise

    def _refuse_all(self, why: str) -> None:
        """It can handle nothing: what it would get is for others in the group."""
        self.pause(self, why)
        self.stop_starting()

    def _start_worker(self) -> None:
        worker = Worker(self)
        task = self.scope.supervisor.spawn(worker.run(), self.name, worker.context)
        self._workers[worker] = task
        task.add_done_callback(
            lambda task: self._worker_ended(worker, task),
            context=self.scope.supervisor.callback_context,
        )
        if self.is_stopping:
            task.cancel()

    def replace(self, worker: Worker) -> None:
        """Let a worker with a fresh context go on."""
        self._workers.pop(worker, None)
        self._start_worker()

    def _worker_ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if worker.replaced:
            return
        self._workers.pop(worker, None)
        if self.is_stopping or self.scope.loop.is_closed():
            return
        self.restarts += 1
        log.error(
            "eventflow.worker_restarted", error=error, router=self.bus, subscription=self.name
        )
        self._start_worker()

    async def wait_running(self) -> None:
        """Wait until it receives from everywhere; raises why it can't."""
        await asyncio.shield(self.ready)
        for subscribed in self.subscribed:
            await asyncio.shield(subscribed)

    # For middlewares

    async def publish_outputs(self, given: object, delivery: Delivery) -> None:
        """Publish what the handler returned, where that means something; confirmed."""
        await self.handling.publish(given, delivery)

    @property
    def has_timed_out(self) -> bool:
        """Whether the attempt that asks was cancelled by its timeout, be that swallowed or not."""
        attempt = current_attempt()
        if attempt is None or self.timeout is None:
            return False
        if self.scope.loop.time() < attempt.started + self.timeout - CLOCK_SLACK_S:
            return False
        worker = self._running_worker()
        return worker is not None and worker.fired > 0

    @contextmanager
    def untimed(self) -> Generator[None]:
        """Let time inside not count towards the timeout of the attempt that runs here."""
        worker = self._running_worker()
        if worker is None:
            yield
        else:
            with worker.time_stopped():
                yield

    def _running_worker(self) -> Worker | None:
        attempt = current_attempt()
        if attempt is None:
            return None
        return next((worker for worker in self._workers if worker.attempt is attempt), None)

    # Taking in

    def offer(self, delivery: Delivery, event: Event, reader: Reader) -> None:
        """Take a message in, behind what is there."""
        self.offered += 1
        job = Job(delivery, event, reader)
        if delivery.deliveries is not None and delivery.deliveries > 1:
            self.redelivered += 1
            if delivery.deliveries > self.options.max_deliveries:
                self._refuse_delivered_too_often(job)
                return
        if self._order_key is not None:
            try:
                self.jobs.put_in_lane(job, self._order_key(self.argument(job)))
            except BaseException as exc:
                # No cancellation comes in here, since nothing is awaited.
                self._bury_unstarted(job, exc)
                if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                    raise
        elif delivery.lane is not None and self._keeps_lanes:
            self.jobs.put_in_lane(job, (reader, delivery.lane))
        else:
            self.jobs.put(job)

    def argument(self, job: Job) -> Any:
        """What the user's functions get: the event, or the message if the handler takes those."""
        return job.delivery.message if self.binding.takes_message else job.event

    def refuse(self, delivery: Delivery, error: BaseException, reader: Reader) -> None:
        """Take in a message that no handler can get: it ends as a dead letter, at once."""
        self.offered += 1
        stand_in: Any = Undecoded(delivery.message.id, delivery.topic)
        self._bury_unstarted(Job(delivery, stand_in, reader), error)

    def pass_over(self, delivery: Delivery, *, delay: float) -> None:
        """Give a message back that was for a handler which was stopped; counted here."""
        self.offered += 1
        self.released += 1
        delivery.nack(delay=delay)
        log.info(
            "eventflow.message_given_back",
            router=self.bus,
            topic=delivery.topic,
            event_id=delivery.message.id,
            delay_s=delay,
        )

    def fail(self, error: BaseException) -> None:
        """It can't run: `health` says so."""
        self._failure = shown(error)
        self.stop_starting()

    def skip(self, delivery: Delivery) -> None:
        """Ack a message that is meant for others."""
        self.offered += 1
        self.skipped += 1
        delivery.ack()

    def _refuse_delivered_too_often(self, job: Job) -> None:
        delivery = job.delivery
        error = TooManyDeliveriesError(
            f"message {delivery.message.id!r} was delivered {delivery.deliveries} times, more than "
            f"max_deliveries={self.options.max_deliveries}: perhaps it crashes its readers",
            message_id=delivery.message.id,
            deliveries=delivery.deliveries or 0,
        )
        self._bury_unstarted(job, error)

    def _bury_unstarted(self, job: Job, error: BaseException) -> None:
        self.jobs.in_flight += 1
        self._give_up(job, error, attempts=job.delivery.failures, timed_out=False, unstarted=True)

    def dead_letters_of(self, reader: Reader) -> Publisher:
        """Where dead letters of what came from there go."""
        return self.binding.dead_letters.publisher or reader.publisher

    # How a job ends

    def untake(self, job: Job) -> None:
        """End a job that was taken and can't go on: a stop came, or it is settled already."""
        job.delivery.release()
        self.released += 1
        self._end(job)

    def succeeded(self, job: Job) -> None:
        """The handler returned, and what it gave is confirmed."""
        if job.delivery.ack():
            self.handled += 1
        else:
            # It was nacked by hand, or was given back meanwhile: it comes again.
            self.released += 1
        # What `_end` does, with no call in between.
        self.jobs.in_flight -= 1
        if job.has_lane:
            self.jobs.leave_lane(job)
        if self._idle_watchers:
            self._look_whether_idle()

    def failed_attempt(self, job: Job, error: BaseException, *, timed_out: bool) -> None:
        """Try again, now, later or through the broker; or give up."""
        retry = self.options.on_failure.retry
        delay = None if retry is None else retry.delay(error, job.number)
        if job.first_failed_at is None:
            job.first_failed_at = datetime.now(UTC)
        if delay is None:
            self._give_up(job, error, attempts=job.number, timed_out=timed_out)
            return
        features = job.reader.features
        through_broker = (
            self.options.order == "relaxed"
            and delay >= THROUGH_BROKER_S
            and features.nack_delay
            and features.recorded_failures
        )
        if through_broker:
            delay = next((step for step in LADDER_S if step >= delay), delay)
        self.retried += 1
        log.info(
            "eventflow.handler_retried",
            router=self.bus,
            subscription=self.name,
            topic=job.delivery.topic,
            event_id=job.delivery.message.id,
            attempt=job.number,
            reason=shown(error),
            delay_s=round(delay, 3),
        )
        job.number += 1
        if through_broker:
            self._give_back(job, delay=delay)
        elif self.is_stopping:
            self._give_back(job)
        else:
            self.jobs.retry_in(delay, job, self.untake)

    def _give_back(self, job: Job, *, delay: float = 0.0) -> None:
        """Have it delivered again, with the failures so far where the broker can keep them."""
        failures = job.number - 1
        if failures > job.delivery.failures and job.reader.features.recorded_failures:
            job.delivery.nack(delay=delay, failures=failures)
        else:
            job.delivery.release()
        self.released += 1
        self._end(job)

    def _give_up(
        self,
        job: Job,
        error: BaseException,
        *,
        attempts: int,
        timed_out: bool,
        unstarted: bool = False,
    ) -> None:
        facts = {
            "router": self.bus,
            "subscription": self.name,
            "event_id": job.delivery.message.id,
            "topic": job.delivery.topic,
            "attempts": attempts,
        }
        if unstarted:
            log.error("eventflow.message_refused", error=error, **facts)
        else:
            log.error("eventflow.handler_failed", error=error, **facts)
        then = self.options.on_failure.then
        if isinstance(then, Log):
            self._gave_up(job, timed_out=timed_out, unstarted=unstarted)
            return
        callback = then.callback if isinstance(then, CallOnFailure) and not unstarted else None
        burial = Burial(self, job, error, attempts, callback)
        burial.timed_out, burial.unstarted = timed_out, unstarted
        task = self.scope.supervisor.spawn(burial.run(), f"{self.name}:burial")
        self._burials[task] = burial
        task.add_done_callback(self._buried, context=self.scope.supervisor.callback_context)

    def _buried(self, task: asyncio.Task[None]) -> None:
        burial = self._burials.pop(task, None)
        if burial is None:
            return  # it was given up
        self.resume(burial)
        if burial.is_done:
            self._gave_up(
                burial.job,
                dead_lettered=burial.callback is None,
                timed_out=burial.timed_out,
                unstarted=burial.unstarted,
            )
        elif burial.job.delivery.release():
            self.released += 1
            self._end(burial.job)
        else:
            self._ended_elsewhere(burial.job)

    def _ended_elsewhere(self, job: Job) -> None:
        """It could not be ended here, and somebody has settled it meanwhile."""
        if job.delivery.state is SettlementState.ACKED:
            self.failed += 1
            log.error(
                "eventflow.message_lost",
                router=self.bus,
                subscription=self.name,
                topic=job.delivery.topic,
                event_id=job.delivery.message.id,
            )
        else:
            self.released += 1
        self._end(job)

    def _gave_up(
        self, job: Job, *, timed_out: bool, unstarted: bool, dead_lettered: bool = False
    ) -> None:
        if job.delivery.ack():
            self.failed += 1
            self.dead_lettered += dead_lettered
            self.timed_out += timed_out
            self.undecodable += unstarted
        else:
            self.released += 1
        self._end(job)

    def cut(self, job: Job) -> None:
        """A stop cut its attempt: it comes again."""
        job.delivery.release()
        self.cancelled += 1
        log.warning(
            "eventflow.handler_cancelled",
            router=self.bus,
            subscription=self.name,
            topic=job.delivery.topic,
            event_id=job.delivery.message.id,
        )
        self._end(job)

    def _end(self, job: Job) -> None:
        self.jobs.in_flight -= 1
        if job.has_lane:
            self.jobs.leave_lane(job)
        if self._idle_watchers:
            self._look_whether_idle()

    # Pausing

    def pause(self, by: object, reason: str) -> None:
        """Start nothing more, and receive nothing more, until whoever paused it resumes it."""
        self.jobs.pauses.add(by, reason)
        self._adjust_readers()

    def resume(self, by: object) -> None:
        """Go on, unless somebody else paused it too."""
        if self.jobs.pauses.remove(by):
            self._go_on()

    def probe(self, by: object, count: int = 1) -> None:
        """Start this many more jobs, although ``by`` has paused it; others' pauses hold."""
        if self.jobs.pauses.let(by, count):
            self._go_on()

    def _go_on(self) -> None:
        if not self.is_paused:
            self._adjust_readers()
            for _ in range(self.options.concurrency):
                self.jobs.wake()

    def _adjust_readers(self) -> None:
        for reader in self.readers:
            reader.adjust()

    @property
    def is_paused(self) -> bool:
        """Whether it starts nothing."""
        return self.jobs.pauses.hold

    # Looking at it

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, no thread included."""
        return not (self.jobs.in_flight or self.jobs.buffered or self._overdue)

    def _look_whether_idle(self) -> None:
        if self.is_idle:
            for watcher in self._idle_watchers:
                if not watcher.done():
                    watcher.set_result(None)
            self._idle_watchers.clear()

    def outlived(self, ended: asyncio.Future[None], context: contextvars.Context) -> None:
        """A thread goes on after its attempt, until ``ended`` is done."""
        self._overdue[ended] = None
        ended.add_done_callback(self._returned, context=context)

    def _returned(self, ended: asyncio.Future[None]) -> None:
        self._overdue.pop(ended, None)
        self._look_whether_idle()

    @property
    def overdue(self) -> Iterable[asyncio.Future[None]]:
        """The ends of threads that outlived their attempt."""
        return tuple(self._overdue)

    def watch_idle(self) -> asyncio.Future[None]:
        """Done when the handler may have become idle."""
        watcher = self.scope.loop.create_future()
        self._idle_watchers[watcher] = None
        return watcher

    def statistics(self) -> HandlerStatistics:
        """The counts, now."""
        return HandlerStatistics(
            name=self.name,
            offered=self.offered,
            handled=self.handled,
            failed=self.failed,
            skipped=self.skipped,
            cancelled=self.cancelled,
            released=self.released + self.jobs.lapsed,
            abandoned=self.abandoned,
            buffered=self.jobs.buffered,
            in_flight=self.jobs.in_flight,
            dead_lettered=self.dead_lettered,
            timed_out=self.timed_out,
            undecodable=self.undecodable,
            retried=self.retried,
            redelivered=self.redelivered,
            restarts=self.restarts,
        )

    def health(self) -> HandlerHealth:
        """How it is."""
        state, reason, pauses = "running", "", self.jobs.pauses.reasons
        if self.is_stopping:
            state = "stopping" if self._workers or self.jobs.in_flight else "stopped"
        elif not self.ready.done():
            state = "starting"
        elif self.ready.exception() is not None:
            state, reason = "failed", str(self.ready.exception())
        elif self._failure:
            state, reason = "failed", self._failure
        elif admitting := [pauses[reader] for reader in self.readers if reader in pauses]:
            state, reason = "starting", admitting[0]
        elif stalls := [
            why for by, why in self.jobs.pauses.reasons.items() if isinstance(by, Burial)
        ]:
            state, reason = "stalled", stalls[0]
        else:
            for reader in self.readers:
                if reader.state != "running":
                    state, reason = reader.state, reader.reason
                    break
            else:
                if pauses:
                    state, reason = "paused", next(iter(pauses.values()))
        return HandlerHealth(name=self.name, state=state, reason=reason)

    # Stopping

    @property
    def is_being_stopped(self) -> bool:
        """Whether whoever cancels a worker now means to end it."""
        return self.is_stopping or self.scope.supervisor.is_being_cancelled

    @property
    def tasks(self) -> Iterable[asyncio.Task[None]]:
        """The workers' tasks."""
        return self._workers.values()

    @property
    def burials(self) -> Mapping[asyncio.Task[None], Burial]:
        """Tasks that store dead letters."""
        return self._burials

    def stop_starting(self) -> None:
        """Start nothing more: what waits is given back."""
        unstarted, again = self.jobs.clear()
        for job in unstarted:
            job.delivery.release()
        self.released += len(unstarted)
        for job in again:
            self._give_back(job)
        self._look_whether_idle()

    def close(self) -> None:
        """From here on, a worker that ends is not replaced."""
        if not self.is_stopping:
            self.handling.close()
        self.is_stopping = self.jobs.is_closed = True
        if not self.ready.done() and self._keeper is not None:
            self._keeper.cancel()

    def give_up(self, pending: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
        """Abandon the workers and burials that refused to end; let the resource go.

        Returns the tasks that will end after all: they only waited for their thread.
        """
        for burying in [task for task in self._burials if task in pending]:
            held_up = self._burials.pop(burying).job
            self.abandoned += 1
            self._end(held_up)
            self.scope.note_abandoned(burying, held_up.delivery)
        ending: set[asyncio.Task[Any]] = set()
        for worker, task in tuple(self._workers.items()):
            if task not in pending or worker.abandoned:
                continue
            job = worker.job
            worker.abandon()
            for held in worker.batch or ([] if job is None else [job]):
                self.abandoned += 1
                self._end(held)
            self.scope.note_abandoned(task, None if job is None else job.delivery)
            if worker.thread is not None:
                task.cancel()
                ending.add(task)
        return ending

    def let_go(self) -> asyncio.Task[None] | None:
        """Let the resource close; returns the task that does it."""
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(None)
        return self._keeper if self._keeper is not None and not self._keeper.done() else None
