"""The rows of a run's waterfall: the tree of its steps, flattened, with each one's place on one time axis."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Sequence

from agent_sdk.collector.queries import StepSkeleton

#: Places on the axis are percentages of its width.
WIDTH = 100.0
_NARROWEST = 0.6
_DEEPEST = 14
_STEPS_OF_A_RULER = (1, 2, 5)


class Bar(NamedTuple):
    """Where a step lies on the axis, in percent."""

    x: float
    width: float
    first_token: float | None


class TimelineRow(NamedTuple):
    """A step with its place in the tree."""

    step: StepSkeleton
    depth: int
    children: int
    bar: Bar


class Tick(NamedTuple):
    """A mark of the ruler, ``at`` microseconds from the start."""

    x: float
    at: int


class Timeline(NamedTuple):
    """What the run page draws."""

    rows: list[TimelineRow]
    ticks: list[Tick]
    run_bar: Bar


def timeline(run: dict[str, Any], steps: Sequence[StepSkeleton]) -> Timeline:
    """The waterfall of a run. Steps that are open reach to now."""
    now = run["ended_at"] or max(run["last_seen_at"], _now() if run["status"] == "running" else 0)
    start = min([run["started_at"], *(step["started_at"] for step in steps)])
    end = max([now, start + 1, *(step["ended_at"] or 0 for step in steps)])
    axis = _Axis(start, end)
    rows = _flattened(steps, axis)
    return Timeline(rows, axis.ticks(), axis.bar(run["started_at"], run["ended_at"], None))


class _Axis:
    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end

    def _x(self, at: int) -> float:
        return round((at - self._start) / (self._end - self._start) * WIDTH, 3)

    def bar(self, started_at: int, ended_at: int | None, first_token_at: int | None) -> Bar:
        x = min(self._x(started_at), WIDTH - _NARROWEST)
        width = max(_NARROWEST, self._x(ended_at or self._end) - x)
        return Bar(x, round(width, 3), None if first_token_at is None else self._x(first_token_at))

    def ticks(self) -> list[Tick]:
        """Four to nine round times."""
        length = self._end - self._start
        size = 1
        while length / size > 50:
            size *= 10
        step = next(size * factor for factor in (*_STEPS_OF_A_RULER, 10) if length / (size * factor) <= 9)
        return [Tick(self._x(self._start + at), at) for at in range(0, length, step)]


def _flattened(steps: Sequence[StepSkeleton], axis: _Axis) -> list[TimelineRow]:
    """Depth first, siblings by start. A step whose parent is unknown, or is inside itself, stands at the top."""
    known = {step["step_id"] for step in steps}
    children: dict[str | None, list[StepSkeleton]] = {}
    for step in steps:
        parent = step["parent_step_id"]
        children.setdefault(parent if parent in known else None, []).append(step)
    rows: list[TimelineRow] = []
    placed: set[str] = set()
    pending = [(step, 1) for step in reversed(children.get(None, []))]
    leftover = iter(steps)
    while True:
        while pending:
            step, depth = pending.pop()
            if step["step_id"] in placed:
                continue
            placed.add(step["step_id"])
            below = children.get(step["step_id"], [])
            bar = axis.bar(step["started_at"], step["ended_at"], step["first_token_at"])
            rows.append(TimelineRow(step, min(depth, _DEEPEST), len(below), bar))
            pending += [(child, depth + 1) for child in reversed(below)]
        looping = next((step for step in leftover if step["step_id"] not in placed), None)
        if looping is None:
            return rows
        pending.append((looping, 1))


def _now() -> int:
    return time.time_ns() // 1000
