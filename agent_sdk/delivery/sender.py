"""From the journal to the destination: batches, splits, bisection, backoff. The one place where delivery may wait.

A sender knows no thread and no clock of its own: ``turn`` makes at most one request and says when to come back, so that
every rule below can be tested without waiting.
"""

from __future__ import annotations

import random
import time
from typing import Any, Callable, NamedTuple, Sequence

from agent_sdk.delivery import journal as journals
from agent_sdk.delivery import ledger as reasons
from agent_sdk.delivery.destinations import base
from agent_sdk.delivery.destinations.base import BatchLimits, Destination, Outcome
from agent_sdk.delivery.ledger import Ledger
from agent_sdk.delivery.log import say, settle

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_PROBE_DELAY = 10.0
_LONGEST_PROBE_DELAY = 300.0
#: So many records refused one by one, with none accepted in between, speak against the destination, not the records.
_REFUSALS_IN_A_ROW = 20
READY_BYTES = 256 * 1024


class Queue(NamedTuple):
    """Records that wait for delivery, with the ledger that they are counted in."""

    journal: Any  # Journal or MemoryJournal
    ledger: Ledger
    stream: str


class Sender:
    """Delivers the records of its queues, one batch at a time, to one destination."""

    def __init__(
        self,
        destination: Destination,
        home: str,
        linger: float = 0.5,
        request_timeout: float = 10.0,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._destination = destination
        self._home = home
        self._linger = linger
        self._request_timeout = request_timeout
        self._now = now
        self._uniform = uniform
        self._limits = destination.limits
        self._records_at_once = self._limits.max_batch_records
        self._waiting_since: float | None = None
        self._not_before = 0.0
        self._asked_to_wait_until = 0.0
        self._failures = 0
        self._refusals = 0
        #: Counts attempts that failed, so that a flush can tell that one was made since it began.
        self.failed_attempts = 0
        #: One line about the last failure, empty once a batch got through.
        self.trouble = ""
        #: A batch has been taken, so that it makes sense to look for what others left.
        self.has_delivered = False

    def prepare(self) -> None:
        """Load what the destination needs, at the beginning of the sender's thread. Never raises."""
        try:
            self._destination.prepare()
        except Exception as error:
            say("prepare", f"the destination could not be prepared: {type(error).__name__}: {error}")

    def turn(self, queues: Sequence[Queue], eager: bool = False, deadline: float = float("inf")) -> float | None:
        """Deliver at most one batch; returns the seconds until the next turn makes sense, none if nothing waits.

        ``eager`` sends what is there without waiting for more, and tries again at once what had failed.
        """
        now = self._now()
        queue = next((queue for queue in queues if len(queue.journal)), None)
        if queue is None:
            self._waiting_since = None
            return None
        wait = self._must_wait(queue, now, eager)
        if wait > 0:
            return wait
        self._send(queue, min(deadline, now + self._request_timeout))
        return self._must_wait(queue, self._now(), eager)

    def _must_wait(self, queue: Queue, now: float, eager: bool) -> float:
        if self._not_before > now:
            return self._not_before - now
        if eager or queue.journal.waiting_bytes >= READY_BYTES:
            return 0.0
        if self._waiting_since is None:
            self._waiting_since = now
        return self._waiting_since + self._linger - now

    def forgive(self) -> None:
        """Try at once what would wait for its backoff, because somebody flushes. A ``Retry-After`` is still kept."""
        self._not_before = self._asked_to_wait_until

    # -- one batch -----------------------------------------------------------------------------------------------

    def _send(self, queue: Queue, deadline: float) -> None:
        self._waiting_since = None
        try:
            lines = queue.journal.peek(self._limits.max_batch_bytes, self._records_at_once)
        except OSError as error:
            self._give_up_unreadable(queue, error)
            return
        slices: list[list[bytes]] = [lines] if lines else []
        while slices:
            part = slices.pop()
            if not self._settle(queue, part, self._attempt(part, deadline), slices):
                return

    def _attempt(self, lines: list[bytes], deadline: float) -> Outcome:
        if self._now() >= deadline:
            return Outcome(base.RETRY, "there was no time left for another attempt")
        try:
            return self._destination.deliver(lines, deadline)
        except Exception as error:
            return Outcome(base.RETRY, f"the destination failed: {type(error).__name__}: {error}")

    def _settle(self, queue: Queue, part: list[bytes], outcome: Outcome, slices: list[list[bytes]]) -> bool:
        """Act on an answer; false if the rest of the page has to wait."""
        if outcome.limits is not None:
            self._adopt_limits(outcome.limits)
        if outcome.kind == base.DELIVERED:
            self._acknowledge(queue, part, outcome)
            return True
        if outcome.kind in (base.REFUSED, base.TOO_LARGE):
            return self._narrow(queue, part, outcome, slices)
        self._back_off(outcome)
        return False

    def _acknowledge(self, queue: Queue, part: list[bytes], outcome: Outcome) -> None:
        for line, reason in outcome.rejected:
            self._quarantine(queue, part[line], reason)
        queue.journal.advance(len(part))
        queue.ledger.deliver(len(part) - len(outcome.rejected))
        if outcome.rejected:
            queue.ledger.drop(reasons.REJECTED, len(outcome.rejected), report=False)
        self._failures = self._refusals = 0
        self.has_delivered = True
        grown = self._records_at_once + self._records_at_once // 10 + 1
        self._records_at_once = min(grown, self._limits.max_batch_records)
        if self.trouble:
            self.trouble = ""
            settle("delivery", "records are being delivered again")

    def _narrow(self, queue: Queue, part: list[bytes], outcome: Outcome, slices: list[list[bytes]]) -> bool:
        """Halve a part that was refused as a whole, until the one record that is the reason stands alone."""
        if len(part) > 1:
            middle = len(part) // 2
            slices += [part[middle:], part[:middle]]
            if outcome.kind == base.TOO_LARGE:
                self._records_at_once = middle
            return True
        self._refusals += 1
        if self._refusals > _REFUSALS_IN_A_ROW:
            self._back_off(outcome)
            return False
        self._quarantine(queue, part[0], outcome.reason)
        queue.journal.advance(1)
        reason = reasons.TOO_LARGE if outcome.kind == base.TOO_LARGE else reasons.REJECTED
        queue.ledger.drop(reason, 1, report=b'"type":"loss"' not in part[0][:200])
        return True

    def _quarantine(self, queue: Queue, line: bytes, reason: str) -> None:
        say("refused", f"the destination refuses a record ({reason}): it is kept in {self._home}/quarantine")
        try:
            journals.quarantine(self._home, queue.stream, line, reason)
        except OSError:
            pass  # counted as dropped in any case

    def _give_up_unreadable(self, queue: Queue, error: OSError) -> None:
        lost = queue.journal.forget_unreadable()
        queue.ledger.drop(reasons.JOURNAL_LOST, lost)
        say("unreadable", f"{lost} records of the journal cannot be read any more ({error})")

    # -- waiting -------------------------------------------------------------------------------------------------

    def _back_off(self, outcome: Outcome) -> None:
        """Wait longer after each failure: a random share of the bound, so that many senders do not come in step."""
        self.failed_attempts += 1
        self._failures += 1
        self.trouble = outcome.reason
        say("delivery", outcome.reason or "records cannot be delivered")
        unauthorized = outcome.kind == base.UNAUTHORIZED
        first, longest = (_PROBE_DELAY, _LONGEST_PROBE_DELAY) if unauthorized else (_FIRST_DELAY, _LONGEST_DELAY)
        delay = self._uniform(0.0, min(longest, first * 2.0 ** min(self._failures, 16)))
        asked = outcome.retry_after or 0.0
        self._asked_to_wait_until = self._now() + asked if asked else 0.0
        self._not_before = self._now() + max(delay, asked)

    def _adopt_limits(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._records_at_once = max(1, min(self._records_at_once, limits.max_batch_records))
