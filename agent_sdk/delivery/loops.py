"""The two threads of a pipeline: what wakes them, what they do in what order, and when they end."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator, Sequence

from agent_sdk.delivery.buffer import Buffer
from agent_sdk.delivery.ledger import BUFFER_FULL, Ledger
from agent_sdk.delivery.log import say
from agent_sdk.delivery.sender import READY_BYTES, Queue, Sender
from agent_sdk.delivery.settings import Delivery
from agent_sdk.delivery.threads import LOADING, Signal, start_thread
from agent_sdk.delivery.writer import Note, Writer, heartbeat, loss

_FOREVER = 3600.0
_ADOPT_EVERY = 30.0
_PAUSE_AFTER_FAILURE = 1.0
_RUNS_IN_A_HEARTBEAT = 1000


class WriterLoop:
    """Commits the buffer every ``commit_interval`` while records flow, and reports what is open or was lost."""

    def __init__(self, writer: Writer, buffer: Buffer, ledger: Ledger, delivery: Delivery) -> None:
        self.signal = Signal()
        #: Nobody will look at the buffer before the signal is set.
        self.idle = False
        self.running = False
        self.stopping = False
        self.reporters: list[Any] = []
        self.after_commit: Callable[[], None] = lambda: None
        self.ledger_counts: Callable[[], Any] = dict
        self._writer = writer
        self._buffer = buffer
        self._ledger = ledger
        self._delivery = delivery
        self._refusals_counted = 0
        self._next_report = 0.0
        self._next_heartbeat = 0.0

    def start(self) -> bool:
        """Start the thread, unless it runs; false where the interpreter gives none any more."""
        if not self.running:
            self.running = True
            self.running = _started(self._run, "agent-sdk writer")
        return self.running

    def _run(self) -> None:
        self._writer.prepare()
        while not self.stopping:
            try:
                self._rest()
                self.turn(time.monotonic())
            except Exception as error:
                say("writer", f"the writer has failed and goes on: {type(error).__name__}: {error}")
                self.signal.wait(_PAUSE_AFTER_FAILURE)
        self.running = False

    def _rest(self) -> None:
        """Sleep until something is recorded or due, then give the group a moment to fill."""
        self.idle = True
        if not len(self._buffer):
            self.signal.wait(self._seconds_until_due())
        self.idle = False
        if len(self._buffer) and not self.stopping:
            self.signal.wait(self._delivery.commit_interval)

    def _seconds_until_due(self) -> float:
        if self._ledger.has_unreported or any(reporter.busy for reporter in self.reporters):
            return self._delivery.flush_interval
        return _FOREVER

    def turn(self, now: float) -> None:
        """One commit, with the reports that are due."""
        if now >= self._next_report:
            self._next_report = now + self._delivery.flush_interval
            self._report(now)
        self._writer.commit()
        self.after_commit()

    def _report(self, now: float) -> None:
        for reporter in list(self.reporters):
            for record in reporter.report(time.time_ns()):
                self._buffer.append(record)
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._delivery.heartbeat_interval
            for note in self._heartbeats():
                self._buffer.put(note)
        self.report_losses()

    def _heartbeats(self) -> Iterator[Note]:
        runs = [run_id for reporter in list(self.reporters) for run_id in reporter.open_runs()]
        for start in range(0, len(runs), _RUNS_IN_A_HEARTBEAT):
            part = runs[start : start + _RUNS_IN_A_HEARTBEAT]
            yield heartbeat(part, self._delivery.heartbeat_interval, self.ledger_counts())

    def report_losses(self) -> None:
        """Tell the destination what was dropped since the last time."""
        self.count_refusals()
        for reason, count in self._ledger.take_unreported().items():
            self._buffer.put(loss(reason, count))

    def count_refusals(self) -> None:
        """Bring into the ledger what found no room in the buffer."""
        refused = self._buffer.refused - self._refusals_counted
        if refused:
            self._refusals_counted += refused
            self._ledger.drop(BUFFER_FULL, refused)
            say("buffer", "records come faster than they can be written: some are dropped and counted")


class SenderLoop:
    """Gives the sender its turns, and its idle time to what dead processes left."""

    def __init__(self, sender: Sender, queues: Callable[[], Sequence[Queue]], delivery: Delivery) -> None:
        self.signal = Signal()
        #: Nothing waited at the last look.
        self.idle = True
        self.running = False
        self.stopping = False
        #: Deliver without waiting for more until this time (``time.monotonic()``), and not beyond ``deadline``.
        self.eager_until = 0.0
        self.deadline = float("inf")
        self.adopt: Callable[[], list[Queue]] = list
        #: Set once nobody uses the pipeline any more: what the thread does last.
        self.retire: Callable[[], None] | None = None
        self._listeners: list[Signal] = []
        self._sender = sender
        self._queues = queues
        self._adopted: list[Queue] = []
        self._next_adoption = 0.0
        self._delivery = delivery

    def start(self) -> bool:
        """Start the thread, unless it runs; false where the interpreter gives none any more."""
        if not self.running:
            self.running = True
            self.running = _started(self._run, "agent-sdk sender")
        return self.running

    def listen(self) -> Signal:
        """A signal that is set after each turn."""
        listener = Signal()
        self._listeners.append(listener)
        return listener

    def unlisten(self, listener: Signal) -> None:
        """End what ``listen`` began."""
        self._listeners.remove(listener)

    def nudge(self, waiting_bytes: int) -> None:
        """Records have been committed."""
        if self.idle or waiting_bytes >= READY_BYTES:
            self.idle = False
            self.signal.set()

    def _run(self) -> None:
        with LOADING:
            self._sender.prepare()
        while not self.stopping and self.retire is None:
            try:
                self.signal.wait(self.turn(time.monotonic()))
            except Exception as error:
                say("sender", f"the sender has failed and goes on: {type(error).__name__}: {error}")
                self.signal.wait(_PAUSE_AFTER_FAILURE)
        self.running = False
        self._tell_listeners()
        if self.retire is not None and not self.stopping:
            self.retire()

    def turn(self, now: float) -> float:
        """Deliver at most one batch of ours, else one of somebody dead; returns how long there is nothing to do."""
        self.idle = True  # before the look, so that what is committed after it wakes us
        wait = self._sender.turn(self._queues(), eager=now < self.eager_until, deadline=self.deadline)
        self._tell_listeners()
        if wait is not None:
            self.idle = False
            if wait <= 0:
                return 0.0
        return min(_FOREVER if wait is None else wait, self._turn_for_others(now))

    def _turn_for_others(self, now: float) -> float:
        if self.stopping or not self._sender.has_delivered:
            return _FOREVER
        if not self._adopted and now >= self._next_adoption:
            self._next_adoption = now + _ADOPT_EVERY
            self._adopted = self.adopt()
        if not self._adopted:
            return max(0.1, self._next_adoption - now)
        wait = self._sender.turn(self._adopted, eager=True, deadline=self.deadline)
        for queue in [queue for queue in self._adopted if not len(queue.journal)]:
            self._adopted.remove(queue)
            queue.journal.remove()
        return wait or 0.0

    def _tell_listeners(self) -> None:
        for listener in list(self._listeners):
            listener.set()

    def leave_adopted(self, in_child: bool = False) -> None:
        """Give up what was adopted, so that others may."""
        for queue in self._adopted:
            if in_child:
                queue.journal.abandon_in_child()
            else:
                queue.journal.close()
        self._adopted = []


def _started(target: Callable[[], None], name: str) -> bool:
    try:
        start_thread(target, name)
    except RuntimeError:
        return False  # the interpreter is ending: the exit hook delivers what is left
    return True
