"""Folding records into runs and steps: pure functions, the same for the collector, the terminal and tests.

Order and repetition change nothing: for each field the value with the greatest *version* wins, which is the record's
time and, between equal times, its id. Tags are united; metadata and usage are merged key by key under the same rule.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Tuple

from agent_sdk.wire.records import HEARTBEAT, LOSS, RUN_END, RUN_START, RUNNING, SCORE, STEP_END, STEP_START

Version = Tuple[int, str]

#: Fields of records that say when and about what, and are no facts themselves.
_ENVELOPE = frozenset(("type", "id", "time", "run_id", "step_id"))
MERGED_BY_KEY = frozenset(("metadata", "usage"))
_NUMBER_DIGITS = 19


def version_of(record: Mapping[str, Any]) -> Version:
    """What decides between two values of a field. Ids are padded, so that record 10 follows record 9."""
    stream, _, number = str(record["id"]).rpartition("-")
    return record["time"], stream + number.zfill(_NUMBER_DIGITS)


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record of a run or a step says about it, with its times under their own names."""
    facts = {name: value for name, value in record.items() if name not in _ENVELOPE and value is not None}
    kind = record["type"]
    if kind in (RUN_START, STEP_START):
        facts["started_at"] = record["time"]
        facts.setdefault("status", RUNNING)
    elif kind in (RUN_END, STEP_END):
        facts["ended_at"] = record["time"]
    return facts


class Folded:
    """The fields of one run or step, each with the version that it has. ``fields`` may be read at any time."""

    __slots__ = ("fields", "versions")

    def __init__(self, fields: dict[str, Any] | None = None, versions: dict[str, Version] | None = None) -> None:
        self.fields: dict[str, Any] = {} if fields is None else fields
        self.versions: dict[str, Version] = {} if versions is None else versions

    def add(self, facts: Mapping[str, Any], version: Version) -> None:
        """Merge what one record says."""
        for name, value in facts.items():
            if name == "tags":
                self.fields["tags"] = sorted({*self.fields.get("tags", ()), *value})
            elif name in MERGED_BY_KEY and isinstance(value, dict):
                self._add_by_key(name, value, version)
            elif self._is_newer(name, version):
                self.fields[name] = value

    def _add_by_key(self, name: str, values: Mapping[str, Any], version: Version) -> None:
        held = self.fields.setdefault(name, {})
        for key, value in values.items():
            if value is not None and self._is_newer(f"{name}.{key}", version):
                held[key] = value

    def _is_newer(self, key: str, version: Version) -> bool:
        held = self.versions.get(key)
        if held is not None and held >= version:
            return False
        self.versions[key] = version
        return True

    @property
    def status(self) -> str:
        """``running`` until a record says something else."""
        return str(self.fields.get("status", RUNNING))


class StepState(Folded):
    """What is known about one step."""

    __slots__ = ("children", "run_id", "step_id")

    def __init__(self, run_id: str, step_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.step_id = step_id
        self.children: list[StepState] = []

    @property
    def name(self) -> str:
        """What the step is called; empty while no record has told."""
        return str(self.fields.get("name", ""))

    @property
    def parent_step_id(self) -> str | None:
        """The step that this one is inside of; none directly under the run."""
        return self.fields.get("parent_step_id")


class RunState(Folded):
    """What is known about one run, with its ``steps`` by id and its ``scores``."""

    __slots__ = ("run_id", "scores", "steps")

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.steps: dict[str, StepState] = {}
        self.scores: list[Mapping[str, Any]] = []

    @property
    def agent_name(self) -> str:
        """What the agent is called; empty while no record has told."""
        return str(self.fields.get("agent_name", ""))

    def tree(self) -> list[StepState]:
        """The steps directly under the run, with their ``children``, by start time.

        A step whose parent is unknown, or is inside itself, stands directly under the run.
        """
        for step in self.steps.values():
            step.children = []
        roots: list[StepState] = []
        for step in sorted(self.steps.values(), key=_by_start):
            parent = self.steps.get(step.parent_step_id or "")
            if parent is None or self._is_inside_itself(step):
                roots.append(step)
            else:
                parent.children.append(step)
        return roots

    def _is_inside_itself(self, step: StepState) -> bool:
        seen = set()
        above: StepState | None = step
        while above is not None and above.step_id not in seen:
            seen.add(above.step_id)
            above = self.steps.get(above.parent_step_id or "")
        return above is not None and above is step


def _by_start(step: StepState) -> tuple[int, str]:
    return step.fields.get("started_at") or step.fields.get("ended_at") or 0, step.step_id


def fold(records: Iterable[Mapping[str, Any]]) -> dict[str, RunState]:
    """All runs that ``records`` speak of, by run id, in the order of their first record."""
    runs: dict[str, RunState] = {}
    seen = set()
    for record in records:
        if record["id"] in seen or record["type"] in (HEARTBEAT, LOSS):
            continue
        seen.add(record["id"])
        run_id = record["run_id"]
        run = runs.setdefault(run_id, RunState(run_id))
        if record["type"] == SCORE:
            run.scores.append(record)
        elif "step_id" in record:
            step = run.steps.setdefault(record["step_id"], StepState(run_id, record["step_id"]))
            step.add(facts_of(record), version_of(record))
        else:
            run.add(facts_of(record), version_of(record))
    return runs
