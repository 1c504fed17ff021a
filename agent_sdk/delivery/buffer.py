"""Where records wait between the caller and the next commit: bounded by bytes and count, lock-free for the caller.

``append`` runs in user code, possibly inside a signal handler or a finalizer: it takes no lock, does no I/O and cannot
wait. Its byte count may drift by what is appended while a drain runs, and is put right by every drain.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

#: Above this share of ``max_bytes`` records lose their bodies, so that their skeletons survive.
_SHED_ABOVE = 0.8


class Buffer:
    """Records on their way to the writer."""

    __slots__ = (
        "_accepted",
        "_bytes",
        "_max_bytes",
        "_max_records",
        "_records",
        "_refused",
        "_shed_bytes",
        "tally",
    )

    def __init__(self, max_bytes: int, max_records: int) -> None:
        self._max_bytes = max_bytes
        self._shed_bytes = int(max_bytes * _SHED_ABOVE)
        self._max_records = max_records
        self._records: deque[Any] = deque()
        self._bytes = 0
        self._accepted = itertools.count(1)
        self._refused = itertools.count(1)
        #: Mirror of the number of accepted records; the writer may put shared memory here (see ``tally.py``).
        self.tally: list[int] | memoryview = [0, 0]

    def append(self, record: Any) -> None:
        """Take a record, without its bodies when memory is short, or count that there was no room for it."""
        size = record.size
        if self._bytes + size > self._shed_bytes:
            record.shed()
            size = record.size
            if self._bytes + size > self._max_bytes:
                self.tally[1] = next(self._refused)
                return
        if len(self._records) >= self._max_records:
            self.tally[1] = next(self._refused)
            return
        self._records.append(record)
        self.tally[0] = next(self._accepted)
        self._bytes += size

    def put(self, record: Any) -> None:
        """Take a record of delivery itself, rare and small, however short the room is."""
        self._records.append(record)
        self.tally[0] = next(self._accepted)
        self._bytes += record.size

    def drain(self) -> list[Any]:
        """Everything that waits now, oldest first. Called by one thread at a time."""
        records = self._records
        waiting = len(records)
        self._bytes = 0
        return [records.popleft() for _ in range(waiting)]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def accepted(self) -> int:
        """How many records were ever taken."""
        return _value(self._accepted)

    @property
    def refused(self) -> int:
        """How many records found no room."""
        return _value(self._refused)


def _value(counter: Any) -> int:
    """The number of items that a counter has given out.

    ``itertools.count`` is the one counter that the interpreter advances atomically; its representation is the only
    way to read it without advancing it that every supported Python has.
    """
    return int(repr(counter)[6:-1]) - 1
