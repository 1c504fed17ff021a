"""Time for records: microseconds since the epoch that never go backwards within a run."""

from __future__ import annotations

import time


class Clock:
    """Reads the wall clock once for each run, and the monotonic clock for everything inside it."""

    __slots__ = ()

    def anchor(self) -> int:
        """What to add to ``ticks`` to get microseconds since the epoch."""
        return time.time_ns() // 1000 - self.ticks()

    def ticks(self) -> int:
        """Microseconds of a clock that nobody can set."""
        return time.perf_counter_ns() // 1000


SYSTEM_CLOCK = Clock()
