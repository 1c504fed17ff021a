"""Time for records: nanoseconds since the epoch that never go backwards within a run."""

from __future__ import annotations

import time


class Clock:
    """Reads the wall clock once for each run, and the monotonic clock for everything inside it."""

    __slots__ = ()

    #: Nanoseconds of a clock that nobody can set.
    ticks = staticmethod(time.perf_counter_ns)

    def anchor(self) -> int:
        """What to add to ``ticks`` to get nanoseconds since the epoch."""
        return time.time_ns() - self.ticks()


SYSTEM_CLOCK = Clock()
