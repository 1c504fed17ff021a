"""One way from trackers to one destination: a buffer, a journal, a writer thread and a sender thread.

Two threads, because a request may take seconds and a commit to the journal may not wait for it. Both start with the
first record; nothing is opened before. Trackers with equal settings share one pipeline (see ``registry.py``).
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable

from agent_sdk.delivery import adoption, local_keys
from agent_sdk.delivery import ledger as reasons
from agent_sdk.delivery.buffer import Buffer
from agent_sdk.delivery.destinations import open_destination
from agent_sdk.delivery.destinations.base import Destination
from agent_sdk.delivery.journal import Journal, Manifest
from agent_sdk.delivery.ledger import FlushResult, Ledger
from agent_sdk.delivery.log import say
from agent_sdk.delivery.loops import SenderLoop, WriterLoop
from agent_sdk.delivery.memory_journal import MemoryJournal
from agent_sdk.delivery.sender import Queue, Sender
from agent_sdk.delivery.settings import MEMORY, STRICT, Delivery, without_login
from agent_sdk.delivery.tally import Tally
from agent_sdk.delivery.threads import new_lock
from agent_sdk.delivery.writer import Writer

_SEGMENT_BYTES = 4 * 1024 * 1024
_SEGMENTS_AT_LEAST = 8
_LISTEN_EVERY = 0.25
_ABORT_PATIENCE = 0.2
_BREATH = 0.001


class Pipeline:
    """Delivers the records of all trackers that share its settings."""

    def __init__(self, delivery: Delivery, destination: Destination | None = None) -> None:
        self.delivery = delivery
        self.users = 0
        #: Set by the registry: the first record is there; the last user has gone; all threads and files are closed.
        self.on_start: Callable[[], None] = _nothing
        self.on_release: Callable[[Pipeline], None] = _nothing
        self.on_end: Callable[[Pipeline], None] = _nothing
        self._given_destination = destination
        self._strict = delivery.durability == STRICT
        self._begin([])

    def _begin(self, reporters: list[Any]) -> None:
        """A fresh life: at the start, and again in a forked child, whose parent keeps all that was before."""
        delivery = self.delivery
        self.stream = os.urandom(8).hex()
        self._closed = False
        self._is_ending = False
        self._ending = new_lock()
        self._left_behind = 0
        self._started = False
        self._tally: Tally | None = None
        self._buffer = Buffer(delivery.buffer_bytes, delivery.buffer_records)
        self._ledger = Ledger()
        self._memory = MemoryJournal(delivery.buffer_bytes)
        opener = None if delivery.durability == MEMORY else self._open_journal
        self._writer = Writer(self.stream, self._buffer, self._ledger, self._memory, opener, delivery.journal_bytes)
        self._destination = self._given_destination or open_destination(
            delivery.destination, self._key, delivery.request_timeout
        )
        self._sender = Sender(self._destination, delivery.home, delivery.flush_interval, delivery.request_timeout)
        self._writing = WriterLoop(self._writer, self._buffer, self._ledger, delivery)
        self._writing.reporters = reporters
        self._writing.after_commit = self._nudge_sender
        self._writing.ledger_counts = lambda: self.stats()._asdict()
        self._sending = SenderLoop(self._sender, self._queues, delivery)
        self._sending.adopt = self._adopt

    def begin_in_child(self) -> None:
        """Leave everything to the parent and begin anew: fresh buffer, stream, journal, connections, threads."""
        if self._writer.journal is not None:
            self._writer.journal.abandon_in_child()
        self._sending.leave_adopted(in_child=True)
        reporters = self._writing.reporters
        for reporter in reporters:
            reporter.after_fork_in_child()
        self._begin(reporters)

    # -- the caller's side ---------------------------------------------------------------------------------------

    def submit(self, record: Any) -> None:
        """Take a record for delivery. Never raises, never blocks (``durability="strict"`` waits for the disk)."""
        self._buffer.append(record)
        writing = self._writing
        if writing.idle:
            writing.idle = False
            writing.signal.set()
        if self._strict or not self._started or self._is_ending:
            self._submit_slowly()

    def leave_out(self, count: int, reason: str) -> None:
        """Count records that the user's own settings leave out."""
        self._ledger.leave_out(reason, count)

    def _submit_slowly(self) -> None:
        if self._is_ending:
            time.sleep(_BREATH)  # threads that still record must not keep the last delivery from its turn
        if self._closed:
            self._writer.commit()  # the threads have ended: what comes now goes straight to the journal
            if len(self._memory):
                self._give_up_memory()
            return
        if not self._started:
            self._start()
        if self._strict:
            self._writer.commit()
            self._nudge_sender()

    def _start(self) -> None:
        self._started = True
        self.on_start()
        self._started = self._writing.start() and self._sending.start()

    def wake(self) -> None:
        """Let the writer look at its reporters again: something has been opened."""
        self._writing.idle = False
        self._writing.signal.set()

    def add_reporter(self, reporter: Any) -> None:
        """Ask ``reporter`` regularly what is still open."""
        self._writing.reporters.append(reporter)

    def remove_reporter(self, reporter: Any) -> None:
        """Ask it no more."""
        if reporter in self._writing.reporters:
            self._writing.reporters.remove(reporter)

    # -- what became of it ---------------------------------------------------------------------------------------

    def stats(self) -> FlushResult:
        """The ledger now. Read while records flow, its terms may be a few records apart."""
        result = self._read_ledger()
        for _ in range(10):
            if result.balanced:
                break
            result = self._read_ledger()
        return result

    def _read_ledger(self) -> FlushResult:
        self._writing.count_refusals()
        buffer, journal = self._buffer, self._writer.journal
        return FlushResult(
            recorded=buffer.accepted + buffer.refused + self._writer.replaced + self._ledger.left_out,
            delivered=self._ledger.delivered,
            journaled=self._left_behind + (len(journal) if journal is not None else 0),
            pending=len(buffer) + self._writer.in_hand + len(self._memory),
            dropped=self._ledger.dropped(),
        )

    @property
    def trouble(self) -> str:
        """One line about why records cannot be delivered at present, empty if they can."""
        return self._sender.trouble

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """Deliver what was recorded before, in at most ``timeout`` seconds, and say what became of it. Never raises.

        Returns early when an attempt has failed and everything is safe in the journal: waiting would change nothing.
        """
        deadline = time.monotonic() + timeout
        failed_before = self._sender.failed_attempts
        self._hurry(deadline)
        self._await_delivery(deadline, failed_before)
        return self.stats()

    def _hurry(self, deadline: float) -> None:
        """Commit everything and let the sender deliver it without waiting for more."""
        self._writing.report_losses()
        self._writer.commit()
        if self._waiting():
            if not self._started:
                self._start()
            self._sender.forgive()
            self._sending.eager_until = max(self._sending.eager_until, deadline)
            self._sending.signal.set()

    def _await_delivery(self, deadline: float, failed_before: int) -> None:
        listener = self._sending.listen()
        try:
            while self._waiting() and time.monotonic() < deadline:
                if self._sender.failed_attempts > failed_before and not len(self._memory):
                    return
                if self._sending.running:
                    listener.wait(min(_LISTEN_EVERY, deadline - time.monotonic()))
                elif self._sending.turn(time.monotonic()) > 0:
                    return  # no thread to be had, and the destination does not take it now
        finally:
            self._sending.unlisten(listener)

    def close(self, timeout: float | None = None) -> FlushResult:
        """Give the pipeline back; the last of its users to do so ends it, see ``end``. Never raises."""
        self.users -= 1
        if self.users > 0:
            return self.flush(self.delivery.exit_timeout if timeout is None else timeout)
        self.on_release(self)
        return self.end(timeout)

    def end(self, timeout: float | None = None) -> FlushResult:
        """Deliver what is left within ``timeout`` seconds (default ``exit_timeout``), then end threads and files.

        What cannot be delivered stays in the journal for the next process. Records that come later go there, too.
        """
        self._is_ending = True
        timeout = self.delivery.exit_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        for reporter in list(self._writing.reporters):
            reporter.release_held()
        if self._ending.acquire(True, timeout):  # the process may end while a released pipeline ends by itself
            try:
                self.flush(deadline - time.monotonic())
                self._shut(deadline)
            finally:
                self._ending.release()
        self.on_end(self)
        return self.stats()

    def release(self) -> None:
        """Give the pipeline back without waiting, from a finalizer: its threads deliver what is left and end."""
        self.users -= 1
        if self.users > 0:
            return
        self.on_release(self)
        if self._sending.running:
            self._sending.retire = self.end  # type: ignore[assignment]
            self._sending.signal.set()
        elif not self._started:
            self.on_end(self)

    def _shut(self, deadline: float) -> None:
        self._closed = True
        self._stop(deadline)
        self._writer.commit()
        if len(self._memory):
            self._give_up_memory()
        self._leave_journal()

    def hurry(self, deadline: float) -> None:
        """Begin the last delivery without waiting for it: several pipelines end at once."""
        self._hurry(deadline)

    def _stop(self, deadline: float) -> None:
        self._sending.deadline = deadline
        self._writing.stopping = self._sending.stopping = True
        self._writing.signal.set()
        self._sending.signal.set()
        listener = self._sending.listen()
        if self._sending.running:
            self._destination.abort()
            listener.wait(_ABORT_PATIENCE)
        self._sending.unlisten(listener)
        self._sending.leave_adopted()
        self._destination.close()

    def _give_up_memory(self) -> None:
        lost = len(self._memory)
        self._memory.advance(lost)
        self._ledger.drop(reasons.EXIT, lost)
        say("exit", f"{lost} records were in memory only and could not be delivered before the end")

    def _leave_journal(self) -> None:
        journal = self._writer.journal
        if journal is None:
            return
        if len(journal):
            self._left_behind += len(journal)
            journal.close()
        else:
            journal.remove()
        if self._tally is not None:
            self._tally.remove()
        self.stream = os.urandom(8).hex()
        self._writer.begin_stream(self.stream)

    # -- what the loops ask for ----------------------------------------------------------------------------------

    def _queues(self) -> list[Queue]:
        journal = self._writer.journal
        queues = [] if journal is None else [Queue(journal, self._ledger, self.stream)]
        queues.append(Queue(self._memory, self._ledger, self.stream))
        return queues

    def _waiting(self) -> int:
        return sum(len(queue.journal) for queue in self._queues())

    def _nudge_sender(self) -> None:
        if self._waiting():
            self._sending.nudge(sum(queue.journal.waiting_bytes for queue in self._queues()))

    def _key(self) -> str | None:
        return self.delivery.api_key or local_keys.read(self.delivery.home, self.delivery.destination)

    def _open_journal(self) -> Journal:
        delivery = self.delivery
        manifest = Manifest(
            stream=self.stream,
            destination=without_login(delivery.destination),
            key_fingerprint=adoption.fingerprint(delivery.api_key),
            pid=os.getpid(),
            created=time.time(),
        )
        segment_bytes = min(_SEGMENT_BYTES, delivery.journal_bytes // _SEGMENTS_AT_LEAST)
        self._share_tally()  # first, so that there is no journal without one
        journal = Journal.create(delivery.home, manifest, segment_bytes)
        lost = adoption.trim(delivery.home, delivery.journal_bytes, delivery.journal_days, self.stream)
        if lost:
            self._ledger.tell(reasons.JOURNAL_EXPIRED, lost)
        return journal

    def _share_tally(self) -> None:
        if self._closed or self._tally is not None:
            return
        self._tally = Tally.create(self.stream)
        if self._tally is not None:
            self._tally.view[0] = self._buffer.accepted
            self._buffer.tally = self._tally.view

    def _adopt(self) -> list[Queue]:
        """Journals of dead processes that were meant for the same destination, with the same key."""
        wanted = (without_login(self.delivery.destination), adoption.fingerprint(self.delivery.api_key))
        return list(
            adoption.adopt(
                self.delivery.home,
                lambda manifest: (manifest.destination, manifest.key_fingerprint) == wanted,
            )
        )


def _nothing(*_: Any) -> None:
    """Nobody has asked to be told."""
