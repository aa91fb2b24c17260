"""A subscription that a router keeps: it receives, decodes, and hands on to the handlers."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

from eventflow._log import EventLogger, shown
from eventflow.errors import (
    BrokerClosedError,
    ConfigurationError,
    EventFlowError,
    RouterError,
    UnknownEventError,
)
from eventflow.events import Event, event_name
from eventflow.failure import Log
from eventflow.messaging.codec import JsonCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventflow.messaging._runner import Runner
    from eventflow.messaging._scope import Scope
    from eventflow.messaging.delivery import Delivery
    from eventflow.messaging.features import Features
    from eventflow.messaging.protocols import Deliveries, Publisher, Subscriber

__all__ = ("Reader",)

log = EventLogger("eventflow.router")

RECEIVE = 100
"""Deliveries that are asked for at once: few enough to be handled while the caches have them."""

SLICE_S = 0.005
LOOK_UP_EVERY = 16

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

GIVEN_BACK_S = (1, 2, 5, 10, 20, 30)
"""Until a message comes again whose handler was stopped while others read its topic."""

_SHOWN = 80


class Reader:
    """Reads one topic through one subscriber, for the handlers that are bound to it there.

    Attributes:
        subscriber: How it reads.
        topic: What it reads.
        publisher: To the broker it reads from.
        runners: The handlers it reads for.
        state: ``starting``, ``running``, ``reconnecting``, ``failed`` or ``stopped``.
        reason: Why it is not running.
        first: Done when it has subscribed, or can't.
    """

    def __init__(self, subscriber: Subscriber, topic: str, scope: Scope) -> None:
        self.subscriber = subscriber
        self.topic = topic
        self.features: Features = subscriber.features
        self.publisher: Publisher = subscriber.publisher()
        self.state = "starting"
        self.reason = ""
        self.first: asyncio.Future[None] = scope.loop.create_future()
        self._scope = scope
        self._codec = scope.codec
        self.runners: tuple[Runner, ...] = ()
        self._by_name: dict[str, tuple[Runner, Callable[..., Event]]] = {}
        self._raw: Runner | None = None
        self._gone: frozenset[str] = frozenset()
        self._admissions: dict[Runner, asyncio.Task[None]] = {}
        # Made when they are needed: a router may have many readers.
        self._up: asyncio.Event | None = None
        self._leave: asyncio.Future[None] | None = None
        self._deliveries: Deliveries | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self._receives = False
        self._since = 0.0

    @property
    def problem(self) -> str:
        """Why nothing comes at present, as far as the backend knows."""
        return "" if self._deliveries is None else self._deliveries.problem

    @property
    def lag(self) -> int | None:
        """How many messages it could still get, as far as was heard."""
        return None if self._deliveries is None else self._deliveries.lag

    # What is bound to it

    def bind(self, runner: Runner) -> asyncio.Future[None]:
        """Let a handler have what it is bound to. Returns what is done when it receives."""
        if runner.binding.takes_message:
            self._raw = runner
        self.runners = (*self.runners, runner)
        self._warn_of(runner)
        for event in runner.binding.events:
            if event.topic == self.topic:
                # Looked up once: pydantic makes each look-up on a class a slow one.
                read = (
                    event.from_json
                    if isinstance(self._codec, JsonCodec)
                    else partial(self._codec.decode, event)
                )
                name = event_name(event)
                self._by_name[name] = (runner, read)
                self._gone -= {name}
        runner.readers += (self,)
        if self._task is None:
            return self.first
        # It reads already: nothing is received until the newcomer's dead letters are safe.
        admitted: asyncio.Future[None] = self._scope.loop.create_future()
        runner.pause(self, f"finding out whether dead letters of {self.topic!r} can be stored")
        self._start_again()
        self._admissions[runner] = self._scope.supervisor.spawn(
            self._admit(runner, admitted), f"admit:{runner.name}"
        )
        return admitted

    def _warn_of(self, runner: Runner) -> None:
        """An attempt may take longer than the broker waits: it would come again and again."""
        within, timeout = self.features.settle_within, runner.timeout
        if within is not None and (timeout is None or timeout >= within):
            log.warning(
                "eventflow.handler_may_be_cut",
                router=self._scope.name,
                handler=runner.name,
                topic=self.topic,
                timeout_s=timeout,
                settle_within_s=within,
            )

    async def _admit(self, runner: Runner, admitted: asyncio.Future[None]) -> None:
        wait = FIRST_WAIT_S
        try:
            while True:
                try:
                    await self._prepare_dead_letters(runner)
                    if not self.first.done():
                        await asyncio.shield(self.first)
                    await self._wait_up()
                except Exception as exc:  # noqa: BLE001 - judged in _report
                    if not self._report(exc, wait):
                        runner.fail(exc)
                        self.unbind(runner)
                        admitted.set_exception(exc)
                        admitted.exception()  # raised by whoever waits
                        return
                else:
                    admitted.set_result(None)
                    runner.resume(self)
                    return
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - not for secrets
                wait = min(wait * 2, LONGEST_WAIT_S)
        finally:
            self._admissions.pop(runner, None)
            self._end_wait(admitted)

    async def _wait_up(self) -> None:
        """Wait until it receives."""
        while self._deliveries is None:
            self._up = self._up or asyncio.Event()
            await self._up.wait()

    def _end_wait(self, waited: asyncio.Future[None]) -> None:
        """Whoever waits for what will not be any more is told."""
        if not waited.done():
            waited.set_exception(
                RouterError(f"nothing receives {self.topic!r} here any more: it was stopped")
            )
            waited.exception()  # raised by whoever waits

    def unbind(self, runner: Runner) -> None:
        """Forget a handler that stops, or can't run; what comes for it is given back."""
        admission = self._admissions.get(runner)
        if admission is not None and admission is not asyncio.current_task():
            admission.cancel()
        kept = {n: b for n, b in self._by_name.items() if b[0] is not runner}
        self._gone |= self._by_name.keys() - kept.keys()
        self._by_name = kept
        if self._raw is runner:
            self._raw = None
        self.runners = tuple(other for other in self.runners if other is not runner)
        if self.runners:
            self._start_again()
        self.adjust()

    def _start_again(self) -> None:
        """Subscribe once more where that has failed for good: others read now."""
        if self.state == "failed" and not self._is_ending:
            self.state, self.reason = "starting", ""
            self.first = self._scope.loop.create_future()
            self.start()

    # Reading

    def start(self) -> None:
        """Subscribe, in a task of its own."""
        self._task = self._scope.supervisor.spawn(self._run(), f"read:{self.topic}")

    async def _run(self) -> None:
        wait = FIRST_WAIT_S
        try:
            while True:
                problem: BaseException
                try:
                    await self._subscribe()
                    return
                except Exception as exc:  # noqa: BLE001 - judged below
                    problem = exc
                if self._is_ending:
                    return
                if self.state == "running" and self._scope.loop.time() - self._since > wait:
                    wait = FIRST_WAIT_S  # it held for longer than it took to come back
                self.reason = shown(problem)
                if not self.first.done():
                    self.first.set_exception(problem)
                    self.first.exception()  # raised by whoever waits
                retriable = self._report(problem, wait)
                self.state = "reconnecting" if retriable else "failed"
                if not retriable:
                    return
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - not for secrets
                wait = min(wait * 2, LONGEST_WAIT_S)
        finally:
            if self._is_ending:
                self.state = "stopped"
            self._end_wait(self.first)

    def _report(self, problem: Exception, wait: float) -> bool:
        """Log why it does not receive. Whether trying again may help."""
        retriable = not isinstance(problem, EventFlowError) or (
            problem.retriable and not isinstance(problem, BrokerClosedError)
        )
        log.error(
            "eventflow.subscription_failed",
            error=problem,
            router=self._scope.name,
            topic=self.topic,
            retried_in_s=round(wait, 3) if retriable else None,
        )
        return retriable

    async def _subscribe(self) -> None:
        runners = self.runners
        for runner in runners:
            await self._prepare_dead_letters(runner)
        bounds = [r.options.max_in_flight for r in runners if r.options.max_in_flight]
        async with self.subscriber.subscribe(
            self.topic,
            max_in_flight=sum(bounds) if len(bounds) == len(runners) else None,
            concurrency=sum(runner.options.in_hand for runner in runners),
        ) as deliveries:
            self._deliveries = deliveries
            self.state, self.reason, self._since = "running", "", self._scope.loop.time()
            if not self.first.done():
                self.first.set_result(None)
            if self._up is not None:
                self._up.set()
            self.adjust()
            try:
                await self._receive(deliveries)
                # What is in the handlers' hands is settled before the subscription is left.
                await asyncio.shield(self._leaving())
            finally:
                self._deliveries = None
                self._up = None

    async def _prepare_dead_letters(self, runner: Runner) -> None:
        """Find out now, and not when something has failed, whether dead letters can be stored."""
        if isinstance(runner.options.on_failure.then, Log):
            return
        publisher = runner.dead_letters_of(self)
        ours, theirs = self.features.max_payload_bytes, publisher.features.max_payload_bytes
        if theirs is not None and (ours is None or theirs < ours):
            raise ConfigurationError(
                f"dead letters of {self.topic!r} can be too large for where they go: it takes "
                f"{theirs:,} bytes, and the topic's messages may have "
                f"{'any number' if ours is None else f'{ours:,}'}"
            )
        await publisher.prepare(runner.binding.dead_letters.topic_for(self.topic))

    async def _receive(self, deliveries: Deliveries) -> None:
        loop = self._scope.loop
        task = asyncio.current_task()
        assert task is not None
        while not self._is_ending:
            self._receives = True
            try:
                batch = await deliveries.receive(RECEIVE)
            except asyncio.CancelledError:
                if not self._is_ending or task.uncancel():
                    raise
                return
            finally:
                self._receives = False
            if not batch:
                if self._is_ending:
                    return
                # The broker was closed under the router: nothing more will come.
                self.state, self.reason = "failed", "the broker was closed"
                return
            slice_end = loop.time() + SLICE_S
            for at in range(0, len(batch), LOOK_UP_EVERY):
                if at and loop.time() >= slice_end:
                    await asyncio.sleep(0)
                    if self._is_ending:
                        return  # the rest is given back with the subscription
                    slice_end = loop.time() + SLICE_S
                self._dispatch(batch[at : at + LOOK_UP_EVERY])
            await asyncio.sleep(0)

    def _dispatch(self, deliveries: Sequence[Delivery]) -> None:
        """Hand on some of what came, which takes little time and waits for nothing."""
        if self._raw is not None:
            self._hand_on(self._raw, deliveries)
            return
        by_name = self._by_name
        for delivery in deliveries:
            name, message_id, occurred_at, body = delivery.head()
            bound = by_name.get(name) if name is not None else self._only()
            if bound is None:
                self._unknown(delivery, name or "")
                continue
            runner, read = bound
            try:
                if body is None:
                    body = delivery.message.payload  # a decorator's error comes out here
                event = read(body, event_id=message_id, occurred_at=occurred_at)
            except BaseException as exc:
                # No cancellation comes in here, since nothing is awaited.
                runner.refuse(delivery, self, exc)
                if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                    raise
            else:
                delivery.event = event
                runner.offer(delivery, self)

    def _hand_on(self, runner: Runner, deliveries: Sequence[Delivery]) -> None:
        """Give messages to a handler that takes them as they came."""
        for delivery in deliveries:
            try:
                delivery.message.payload  # noqa: B018 - a decorator's error comes out here
            except Exception as exc:  # noqa: BLE001 - the user's own
                runner.refuse(delivery, self, exc)
            else:
                runner.offer(delivery, self)

    def _only(self) -> tuple[Runner, Callable[..., Event]] | None:
        """The class that a message without a name is of: the only one there is."""
        if len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        return None

    def _unknown(self, delivery: Delivery, name: str) -> None:
        runners = sorted(self.runners, key=lambda runner: runner.name)
        if not runners:
            delivery.release()  # its handlers were stopped
            return
        if name in self._gone and self._give_back(delivery, runners[0]):
            return
        skipping = [runner for runner in runners if runner.options.unknown == "skip"]
        if skipping:
            skipping[0].skip(delivery)
            return
        shown_name = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
        known = ", ".join(sorted(self._by_name))
        runners[0].refuse(
            delivery,
            self,
            UnknownEventError(
                f"no class bound to topic {self.topic!r} here goes by the name {shown_name!r}; "
                f"known are: {known}. Where others' events are to be passed over, say "
                'unknown="skip"',
                topic=self.topic,
                message_id=delivery.message.id,
                name=shown_name,
            ),
        )

    def _give_back(self, delivery: Delivery, neighbour: Runner) -> bool:
        """Leave a message for another member, or for the next handler; not for ever, though.

        Where the broker can't wait, or can't count, it is unknown at once.
        """
        came = delivery.deliveries
        if not self.features.nack_delay or came is None:
            return False
        if came > neighbour.options.max_deliveries:
            return False
        neighbour.pass_over(delivery, delay=GIVEN_BACK_S[min(came, len(GIVEN_BACK_S)) - 1])
        return True

    # Pausing and stopping

    def adjust(self) -> None:
        """Receive, or don't, as the handlers say: one that is paused pauses the topic.

        Without any there is nobody to receive for.
        """
        deliveries = self._deliveries
        if deliveries is not None:
            if not self.runners or any(runner.is_paused for runner in self.runners):
                deliveries.pause()
            else:
                deliveries.resume()

    def stop_receiving(self) -> None:
        """Take nothing in any more; what was received stays until `leave`."""
        if self._is_ending:
            return
        self._is_ending = True
        task = self._task
        if task is not None and not task.done() and (self._receives or self._deliveries is None):
            task.cancel()

    def leave(self) -> asyncio.Task[None] | None:
        """Leave the subscription; returns the task that does it."""
        self.stop_receiving()
        if not self._leaving().done():
            self._leaving().set_result(None)
        return self._task

    def _leaving(self) -> asyncio.Future[None]:
        """Done when it may leave; one for all times that it has subscribed."""
        self._leave = self._leave or self._scope.loop.create_future()
        return self._leave

    def has_more(self, until: float) -> bool:
        """Whether, as far as is known, something may be received before loop time ``until``."""
        deliveries = self._deliveries
        if deliveries is None or self.state != "running":
            return False
        if any(runner.is_paused for runner in self.runners):
            return False
        if self._gone:
            until = self._scope.loop.time()  # what is given back, and comes again, is for others
        # Where it does not wait for more, it has some in its hands.
        return not self._receives or deliveries.has_more(until)
