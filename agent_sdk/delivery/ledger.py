"""The counters behind the promise *never lies*: recorded = delivered + journaled + dropped (by reason) + pending.

Every term is counted where it happens and none is derived from the others, so that the sum is a check.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

from agent_sdk.delivery.threads import new_lock

#: Reasons for a drop. ``docs/promises.md`` explains each to users.
BUFFER_FULL = "buffer full"
JOURNAL_FULL = "journal full"
JOURNAL_EXPIRED = "journal expired"
JOURNAL_LOST = "journal lost"
MEMORY_FULL = "memory full"
ENCODING = "encoding failed"
REDACTION = "redaction failed"
REJECTED = "rejected by the destination"
TOO_LARGE = "too large for the destination"
EXIT = "not delivered before exit"
CLOSED = "tracker closed"
CRASHED = "process died"
INTERNAL = "internal error"
SAMPLED_OUT = "sampled out"
OVER_BUDGET = "over budget"


class FlushResult(NamedTuple):
    """What became of all records of a pipeline up to now. The unit is the record.

    ``journaled`` records are safe on the local disk and will be delivered by this or a later process; ``pending``
    ones are in memory only.
    """

    recorded: int
    delivered: int
    journaled: int
    pending: int
    dropped: Mapping[str, int]

    @property
    def complete(self) -> bool:
        """Everything recorded has been delivered or is counted as dropped."""
        return self.journaled == 0 and self.pending == 0

    @property
    def balanced(self) -> bool:
        """The conservation law holds."""
        return self.recorded == self.delivered + self.journaled + self.pending + sum(self.dropped.values())


class Ledger:
    """Counts what was delivered and dropped. Used by the writer and the sender, never by the caller."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._delivered = 0
        self._dropped: dict[str, int] = {}
        self._unreported: dict[str, int] = {}
        #: Records that were left out on purpose before they reached the buffer.
        self.left_out = 0

    def leave_out(self, reason: str, count: int) -> None:
        """Count records that the user's own settings leave out."""
        with self._lock:
            self.left_out += count
        self.drop(reason, count, report=reason != SAMPLED_OUT)

    @property
    def delivered(self) -> int:
        """Records that the destination has acknowledged."""
        return self._delivered

    def deliver(self, count: int) -> None:
        """Count records as delivered."""
        with self._lock:
            self._delivered += count

    def drop(self, reason: str, count: int = 1, report: bool = True) -> None:
        """Count records that will never be delivered; ``report`` also tells the destination (a ``loss`` record)."""
        with self._lock:
            self._dropped[reason] = self._dropped.get(reason, 0) + count
            if report:
                self._unreported[reason] = self._unreported.get(reason, 0) + count

    def tell(self, reason: str, count: int) -> None:
        """Let the destination know of records that are lost but were recorded by another process."""
        with self._lock:
            self._unreported[reason] = self._unreported.get(reason, 0) + count

    def dropped(self) -> dict[str, int]:
        """How many records were dropped, by reason."""
        with self._lock:
            return dict(self._dropped)

    @property
    def has_unreported(self) -> bool:
        """Drops have happened that no ``loss`` record has told yet."""
        return bool(self._unreported)

    def take_unreported(self) -> dict[str, int]:
        """The drops since the last call, to be told to the destination."""
        with self._lock:
            taken, self._unreported = self._unreported, {}
            return taken
