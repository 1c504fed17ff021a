"""Records as a recording process numbers them, and a store that is asked directly, without a socket."""

from __future__ import annotations

import json
import time
from typing import Any, Iterable

from agent_sdk.collector import Queries, Store, ensure_project
from agent_sdk.collector.ingest import Answer, parse
from agent_sdk.collector.receive import LIMITS

PATIENCE = 20.0
#: A moment far enough back that nothing which is alive now could be told by it.
LONG_AGO = 1_700_000_000_000_000


def now() -> int:
    return time.time_ns() // 1000


def run_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


def step_id(number: int) -> str:
    return f"{number:016x}"


def ndjson(records: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


class Stream:
    """Gives records the ids of one recording process."""

    def __init__(self, number: int = 1) -> None:
        self.name = f"{number:016x}"
        self._count = 0

    def record(self, kind: str, at: int, **fields: Any) -> dict[str, Any]:
        self._count += 1
        return {"type": kind, "id": f"{self.name}-{self._count}", "time": at, **fields}

    def start(self, run: int, at: int = LONG_AGO, agent: str = "agent", **fields: Any) -> dict[str, Any]:
        return self.record("run.start", at, run_id=run_id(run), agent_name=agent, **fields)

    def end(self, run: int, at: int = LONG_AGO + 1_000, status: str = "completed", **fields: Any) -> dict[str, Any]:
        return self.record("run.end", at, run_id=run_id(run), status=status, **fields)

    def step(self, run: int, step: int, at: int = LONG_AGO + 500, **fields: Any) -> dict[str, Any]:
        known = {"name": f"step {step}", "step_type": "tool_call", "status": "completed", "started_at": at - 100}
        return self.record("step.end", at, run_id=run_id(run), step_id=step_id(step), **{**known, **fields})

    def step_open(self, run: int, step: int, at: int = LONG_AGO + 100, **fields: Any) -> dict[str, Any]:
        known = {"name": f"step {step}", "step_type": "tool_call"}
        return self.record("step.start", at, run_id=run_id(run), step_id=step_id(step), **{**known, **fields})

    def heartbeat(self, *runs: int, at: int, interval: float = 10.0, **fields: Any) -> dict[str, Any]:
        return self.record("heartbeat", at, runs=[run_id(run) for run in runs], interval=interval, **fields)


class Shelf:
    """A store in this process with one project, and its queries."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queries = Queries(store)
        self.project = ensure_project(store)

    def send(self, *records: Any, project: int | None = None) -> Answer:
        return self.send_body(ndjson(records), project)

    def send_body(self, body: bytes, project: int | None = None) -> Answer:
        parsed = parse(self.project if project is None else project, body, LIMITS["max_record_bytes"])
        return self.store.ingest(parsed).result(PATIENCE)

    def listed(self, **wanted: Any) -> list[int]:
        """The numbers of the runs in a list, in its order."""
        return [int(run["run_id"][-12:], 16) for run in self.queries.list_runs(wanted)["runs"]]  # type: ignore[arg-type]
