"""The planted bugs: each is one exact replacement in one file of the package.

They are of the kind that this sort of code has had elsewhere: a count in the wrong place, a
turn that is lost, a cancellation that is swallowed, something of one event seen by the next.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("MUTANTS", "Mutant")


@dataclass(frozen=True)
class Mutant:
    """One bug.

    Attributes:
        name: What it does wrong, in a few words.
        path: File below ``eventflow/``.
        old: Text that is there exactly once.
        new: What stands there instead.
    """

    name: str
    path: str
    old: str
    new: str

    @property
    def area(self) -> str:
        """The part of the package, which has its tests under the same name."""
        return self.path.partition("/")[0].removesuffix(".py")


MUTANTS = (
    # -------------------------------------------------------------------------- lifecycle
    Mutant(
        "missing uncancel",
        "lifecycle/attempt.py",
        "        for _ in range(fired):\n            self.task.uncancel()\n",
        "",
    ),
    Mutant(
        "a timeout leaves its timer to the next attempt",
        "lifecycle/attempt.py",
        "            self.timer.cancel()\n            self.timer = None\n",
        "            pass\n",
    ),
    Mutant(
        "a stop counts as a failed attempt",
        "lifecycle/attempt.py",
        "        if self.task.cancelling() > self.base:\n",
        "        if self.task.cancelling() > self.base + 100:\n",
    ),
    Mutant(
        "a worker that ended leaves its timer behind",
        "lifecycle/attempt.py",
        "            self.timer.cancel()\n        self.timer = NO_TIMER\n",
        "            pass\n        self.timer = NO_TIMER\n",
    ),
    Mutant(
        "a handler that swallows its timeout is not cancelled again",
        "lifecycle/attempt.py",
        "        self._arm_at(when + self._grace)\n",
        "        self.timer = None\n",
    ),
    Mutant(
        "time runs while an attempt waits for its retry",
        "bus/_worker.py",
        "        self._inbox.retried += 1\n        self.paused = True\n",
        "        self._inbox.retried += 1\n        self.paused = False\n",
    ),
    Mutant(
        "leaving swallows a cancellation",
        "lifecycle/supervisor.py",
        "        if cancelled is not None:\n            raise cancelled\n",
        "",
    ),
    Mutant(
        "closing a subscription swallows a cancellation",
        "bus/subscription.py",
        "        if cancelled is not None:\n            raise cancelled\n",
        "",
    ),
    Mutant(
        "a second cancellation does not come after the grace",
        "lifecycle/supervisor.py",
        "    for wait in (grace, LAST_WAIT_S):\n",
        "    for wait in (grace + LAST_WAIT_S,):\n",
    ),
    Mutant(
        "wait_for around the handler",
        "bus/_worker.py",
        "                        await call(item)\n",
        "                        await asyncio.wait_for(call(item), self._timeout)\n",
    ),
    Mutant(
        "a thread that timed out frees its slot",
        "bus/_worker.py",
        "        await self.thread_ended()\n        return True\n",
        "        self.thread = None\n        return True\n",
    ),
    Mutant(
        "a drain does not wait for a thread that timed out",
        "bus/_inbox.py",
        "self.turns or self.overdue or self.in_flight)\n",
        "self.turns or self.in_flight)\n",
    ),
    Mutant(
        "the grace does not wait for a thread that timed out",
        "bus/_scope.py",
        "        await self.wait_returned((c.inbox for c in consumers), until)\n",
        "",
    ),
    Mutant(
        "a subscription closed alone leaves a thread that timed out",
        "bus/_consumer.py",
        "        await scope.wait_returned((self.inbox,), until)\n",
        "",
    ),
    Mutant(
        "a worker that never waits lets nobody else run",
        "bus/_worker.py",
        "SLICE_S = 0.005\n",
        "SLICE_S = 1e9\n",
    ),
    # ------------------------------------------------------------------------------ service
    Mutant(
        "members are left in the order they were entered",
        "lifecycle/service.py",
        "        for held in reversed(self._held):\n",
        "        for held in self._held:\n",
    ),
    Mutant(
        "each member has a drain deadline of its own",
        "lifecycle/service.py",
        "                await self._leave(held, self._stop_began + self._drain_timeout)\n",
        "                await self._leave(held, self.loop.time() + self._drain_timeout)\n",
    ),
    Mutant(
        "the error of a failed member is swallowed",
        "lifecycle/service.py",
        "        if exc_type is None:\n            stay.raise_errors()\n",
        "",
    ),
    Mutant(
        "a member that ends by itself is not noticed",
        "lifecycle/service.py",
        "            if held.asked or self.supervisor.is_being_cancelled:\n",
        "            if held.is_inside or self.supervisor.is_being_cancelled:\n",
    ),
    Mutant(
        "a service that drains is ready",
        "lifecycle/service.py",
        '        self.state = "closing"\n',
        "",
    ),
    Mutant(
        "the ledger of what a member gave is not collected",
        "lifecycle/service.py",
        "(ledger_of(held.member) or ledger_of(held.value) for held in self._held)",
        "(ledger_of(held.member) for held in self._held)",
    ),
    Mutant(
        "a request to stop is forgotten when the start ends",
        "lifecycle/service.py",
        "            self._is_asked_to_stop = True\n",
        "            pass\n",
    ),
    Mutant(
        "a member that was given up is in no ledger",
        "lifecycle/service.py",
        "                self._given_up.append(held.name)\n",
        "",
    ),
    # -------------------------------------------------------------------------- command line
    Mutant(
        "exit 0 although handlers were abandoned",
        "cli/_serve.py",
        "        return 1 if self._is_incomplete() or failed else 0\n",
        "        self._is_incomplete()\n        return 1 if failed else 0\n",
    ),
    Mutant(
        "exit 0 although a member failed",
        "cli/_serve.py",
        "            failed = True\n",
        "",
    ),
    Mutant(
        "the second signal does nothing",
        "cli/_serve.py",
        "            else:\n                task.cancel()\n",
        "            elif count == 1:\n                task.cancel()\n",
    ),
    Mutant(
        "the ready file stays",
        "cli/_serve.py",
        "                self._ready_file.unlink()\n",
        "                pass\n",
    ),
    Mutant(
        "a signal before there is a loop is forgotten",
        "cli/_signals.py",
        "        if self.count:\n            tell(self.count)\n",
        "",
    ),
    Mutant(
        "a signal waits for the main thread",
        "cli/_exit.py",
        "        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)\n",
        "",
    ),
    Mutant(
        "a forked child's signals are taken for ours",
        "cli/_signals.py",
        "        self._guard.leave_signals()\n",
        "",
    ),
    Mutant(
        "a child that is being forked takes its parent's signals",
        "cli/_signals.py",
        "            before=self._before_fork,\n            after_in_parent=self._after_fork,\n"
        "            after_in_child=self._in_child,\n",
        "            after_in_child=self._guard.leave_signals,\n",
    ),
    Mutant(
        "a signal that somebody else handles is for us",
        "cli/_signals.py",
        " or signal.getsignal(number) != self._handle:\n",
        ":\n",
    ),
    Mutant(
        "a loop that hears no signal is not bounded",
        "cli/_serve.py",
        "            if unheard:\n                self._bound_the_stop(1)\n",
        "",
    ),
    Mutant(
        "a third signal waits for the main thread",
        "cli/_signals.py",
        "            self._guard.set_deadline(HEARD_S, 128 + number, _third)\n",
        "            self._notice(not self.count)\n",
    ),
    Mutant(
        "a service stops alone inside another",
        "lifecycle/service.py",
        "                if isinstance(held.value, Service):\n",
        "                if held.value is self:\n",
    ),
    Mutant(
        "nothing bounds what comes after the stop",
        "cli/_serve.py",
        "        self._guard.set_deadline(seconds, 1, _not_ending)\n",
        "",
    ),
    Mutant(
        "a worker that died is not replaced",
        "cli/_parent.py",
        "        slot.due = time.monotonic() + delay\n",
        "",
    ),
    Mutant(
        "a worker that can't start is tried for ever",
        "cli/_parent.py",
        "            slot.start_failures += 1\n",
        "",
    ),
    Mutant(
        "a signal reaches only the first worker",
        "cli/_parent.py",
        "        for child in self._children():\n            child.ask(max(",
        "        for child in self._children()[:1]:\n            child.ask(max(",
    ),
    # ------------------------------------------------------------------------------- logging
    Mutant(
        "bidi controls are not escaped",
        "_escape.py",
        "[c if c.isprintable() else repr(c)[1:-1] for c in text]",
        '[c if c.isprintable() or c > "\\x9f" else repr(c)[1:-1] for c in text]',
    ),
    Mutant(
        "a cause of an error is not shown",
        "_escape.py",
        "            chain.append((told.__cause__, _CAUSED))\n",
        "            break\n",
    ),
    Mutant(
        "a source line of a traceback is written as it is",
        "_escape.py",
        "            yield escaped(line)\n",
        "            yield line\n",
    ),
    Mutant(
        "only the first hundred ids are written",
        "_log.py",
        "        for start in range(0, len(event_ids), IDS_PER_LINE):\n",
        "        for start in range(0, min(len(event_ids), 1), IDS_PER_LINE):\n",
    ),
    Mutant(
        "an error's text forges lines where nothing is configured",
        "_log.py",
        "            record.exc_text = error_text(error)\n",
        "            pass\n",
    ),
    Mutant(
        "a log processor that fails stops the handler",
        "_log.py",
        '            complain(f"eventflow could not write its log line {event!r}:", exc)\n',
        "            raise exc\n",
    ),
    Mutant(
        "a processor that fails costs the line",
        "logging/_chain.py",
        "            return event_dict\n        finally:\n",
        "            raise\n        finally:\n",
    ),
    Mutant(
        "a closed stream stops whoever logs",
        "logging/_handler.py",
        "            self.handleError(record)\n        finally:\n",
        "            raise\n        finally:\n",
    ),
    Mutant(
        "lines that are about no event are held back",
        "logging/_handler.py",
        'cast("EventDict", facts).get("event_id") is not None',
        '"event_ids" not in facts',
    ),
    Mutant(
        "lines that one kind more drives out are lost",
        "logging/_repeats.py",
        "                due += self._end([next(iter(self._windows.values()))])\n",
        "                self._end([next(iter(self._windows.values()))])\n",
    ),
    Mutant(
        "a forked child writes what its parent held back",
        "logging/_handler.py",
        "        if os.getpid() != self._pid:\n",
        "        if not self._pid:\n",
    ),
    Mutant(
        "a line in a thread has no event id",
        "logging/_context.py",
        "    attempt = current_attempt()\n",
        "    import threading\n\n    name = threading.current_thread().name\n"
        '    attempt = current_attempt() if name == "MainThread" else None\n',
    ),
    # ------------------------------------------------------------------------------ counts
    Mutant(
        "drop on full unseen: neither counted nor logged",
        "bus/_inbox.py",
        "        else:\n            self.offered += 1\n            self._drop(item)\n",
        "        else:\n            return\n",
    ),
    Mutant(
        "a dropped event is counted but not logged",
        "bus/_inbox.py",
        '        self._reports.add("events_dropped", item)\n',
        "        pass\n",
    ),
    Mutant(
        "a released event is counted but not logged",
        "bus/_inbox.py",
        "            tell(item, done=self.unwanted)\n"
        '            self._reports.add("events_released", item)\n',
        "            tell(item, done=self.unwanted)\n",
    ),
    Mutant(
        "offered is counted in the wrong place: before there is room",
        "bus/_dispatch.py",
        "            if len(queue) < inbox.limit:\n"
        "                queue.append(item)\n"
        "                inbox.offered += 1\n",
        "            inbox.offered += 1\n"
        "            if len(queue) < inbox.limit:\n"
        "                queue.append(item)\n",
    ),
    Mutant(
        "failed is counted in the wrong place: at each attempt",
        "bus/_worker.py",
        "        self._inbox.retried += 1\n",
        "        self._inbox.retried += 1\n        self._inbox.failed += 1\n",
    ),
    Mutant(
        "an abandoned handler is counted again when it ends",
        "bus/_worker.py",
        "        if self.abandoned:\n"
        "            raise asyncio.CancelledError\n"
        "        inbox.failed += 1\n",
        "        inbox.failed += 1\n",
    ),
    Mutant(
        "a handler cut by a stop is not logged",
        "bus/_worker.py",
        '        log.warning(\n            "eventflow.handler_cancelled",\n',
        '        event or log.warning(\n            "eventflow.handler_cancelled",\n',
    ),
    # -------------------------------------------------------------------------- diagnostics
    Mutant(
        "the wait before a retry counts as the handler's time",
        "bus/_worker.py",
        "        if self._sampled is not None:\n            self._sampled = attempt.started\n",
        "",
    ),
    Mutant(
        "an idle worker times its wait",
        "bus/_worker.py",
        "                    item = self.attempt = self._sampled = None\n",
        "                    item = self.attempt = None\n",
    ),
    Mutant(
        "a pattern that ends in > fits its own stem",
        "bus/_explaining.py",
        "        if len(segments) <= len(wanted):\n",
        "        if len(segments) < len(wanted):\n",
    ),
    Mutant(
        "the watchdog writes at each look",
        "diagnostics.py",
        "            self._report_at = 2 * blocked\n",
        "",
    ),
    Mutant(
        "a loop that waits is sent a callback all the same",
        "diagnostics.py",
        "        if at.f_code is _RUN_ONCE:\n            return False\n",
        "",
    ),
    # ------------------------------------------------------------------- overflow and turns
    Mutant(
        "a free place wakes no publisher",
        "bus/_worker.py",
        "                if inbox.turns:\n                    inbox.admit()\n",
        "",
    ),
    Mutant(
        "publishers get their turn last in, first out",
        "bus/_inbox.py",
        "turns.popitem(last=False)",
        "turns.popitem(last=True)",
    ),
    Mutant(
        "a cancelled publisher stays in line",
        "bus/_dispatch.py",
        "            if wait is not None:\n                wait.cancel()\n            raise\n",
        "            raise\n",
    ),
    Mutant(
        "block_timeout never runs out",
        "bus/_turns.py",
        "loop.call_later(inbox.options.block_timeout, self._expired)",
        "loop.call_later(86400.0, self._expired)",
    ),
    Mutant(
        "a cycle of full buffers is not seen",
        "bus/_turns.py",
        "            return target in stuck\n",
        "            return False\n",
    ),
    Mutant(
        "RAISE refuses after the others have their copy",
        "bus/_dispatch.py",
        '            raise _full(event, full[0], "so nobody got it")\n',
        "            for inbox in inboxes:\n"
        "                if inbox.has_room:\n"
        "                    inbox.append(event)\n"
        '            raise _full(event, full[0], "so nobody got it")\n',
    ),
    Mutant(
        "KEEP_LATEST keeps the oldest",
        "bus/_inbox.py",
        "            replaced, place.item = place.item, item\n",
        "            replaced = item\n",
    ),
    Mutant(
        "publish is never a checkpoint",
        "bus/_dispatch.py",
        "            self._until_checkpoint = CHECKPOINT_EVERY\n"
        "            await asyncio.sleep(0)\n",
        "            self._until_checkpoint = CHECKPOINT_EVERY\n",
    ),
    Mutant(
        "a key function that fails keeps its place",
        "bus/_inbox.py",
        "                self._set_limit()\n                self.admit()",
        "                self._set_limit()\n                pass",
    ),
    # ------------------------------------------------------------------- order, lanes, routes
    Mutant(
        "two events of a key at once",
        "lifecycle/lanes.py",
        "        if lane is None:\n",
        "        if not lane:\n",
    ),
    Mutant(
        "a key stays busy for ever after its event was dropped",
        "lifecycle/lanes.py",
        "            self._ready.remove(number)\n            self.release(key)\n",
        "            self._ready.remove(number)\n",
    ),
    Mutant(
        "the latest is handled under the key of what it replaced",
        "bus/_inbox.py",
        "            if place.parked is not None and self.lanes is not None:\n",
        "            if place.parked is not None and self.lanes is None:\n",
    ),
    Mutant(
        "a subscriber of a base class gets no subclasses",
        "bus/matching.py",
        "        for base in event_class.__mro__:\n",
        "        for base in (event_class,):\n",
    ),
    Mutant(
        "an order key that fails takes the newer event with it",
        "bus/_inbox.py",
        "queue[0] is entry and (self._latest is None or entry.item is item)",
        "queue[0] is entry",
    ),
    # --------------------------------------------------------------------------- stop order
    Mutant(
        "a stop does not wait for handlers that run",
        "bus/_inbox.py",
        "self.turns or self.overdue or self.in_flight)\n",
        "self.turns or self.overdue)\n",
    ),
    Mutant(
        "a stop refuses handlers that publish while they finish",
        "bus/_scope.py",
        "            self._refuse(handlers=False)\n",
        "            self._refuse(handlers=False)\n            self.taking_in = False\n",
    ),
    Mutant(
        "a stop leaves the publishers of handlers waiting",
        "bus/_scope.py",
        "        self._refuse(handlers=True)\n",
        "        self._refuse(handlers=False)\n",
    ),
    Mutant(
        "a stop by an error drains all the same",
        "bus/_scope.py",
        "        if not aborting.done():\n"
        "            await self.wait_idle(self, deadline=self._drain_until, unless=aborting)\n",
        "        await self.wait_idle(self, deadline=self._drain_until)\n",
    ),
    Mutant(
        "a subscription that ends keeps its publishers waiting",
        "bus/_inbox.py",
        "            turn.settle()\n        self.release_all()\n",
        "        self.release_all()\n",
    ),
    # ------------------------------------------------------------------------------ context
    Mutant(
        "context leak to the next event",
        "bus/_worker.py",
        "                    if changed(self.context, before):\n                        break  #",
        "                    if self.abandoned:\n                        break  #",
    ),
    Mutant(
        "a task that a handler left behind sees the next event",
        "bus/_worker.py",
        "                    # Somebody keeps a copy of the context, and with it this cell.\n",
        "                    continue\n",
    ),
    Mutant(
        "a thread that outlives its bus waits for more work",
        "lifecycle/threads.py",
        "        for thread in (*idle, *self._busy.values()):\n",
        "        for thread in idle:\n",
    ),
    Mutant(
        "context leak to every worker",
        "lifecycle/supervisor.py",
        "        return self._context.copy()\n",
        "        return self._context\n",
    ),
    Mutant(
        "context leak to the next attempt",
        "bus/_worker.py",
        "            if changed(self.context, before):\n                self._hand_over((",
        "            if self.abandoned:\n                self._hand_over((",
    ),
    Mutant(
        "a variable bound to an equal value leaks",
        "lifecycle/worker.py",
        "        if context.get(variable, MISSING) is not value:\n",
        "        if context.get(variable, MISSING) != value:\n",
    ),
    Mutant(
        "an attempt in a fresh context counts twice",
        "bus/_worker.py",
        "                self._hand_over((self._key, item, number + 1))\n",
        "                self._hand_over((self._key, item, number + 2))\n",
    ),
    Mutant(
        "correlation starts anew at each hop",
        "_cause.py",
        "        correlation = "
        "(item.carried.correlation if isinstance(item, Carrier) else None) or causation\n",
        "        correlation = causation\n",
    ),
    # ------------------------------------------------------------------------------ failures
    Mutant(
        "one attempt too many",
        "failure.py",
        "        if attempt >= self.attempts or ",
        "        if attempt > self.attempts or ",
    ),
    Mutant(
        "Permanent is retried",
        "failure.py",
        "isinstance(error, (Permanent, *self.never))",
        "isinstance(error, self.never)",
    ),
    # -------------------------------------------------------------------------------- stream
    Mutant(
        "a stream counts an event as handled when it is handed out",
        "bus/stream.py",
        "                    self._held = taken[1]\n",
        "                    inbox.handled += 1\n",
    ),
    # -------------------------------------------------------------------------------- events
    Mutant(
        "shared mutable event",
        "events/event.py",
        "_CONFIG = ConfigDict(strict=True, frozen=True)\n",
        "_CONFIG = ConfigDict(strict=True, frozen=False)\n",
    ),
    Mutant(
        "int64 bound removed",
        "events/_leaves.py",
        '        "le": min(node.get("le", bound[1]), bound[1]),\n',
        '        **({"le": node["le"]} if "le" in node else {}),\n',
    ),
    Mutant(
        "RawJson reparsed on its way out",
        "events/_joining.py",
        "                members.append(key + bytes(value))\n",
        '                members.append(key + to_json(__import__("json").loads(bytes(value))))\n',
    ),
    Mutant(
        "id regenerated on copy",
        "events/event.py",
        "        _set_stamp(copied, time_ns() if update else _identity(self))\n",
        "        _set_stamp(copied, time_ns())\n",
    ),
    Mutant(
        "a mapping keeps the caller's dict",
        "events/mapping.py",
        "{} if items is None else dict(items))",
        "{} if items is None else items)",
    ),
    # ------------------------------------------------------- events that a bridge has brought
    Mutant(
        "an event that was handled is not told of",
        "bus/_worker.py",
        "                tell(item, done=True)\n",
        "                pass\n",
    ),
    Mutant(
        "a dropped event passes for done",
        "bus/_inbox.py",
        '        tell(item, done=False)\n        self._reports.add("events_dropped", item)\n',
        '        tell(item, done=True)\n        self._reports.add("events_dropped", item)\n',
    ),
    Mutant(
        "a handler that a stop cut passes for done",
        "bus/_worker.py",
        "        self.attempt = None\n        tell(item, done=False)\n",
        "        self.attempt = None\n        tell(item, done=True)\n",
    ),
    Mutant(
        "a policy that a stop cut short passes for done",
        "bus/_worker.py",
        "cut_short=delay is not None\n",
        "cut_short=False\n",
    ),
    Mutant(
        "a failure callback that failed passes for done",
        "bus/_worker.py",
        "                done = False\n",
        "                pass\n",
    ),
    Mutant(
        "an abandoned handler is not told of",
        "bus/_consumer.py",
        "                    tell(item, done=False)\n",
        "                    pass\n",
    ),
    Mutant(
        "a bridge acks before subscriptions are done",
        "messaging/bridge.py",
        "            await receipt.wait()\n",
        "            await asyncio.sleep(0)\n",
    ),
    Mutant(
        "a bridge acks what a subscription lost",
        "messaging/bridge.py",
        "            if not receipt.is_done:\n",
        "            if False and not receipt.is_done:\n",
    ),
    Mutant(
        "a bridge has a lost event at once, again and again",
        "messaging/bridge.py",
        "            delivery.nack(delay=delay)\n",
        "            delivery.nack()\n",
    ),
    Mutant(
        "an event that a bridge brought is forwarded",
        "messaging/bridge.py",
        "        elif carried.receipt is not None:\n            return\n",
        "",
    ),
    Mutant(
        "an event comes back to the bus that sent it",
        "messaging/bridge.py",
        "            if delivery.message.metadata.get(meta.FROM_BUS) == _mark(bus, event):\n",
        "            if delivery.message.metadata.get(meta.FROM_BUS) == origin_of(bus):\n",
    ),
    Mutant(
        "a dead letter keeps what a decorator made of the message",
        "messaging/dead_letter.py",
        "    original = delivery.original\n",
        "    original = delivery.message\n",
    ),
    Mutant(
        "one that is done hides one that lost it",
        "_cause.py",
        "        self.is_done = self.is_done and done\n",
        "        self.is_done = done\n",
    ),
    # ----------------------------------------------------------------------------- messaging
    Mutant(
        "ack before the handler",
        "messaging/_worker.py",
        "                try:\n                    if plain is not None:\n",
        "                job.ack()\n"
        "                try:\n                    if plain is not None:\n",
    ),
    Mutant(
        "a failed attempt is acked",
        "messaging/_endings.py",
        "        if delay is None:\n            self._give_up(",
        "        job.ack()\n        if delay is None:\n            self._give_up(",
    ),
    Mutant(
        "a handler that was cut is acked",
        "messaging/_endings.py",
        '        """A stop cut its attempt: it comes again."""\n',
        '        """A stop cut its attempt: it comes again."""\n        job.ack()\n',
    ),
    Mutant(
        "the dead letter is stored after the ack",
        "messaging/_burial.py",
        "            await runner.dead_letters_of(job.reader).publish(topic, letter)\n",
        "            job.ack()\n"
        "            await runner.dead_letters_of(job.reader).publish(topic, letter)\n",
    ),
    Mutant(
        "a dead letter that can't be stored is given up",
        "messaging/_burial.py",
        "            self._report(failure, wait)\n",
        "            self._report(failure, wait)\n            self.is_done = True\n"
        "            return\n",
    ),
    Mutant(
        "a dead letter that can't be stored pauses nobody",
        "messaging/_burial.py",
        "            runner.pause(self, f\"message {job.message.id!r} can't be ended: ",
        "            str(f\"message {job.message.id!r} can't be ended: ",
    ),
    Mutant(
        "a dead letter has the event as it was understood",
        "messaging/dead_letter.py",
        "    return Message.received(original.id, original.payload, texts,",
        '    return Message.received(original.id, original.payload.strip() or b"{}", texts,',
    ),
    Mutant(
        "a dead letter begins where the retries ended",
        "messaging/dead_letter.py",
        "    stale = (meta.FAILURES, meta.DELAYED_UNTIL, meta.DELAYED_FOR)\n",
        "    stale = (meta.DELAYED_UNTIL, meta.DELAYED_FOR)\n",
    ),
    Mutant(
        "recorded failures start anew with each delivery",
        "messaging/_runner.py",
        "job.in_lane = reader, job.failures + 1, False\n        if job.deliveries",
        "job.in_lane = reader, 1, False\n        if job.deliveries",
    ),
    Mutant(
        "a foreign count of failures is trusted",
        "messaging/metadata.py",
        "value.isascii() and value.isdigit()",
        'value.lstrip("-").isdigit()',
    ),
    Mutant(
        "outputs are published after the ack",
        "messaging/_handling.py",
        "            await self._outputs.publish(given, delivery)\n",
        "            delivery.ack()\n            await self._outputs.publish(given, delivery)\n",
    ),
    Mutant(
        "an output loses what caused it",
        "messaging/_outputs.py",
        "        return message.copy(metadata={**causes, **message.metadata})\n",
        "        return message\n",
    ),
    Mutant(
        "any class is read, whatever the name",
        "messaging/_reader.py",
        "            bound = by_name.get(name) if name is not None else self._only()\n",
        '            bound = by_name.get(name or "") or self._only()\n',
    ),
    Mutant(
        "what is unknown is skipped unasked",
        "messaging/_reader.py",
        'if runner.options.unknown == "skip"]',
        'if runner.options.unknown != "skip" or True]',
    ),
    Mutant(
        "a crash guard that never trips",
        "messaging/_runner.py",
        "            if job.deliveries - job.failures > self.options.max_deliveries:\n",
        "            if job.deliveries - job.failures > 10**9:\n",
    ),
    Mutant(
        "a retry leaves its lane",
        "messaging/_endings.py",
        "        job.number += 1\n        if through_broker:",
        "        job.number += 1\n        if job.in_lane:\n"
        "            self._jobs._leave_lane(job)\n        if through_broker:",
    ),
    Mutant(
        "a retry lets those behind it pass",
        "messaging/_jobs.py",
        "            self.held[id(job)] = None\n",
        "            pass\n",
    ),
    Mutant(
        "who was held up by a retry is not woken",
        "messaging/_jobs.py",
        "        self.wake()  # also for those that it held up\n",
        "        if job in self._due:\n            self.wake()\n",
    ),
    Mutant(
        "a link that broke leaves its messages to be handled",
        "messaging/_jobs.py",
        "            if job.state is _PENDING:\n                self.in_flight += 1\n",
        "            if job.state is not None:\n                self.in_flight += 1\n",
    ),
    Mutant(
        "an ack that came too late counts as handled",
        "messaging/_endings.py",
        "        if job.ack():\n            self.handled += 1\n",
        "        if job.ack() or True:\n            self.handled += 1\n",
    ),
    Mutant(
        "what waits for a handler that stops is kept",
        "messaging/_endings.py",
        "        for job in unstarted:\n            job.release()\n",
        "",
    ),
    Mutant(
        "what comes for a handler that was stopped is unknown",
        "messaging/_reader.py",
        "        self._gone |= self._by_name.keys() - kept.keys()\n",
        "",
    ),
    Mutant(
        "a handler that was stopped pauses its neighbours for ever",
        "messaging/_reader.py",
        "            self._start_again()\n        self.adjust()\n",
        "            self._start_again()\n",
    ),
    Mutant(
        "a successor reads what its predecessor leaves",
        "messaging/_scope.py",
        "                    self._readers.pop((reader.subscriber, reader.topic), None)\n",
        "",
    ),
    Mutant(
        "the counts of a handler that was stopped are forgotten",
        "messaging/_scope.py",
        "        self._gone[runner.name] = self._row(runner.name, (runner,))\n",
        "",
    ),
    Mutant(
        "a stop cuts a dead letter on its way",
        "messaging/_scope.py",
        "        if under_way and (left := until - self.loop.time()) > 0:\n",
        "        if under_way and (left := until - self.loop.time()) > 1e9:\n",
    ),
    Mutant(
        "a validator that raises no Exception ends the reader",
        "messaging/_reader.py",
        "            except BaseException as exc:\n"
        "                # No cancellation comes in here, since nothing is awaited.\n",
        "            except Exception as exc:\n"
        "                # No cancellation comes in here, since nothing is awaited.\n",
    ),
    Mutant(
        "a message that is in a batch twice fails once",
        "messaging/batch.py",
        "        return found\n",
        "        return found[:1]\n",
    ),
    Mutant(
        "a message that a decorator refused reaches a handler of messages",
        "messaging/_reader.py",
        "            except Exception as exc:  # noqa: BLE001 - the user's own\n"
        "                runner.refuse(delivery, self, exc)\n",
        "            except Exception:  # noqa: BLE001 - the user's own\n"
        "                runner.offer(delivery, self)\n",
    ),
    Mutant(
        "dead letters go to the broker of the message alone",
        "messaging/_runner.py",
        "        return self.binding.dead_letters.publisher or reader.publisher\n",
        "        return reader.publisher\n",
    ),
    Mutant(
        "a handler that cancels itself is taken for one that is stopped",
        "messaging/_worker.py",
        "            if self._runner.is_being_stopped:\n                endings.cut(job)\n",
        "            if not self.abandoned:\n                endings.cut(job)\n",
    ),
    Mutant(
        "an error that time does not mend is tried again",
        "failure.py",
        "        if not isinstance(error, self.on) or self._is_hopeless(error):\n",
        "        if not isinstance(error, self.on):\n",
    ),
    Mutant(
        "a subscription is left while another handler that stops has some of it",
        "messaging/_scope.py",
        "not reader.runners and reader not in others",
        "not reader.runners",
    ),
    Mutant(
        "what comes for a handler that was stopped is given back for ever",
        "messaging/_reader.py",
        "        if came > neighbour.options.max_deliveries:\n            return False\n",
        "",
    ),
    Mutant(
        "a kept cell gets the next message",
        "messaging/_worker.py",
        "                    or references(cell) != of_cell\n",
        "                    or self.abandoned\n",
    ),
    Mutant(
        "a copied context gets the next message",
        "messaging/_worker.py",
        "                    references(tree) != of_tree\n",
        "                    self.abandoned\n",
    ),
    Mutant(
        "a context is used again by the next message",
        "messaging/_worker.py",
        "                    if changed(self.context, before):\n"
        "                        self.replaced = True\n"
        "                        self.attempt = None\n",
        "                    if self.abandoned:\n"
        "                        self.replaced = True\n"
        "                        self.attempt = None\n",
    ),
    Mutant(
        "subscriptions are left before the handlers end",
        "messaging/_scope.py",
        "        await self.end(runners, until=until)\n        if self._stopping:\n",
        "        for reader in self._readers.values():\n            reader.leave()\n"
        "        await self.end(runners, until=until)\n        if self._stopping:\n",
    ),
    Mutant(
        "a router does not wait for a thread that timed out",
        "messaging/_scope.py",
        "        if overdue and (left := until",
        "        if not overdue and (left := until",
    ),
    Mutant(
        "a probe opens what somebody else has paused",
        "messaging/_pauses.py",
        "        return not all(self._probes.get(by) for by in self.reasons)\n",
        "        return not any(self._probes.get(by) for by in self.reasons)\n",
    ),
    Mutant(
        "the first decision does not stand",
        "messaging/settlement.py",
        "        if self.state is _PENDING:\n            self.state = _NACKED\n",
        "        if self.state is not _NACKED:\n            self.state = _NACKED\n",
    ),
    Mutant(
        "an item that failed is handled with its batch",
        "messaging/_worker.py",
        "                    error = batch.outcome(place, failure)\n",
        "                    error = failure\n",
    ),
    Mutant(
        "a message's metadata can be changed",
        "messaging/message.py",
        "        __setitem__ = __delitem__ = __ior__ = _refuse\n",
        "        __delitem__ = __ior__ = _refuse\n",
    ),
    # ------------------------------------------------------------------------------- brokers
    Mutant(
        "a message that is given back counts as delivered",
        "brokers/memory/_log.py",
        "        self._put_back(delivery, due).deliveries -= 1\n",
        "        self._put_back(delivery, due)\n",
    ),
    Mutant(
        "leaving a subscription forgets what is unsettled",
        "brokers/memory/subscriber.py",
        "                    self._group.give_back(delivery)\n",
        "                    self._group.ack(delivery)\n",
    ),
    Mutant(
        "a nack frees the key",
        "brokers/memory/_log.py",
        "        if due is None:\n            heapq.heappush(self._again, delivery.offset)\n",
        "        if due is None:\n            heapq.heappush(self._again, delivery.offset)\n"
        "        if again.has_lane:\n            again.has_lane = False\n"
        "            self._lanes.release(delivery.original.key)\n",
    ),
    Mutant(
        "a full topic drops what a group still needs",
        "brokers/memory/_log.py",
        "        self.room_until = self.end + self._capacity - most\n",
        "        self.room_until = self.end + 2 * self._capacity - most\n",
    ),
    Mutant(
        "a paused subscription spins",
        "brokers/memory/subscriber.py",
        "            until = None\n",
        "            until = self._group.next_due\n",
    ),
    # ------------------------------------------------------------------------------- testing
    Mutant(
        "the clock advances while a thread is out",
        "testing/virtual_clock.py",
        "        return self._holds + busy_anyio_workers(self)\n",
        "        return 0 * busy_anyio_workers(self)\n",
    ),
    Mutant(
        "the leak check sees no tasks",
        "testing/leaks.py",
        "            for task in asyncio.all_tasks(loop) - self.tasks - own\n",
        "            for task in self.tasks - self.tasks - own\n",
    ),
    Mutant(
        "the stepper skips the moment in which results get lost",
        "testing/cancellation.py",
        '] = ("suspended", "resuming")\n',
        '] = ("suspended",)\n',
    ),
)
