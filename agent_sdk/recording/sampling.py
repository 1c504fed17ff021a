"""Keeping fewer steps than are recorded: whole runs by chance once their end is known, and budgets for each minute.

A run that chance has not chosen holds its steps back. At its end it is kept all the same if it failed, was slow, was
costly or was flagged; else its steps are left out, and the run itself is delivered with the exact totals of them.
"""

from __future__ import annotations

import time
from typing import Any, Callable, NamedTuple

from agent_sdk.delivery.ledger import OVER_BUDGET, SAMPLED_OUT
from agent_sdk.recording import fields
from agent_sdk.wire.records import COMPLETED, FAILED

_MINUTE = 60.0


class Sampling(NamedTuple):
    """Which runs are kept: a share by chance, and those that take more seconds or US dollars than here."""

    rate: float = 1.0
    slower_than: float | None = None
    costlier_than: float | None = None

    def chooses(self, run_id: str) -> bool:
        """Whether chance keeps this run; the same answer in every process."""
        return self.rate >= 1.0 or int(run_id[-8:], 16) < self.rate * 0x1_0000_0000

    def wants(self, run: Any, cost: float) -> bool:
        """Whether a run that has ended is worth keeping whatever chance has said."""
        if run._status != COMPLETED:
            return True
        if self.slower_than is not None and run._ended_at - run._started_at > self.slower_than * 1e9:
            return True
        return self.costlier_than is not None and cost > self.costlier_than


class Held:
    """The steps of one run, held back until its end is known. It stands where the pipeline would take them.

    ``most_bytes`` bounds what all runs of a tracker hold: a run that would go beyond it is kept.
    """

    def __init__(self, run: Any, sampling: Sampling, most_bytes: int) -> None:
        self._run = run
        self._recorder = run._recorder
        self._sampling = sampling
        self._most_bytes = most_bytes
        self._records: list[Any] = []
        self._size = 0

    def submit(self, record: Any) -> None:
        """Hold a record back, or decide, if it is the end of the run."""
        if record is self._run:
            self._decide()
            return
        self._records.append(record)
        self._size += record.size
        self._recorder.held_bytes += record.size
        if self._recorder.held_bytes > self._most_bytes:
            self.release()

    def release(self) -> None:
        """The run is kept: what it held goes on its way, and what comes goes directly."""
        self._run._held = None
        for record in self._let_go():
            self._recorder.pipeline.submit(record)

    def _let_go(self) -> list[Any]:
        records, self._records = self._records, []
        self._recorder.held_bytes -= self._size
        self._size = 0
        return records

    def _decide(self) -> None:
        steps = [record for record in self._records if getattr(record, "run", None) is self._run]
        totals = _totals(steps)
        stated = (self._run._usage or {}).get("cost")
        if self._sampling.wants(self._run, totals.get("cost", 0) if stated is None else stated):
            self.release()
        else:
            left_out = self._let_go()
            self._run._held = _LeftOut(self._recorder)
            self._run._left_out = {"steps": len(steps), "failed": sum(step._status == FAILED for step in steps)}
            if self._run._usage is None and totals:
                self._run._usage = totals
            self._recorder.pipeline.leave_out(len(left_out), SAMPLED_OUT)
        self._recorder.pipeline.submit(self._run)


class _LeftOut:
    """Takes what is still said of a run that was left out."""

    def __init__(self, recorder: Any) -> None:
        self._recorder = recorder

    def submit(self, record: Any) -> None:
        self._recorder.pipeline.leave_out(1, SAMPLED_OUT)

    def release(self) -> None:
        """There is nothing left."""


def _totals(steps: list[Any]) -> dict[str, Any]:
    totals: dict[str, Any] = {}
    for step in steps:
        for name, amount in (fields.usage(step._usage or {}) or {}).items():
            totals[name] = totals.get(name, 0) + amount
    return totals


class Budget:
    """So many steps, and so many bytes of them, in each minute: above it bodies go first, then whole steps.

    It stands where the pipeline would take them. What it refuses is counted and told to the destination.
    """

    def __init__(
        self, pipeline: Any, records: float | None, size: float | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pipeline = pipeline
        self._most_records = float("inf") if records is None else records
        self._most_bytes = float("inf") if size is None else size
        self._now = now
        self._minute_ends = 0.0
        self._records = 0.0
        self._bytes = 0.0

    def submit(self, record: Any) -> None:
        """Pass a record on, without its bodies, or not at all."""
        now = self._now()
        if now >= self._minute_ends:
            self._minute_ends = now + _MINUTE
            self._records = self._bytes = 0.0
        self._records += 1
        if self._records > self._most_records and getattr(record, "run", None) is not record:  # runs themselves pass
            self._pipeline.leave_out(1, OVER_BUDGET)
            return
        if self._bytes + record.size > self._most_bytes:
            record.shed()
        self._bytes += record.size
        self._pipeline.submit(record)
