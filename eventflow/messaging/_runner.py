"""A handler that runs: its resource, its workers, what it takes in, and how it is."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventflow._cause import current_attempt
from eventflow._log import EventLogger, shown
from eventflow.errors import ResourceError, TooManyDeliveriesError
from eventflow.messaging._burial import Burial
from eventflow.messaging._endings import Endings
from eventflow.messaging._handling import Handling
from eventflow.messaging._jobs import Jobs
from eventflow.messaging._worker import Worker
from eventflow.messaging.statistics import HandlerHealth, HandlerStatistics

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator, Iterable

    from eventflow.messaging._binding import Binding
    from eventflow.messaging._reader import Reader
    from eventflow.messaging._scope import Scope
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.protocols import Publisher

__all__ = ("Runner",)

log = EventLogger("eventflow.router")

CLOCK_SLACK_S = 0.001
"""A loop fires its timers up to the clock's resolution early."""


class Runner:
    """Runs one handler of a router, between entering and leaving that.

    Attributes:
        name: Name of the handler.
        bus: Name of the router, as log lines have it.
        timeout: Seconds an attempt may take.
        on_failure: What happens when one fails.
        handling: How the handler is called.
        jobs: What waits for it.
        endings: How they end.
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
        self.ready = scope.done if binding.options.resources is None else scope.loop.create_future()
        self._workers: dict[asyncio.Task[None], Worker] = {}
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
        )
        is_single = options.batch is None
        self._order_key = options.order_key if is_single else None
        self._keeps_lanes = is_single and options.order != "relaxed"
        self._chooses_lanes = self._order_key is not None or options.order == "partition"
        self.endings = Endings(self)
        self._failure = ""
        # Counts; those of how jobs end are with the endings.
        self.offered = self.skipped = self.redelivered = self.restarts = 0

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

    async def _keep(self, resources: Callable[[], Any], leave: asyncio.Future[None]) -> None:
        """Hold the resource open. Entered and left in one task, as cancel scopes need it."""
        try:
            async with resources() as value:
                self.handling.use_resource(value)
                self._start_workers()
                self.ready.set_result(None)
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
        self._workers[task] = worker
        task.add_done_callback(self._worker_ended, context=self.scope.supervisor.callback_context)
        if self.is_stopping:
            task.cancel()

    def replace(self, worker: Worker) -> None:
        """Let a worker with a fresh context go on."""
        assert worker.task is not None
        self._workers.pop(worker.task, None)
        self._start_worker()

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._workers.pop(task, None) is None:
            return  # another one has taken its place
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
        return next(
            (worker for worker in self._workers.values() if worker.attempt is attempt), None
        )

    # Taking in

    def offer(self, job: Delivery, reader: Reader) -> None:
        """Take a message in, behind what is there."""
        self.offered += 1
        job.reader, job.number, job.in_lane = reader, job.failures + 1, False
        if job.deliveries != 1 and job.deliveries is not None:
            self.redelivered += 1
            # Not those that ended as failures: they are the retry policy's to count.
            if job.deliveries - job.failures > self.options.max_deliveries:
                self._refuse_delivered_too_often(job)
                return
        if self._chooses_lanes:
            self._put_in_lane(job)
        elif job.lane is not None and self._keeps_lanes:
            self.jobs.put_in_lane(job, (reader, job.lane))
        else:
            # `Jobs.put`, without the call: nearly every message comes here.
            jobs = self.jobs
            jobs.queue.append(job)
            if jobs.idle:
                jobs.wake()

    def refuse(self, job: Delivery, reader: Reader, error: BaseException) -> None:
        """Take in what no handler can get: it ends as a dead letter, at once."""
        self.offered += 1
        job.reader, job.number, job.in_lane = reader, job.failures + 1, False
        self.endings.refuse(job, error)

    def _put_in_lane(self, job: Delivery) -> None:
        if self._order_key is None:
            self.jobs.put_in_lane(job, (job.reader, job.coordinates["partition"]))
            return
        try:
            self.jobs.put_in_lane(job, self._order_key(self.argument(job)))
        except BaseException as exc:
            # No cancellation comes in here, since nothing is awaited.
            self.endings.refuse(job, exc)
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise

    def argument(self, job: Delivery) -> Any:
        """What the user's functions get: the event, or the message if the handler takes those."""
        return job.message if self.binding.takes_message else job.event

    def pass_over(self, delivery: Delivery, *, delay: float) -> None:
        """Give a message back that was for a handler which was stopped; counted here."""
        self.offered += 1
        self.endings.released += 1
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

    def _refuse_delivered_too_often(self, job: Delivery) -> None:
        error = TooManyDeliveriesError(
            f"message {job.message.id!r} was delivered {job.deliveries} times, more than "
            f"max_deliveries={self.options.max_deliveries}: perhaps it crashes its readers",
            message_id=job.message.id,
            deliveries=job.deliveries or 0,
        )
        self.endings.refuse(job, error)

    def dead_letters_of(self, reader: Reader) -> Publisher:
        """Where dead letters of what came from there go."""
        return self.binding.dead_letters.publisher or reader.publisher

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

    def outlived(self, ended: asyncio.Future[None], context: contextvars.Context) -> None:
        """A thread goes on after its attempt, until ``ended`` is done."""
        self.jobs.wait_for_thread(ended, context)

    def statistics(self) -> HandlerStatistics:
        """The counts, now."""
        ends, jobs = self.endings, self.jobs
        return HandlerStatistics(
            name=self.name,
            offered=self.offered,
            handled=ends.handled,
            failed=ends.failed,
            skipped=self.skipped,
            cancelled=ends.cancelled,
            released=ends.released + jobs.lapsed,
            abandoned=ends.abandoned,
            buffered=jobs.buffered,
            in_flight=jobs.in_flight,
            dead_lettered=ends.dead_lettered,
            timed_out=ends.timed_out,
            undecodable=ends.undecodable,
            retried=ends.retried,
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
                if problem := reader.problem:
                    state, reason = "reconnecting", problem
                    break
            else:
                if pauses:
                    state, reason = "paused", next(iter(pauses.values()))
        lags = [lag for reader in self.readers if (lag := reader.lag) is not None]
        lag = sum(lags) if lags else None
        return HandlerHealth(name=self.name, state=state, reason=reason, lag=lag)

    # Stopping

    @property
    def is_being_stopped(self) -> bool:
        """Whether whoever cancels a worker now means to end it."""
        return self.is_stopping or self.scope.supervisor.is_being_cancelled

    @property
    def tasks(self) -> Iterable[asyncio.Task[None]]:
        """The workers' tasks."""
        return self._workers.keys()

    def stop_starting(self) -> None:
        """Start nothing more: what waits is given back."""
        self.endings.release_waiting()
        self.jobs.look_whether_idle()

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
        for burying, job in self.endings.abandon_burials(pending):
            self.scope.note_abandoned(burying, job)
        ending: set[asyncio.Task[Any]] = set()
        for task, worker in tuple(self._workers.items()):
            if task not in pending or worker.abandoned:
                continue
            held = worker.job
            worker.abandon()
            self.endings.abandon(worker.batch or ([] if held is None else [held]))
            self.scope.note_abandoned(task, held)
            if worker.thread is not None:
                task.cancel()
                ending.add(task)
        return ending

    def let_go(self) -> asyncio.Task[None] | None:
        """Let the resource close; returns the task that does it."""
        if self._leave is not None and not self._leave.done():
            self._leave.set_result(None)
        return self._keeper if self._keeper is not None and not self._keeper.done() else None
