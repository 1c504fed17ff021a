"""Recording without a server, for tests: what was recorded, as trees.

>>> from agent_sdk.testing import recording
>>> with recording() as recorded:
...     with recorded.tracker.track_run("agent"):
...         with recorded.tracker.track_step_context("think", "reasoning"):
...             recorded.tracker.track_step("look up", "tool_call", output_data=42)
<Step 'look up' ...>
>>> print(recorded.tree())
agent completed
  think completed
    look up completed
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import Any, Iterator

from agent_sdk.delivery.destinations import MemoryDestination
from agent_sdk.recording.tracker import RunTracker, create_tracker
from agent_sdk.wire.fold import RunState, StepState, fold

__all__ = ["RecordedRuns", "recording"]

_numbers = itertools.count(1)


class RecordedRuns:
    """What ``tracker`` has recorded so far; every question delivers what is still on its way."""

    def __init__(self, tracker: RunTracker, destination: MemoryDestination) -> None:
        self.tracker = tracker
        self._destination = destination

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records about runs and steps, as they were delivered; heartbeats are left out."""
        self.tracker.flush()
        return [record for record in self._destination.records if record["type"] != "heartbeat"]

    @property
    def runs(self) -> list[RunState]:
        """All runs, in the order in which they began."""
        return list(fold(self.records).values())

    @property
    def run(self) -> RunState:
        """The only run. Raises ``AssertionError`` if there is none or more than one."""
        runs = self.runs
        assert len(runs) == 1, f"expected one run, recorded {[run.agent_name for run in runs]}"
        return runs[0]

    def steps(self, name: str | None = None) -> list[StepState]:
        """All steps of all runs, or those called ``name``."""
        found = [step for run in self.runs for step in run.steps.values()]
        return [step for step in found if name is None or step.name == name]

    def step(self, name: str) -> StepState:
        """The only step called ``name``. Raises ``AssertionError`` if there is none or more than one."""
        steps = self.steps(name)
        assert len(steps) == 1, f"expected one step {name!r}, recorded {[step.name for step in self.steps()]}"
        return steps[0]

    def tree(self) -> str:
        """All runs with their steps as indented text: ``name status`` on each line."""
        lines = []
        for run in self.runs:
            lines.append(f"{run.agent_name} {run.status}")
            lines += _lines(run.tree(), 1)
        return "\n".join(lines)


def _lines(steps: list[StepState], depth: int) -> list[str]:
    lines = []
    for step in steps:
        lines.append(f"{'  ' * depth}{step.name} {step.status}")
        lines += _lines(step.children, depth + 1)
    return lines


@contextmanager
def recording(**options: Any) -> Iterator[RecordedRuns]:
    """A tracker that delivers into memory, with ``options`` as for ``create_tracker``; closed at the end."""
    destination = MemoryDestination()
    settings = {"base_url": f"memory://test-{next(_numbers)}", "durability": "memory", "destination": destination}
    recorded = RecordedRuns(create_tracker(**{**settings, **options}), destination)
    try:
        yield recorded
    finally:
        recorded.tracker.flush()
        recorded.tracker.close()
