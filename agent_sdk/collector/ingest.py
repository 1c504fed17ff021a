"""Batches of records into the tables: idempotent, in any order, with an answer for each record."""

from __future__ import annotations

import json
import math
import time
from typing import Any, Iterable, NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, tuple_, update

from agent_sdk.collector import rows, schema
from agent_sdk.collector.bodies import BodyWriter
from agent_sdk.collector.ranges import Ranges
from agent_sdk.collector.validation import why_refused
from agent_sdk.wire.fold import Folded, facts_of, version_of
from agent_sdk.wire.records import HEARTBEAT, LOSS, RUN_START, SCORE

_IN_ONE_QUERY = 500
_DEFAULT_HEARTBEAT_SECONDS = 10.0
_LONGEST_HEARTBEAT_SECONDS = 366 * 86_400.0
#: Counts above this are nonsense, and their sums must fit into the 64 bits of an SQLite integer.
_MOST_LOST = 1 << 40
#: Python's recursion ends somewhere above this, in reading and in writing JSON, and not at the same depth in each.
_DEEPEST = 200


class Answer(NamedTuple):
    """What became of one batch."""

    accepted: int
    duplicates: int
    rejected: list[dict[str, Any]]


class ParsedBatch(NamedTuple):
    """A batch that has been read: records that are good, and answers to those that are not."""

    project_id: int
    records: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def parse(project_id: int, body: bytes, max_record_bytes: int) -> ParsedBatch:
    """Read a body line by line; what is no record gets its reason, the rest goes on."""
    records: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    lines = [line for line in body.split(b"\n") if line.strip()]
    for index, line in enumerate(lines):
        record, reason = _read(line, max_record_bytes)
        if reason:
            record_id = record.get("id") if isinstance(record, dict) else None
            rejected.append({"index": index, "id": record_id, "reason": reason})
        else:
            records.append(record)
    return ParsedBatch(project_id, records, rejected)


def _read(line: bytes, max_record_bytes: int) -> tuple[Any, str]:
    if len(line) > max_record_bytes:
        return None, f"larger than {max_record_bytes} bytes"
    try:
        record = _DECODER.decode(line.decode("utf-8"))
        if b"\\u" in line:
            json.dumps(record, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair cannot be stored
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {str(error)[:100]}"
    if line.count(b"[") + line.count(b"{") > _DEEPEST and _is_too_deep(record):
        return record, f"nested deeper than {_DEEPEST} levels"
    return record, why_refused(record)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST + 1):
        below = (child for part in level for child in (part.values() if type(part) is dict else part))
        level = [child for child in below if type(child) in (dict, list)]
        if not level:
            return False
    return True


class Ingest:
    """One transaction's worth of batches, of any projects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now = time.time_ns() // 1000
        self._bodies = BodyWriter(connection)
        self.revision = self._next_revision()

    def _next_revision(self) -> int:
        highest = self._connection.execute(select(func.max(schema.runs.c.revision).label("revision"))).scalar()
        return int(highest or 0) + 1

    def take(self, batches: Iterable[ParsedBatch]) -> list[Answer]:
        """Store all batches; one answer for each."""
        return [self._take_one(batch) for batch in batches]

    def _take_one(self, batch: ParsedBatch) -> Answer:
        fresh = self._not_seen(batch)
        about_runs = [record for record in fresh if record["type"] not in (HEARTBEAT, LOSS)]
        keys = self._store_runs(batch.project_id, about_runs, _alive(fresh))
        self._store_steps(keys, [record for record in about_runs if record["type"].startswith("step.")])
        self._store_scores(keys, [record for record in fresh if record["type"] == SCORE])
        self._store_losses(batch.project_id, [record for record in fresh if record["type"] == LOSS])
        self._bodies.write()
        return Answer(len(fresh), len(batch.records) - len(fresh), batch.rejected)

    # -- duplicates ----------------------------------------------------------------------------------------------

    def _not_seen(self, batch: ParsedBatch) -> list[dict[str, Any]]:
        numbered = [(record, *_stream_and_number(record)) for record in batch.records]
        taken = self._ranges(batch.project_id, {stream for _, stream, _ in numbered})
        fresh = [record for record, stream, number in numbered if taken[stream].add(number)]
        self._save_ranges(batch.project_id, taken)
        return fresh

    def _ranges(self, project_id: int, streams: set[str]) -> dict[str, Ranges]:
        table = schema.streams
        found = self._connection.execute(
            select(table.c.stream, table.c.ranges).where(table.c.project_id == project_id, table.c.stream.in_(streams))
        )
        known = {row.stream: Ranges(json.loads(row.ranges)) for row in found}
        return {stream: known.get(stream) or Ranges() for stream in streams}

    def _save_ranges(self, project_id: int, taken: dict[str, Ranges]) -> None:
        from sqlalchemy.dialects.sqlite import insert as upsert

        values = [
            {"project_id": project_id, "stream": stream, "ranges": json.dumps(ranges.pairs), "seen_at": self._now}
            for stream, ranges in taken.items()
        ]
        if values:
            statement = upsert(schema.streams)
            changed = {"ranges": statement.excluded.ranges, "seen_at": statement.excluded.seen_at}
            self._connection.execute(statement.on_conflict_do_update(set_=changed), values)

    # -- runs ----------------------------------------------------------------------------------------------------

    def _store_runs(
        self, project_id: int, records: list[dict[str, Any]], alive: dict[str, tuple[int, float]]
    ) -> dict[str, int]:
        """Merge what is said about runs; returns the key of each run that anything is said about."""
        by_run: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            by_run.setdefault(record["run_id"], []).append(record)
        held = self._held_runs(project_id, {*by_run, *alive})
        for run_id, about in by_run.items():
            self._merge_run(project_id, run_id, about, held.get(run_id), alive.get(run_id))
        self._touch_runs(held, {run_id: sign for run_id, sign in alive.items() if run_id not in by_run})
        return {run_id: row["key"] for run_id, row in self._held_runs(project_id, set(by_run)).items()}

    def _held_runs(self, project_id: int, run_ids: set[str]) -> dict[str, Any]:
        table = schema.runs
        held: dict[str, Any] = {}
        wanted = list(run_ids)
        for start in range(0, len(wanted), _IN_ONE_QUERY):
            part = wanted[start : start + _IN_ONE_QUERY]
            found = self._connection.execute(
                select(table).where(table.c.project_id == project_id, table.c.run_id.in_(part))
            )
            held.update({row["run_id"]: row for row in found.mappings()})
        return held

    def _merge_run(
        self,
        project_id: int,
        run_id: str,
        records: list[dict[str, Any]],
        held: Any,
        alive: tuple[int, float] | None,
    ) -> None:
        seen_at = max(min(record["time"], self._now) for record in records)
        started = min(record.get("started_at") or record["time"] for record in records)
        about_itself = [record for record in records if record["type"].startswith("run.")]
        values: dict[str, Any] = {"revision": self.revision}
        if held is None or about_itself or started < held["started_at"]:
            folded = Folded() if held is None else rows.folded_row(held, self._bodies)
            for record in about_itself:
                folded.add(facts_of(record), version_of(record))
            stand_in = started if held is None else min(started, held["started_at"])
            values.update(rows.run_row(folded, stand_in, self._bodies))
        starts = [record for record in records if record["type"] == RUN_START]
        if held is None or starts:
            values["stream"] = _stream_and_number((starts or records)[0])[0]
        if alive is not None:
            seen_at = max(seen_at, min(alive[0], self._now))
            values["heartbeat_seconds"] = alive[1]
        values["seen_at"] = max(seen_at, held["seen_at"] if held is not None else 0)
        if held is None:
            values.setdefault("heartbeat_seconds", _DEFAULT_HEARTBEAT_SECONDS)
            self._connection.execute(insert(schema.runs).values(project_id=project_id, run_id=run_id, **values))
        else:
            self._connection.execute(update(schema.runs).where(schema.runs.c.key == held["key"]).values(**values))

    def _touch_runs(self, held: dict[str, Any], alive: dict[str, tuple[int, float]]) -> None:
        values = [
            {
                "run_key": held[run_id]["key"],
                "at": max(held[run_id]["seen_at"], min(at, self._now)),
                "seconds": seconds,
                "now_at": self.revision,
            }
            for run_id, (at, seconds) in alive.items()
            if run_id in held
        ]
        if values:
            statement = (
                update(schema.runs)
                .where(schema.runs.c.key == bindparam("run_key"))
                .values(seen_at=bindparam("at"), heartbeat_seconds=bindparam("seconds"), revision=bindparam("now_at"))
            )
            self._connection.execute(statement, values)

    # -- steps ---------------------------------------------------------------------------------------------------

    def _store_steps(self, keys: dict[str, int], records: list[dict[str, Any]]) -> None:
        by_step: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for record in records:
            by_step.setdefault((keys[record["run_id"]], record["step_id"]), []).append(record)
        held = self._held_steps(list(by_step))
        new = []
        for (run_key, step_id), about in by_step.items():
            row = held.get((run_key, step_id))
            folded = Folded() if row is None else rows.folded_row(row, self._bodies)
            for record in about:
                folded.add(facts_of(record), version_of(record))
            started = min(record.get("started_at") or record["time"] for record in about)
            started = started if row is None else min(started, row["started_at"])
            values = rows.step_row(folded, started, self._bodies)
            values["revision"] = self.revision
            if row is None:
                new.append({"run_key": run_key, "step_id": step_id, **values})
            else:
                self._connection.execute(update(schema.steps).where(schema.steps.c.key == row["key"]).values(**values))
        if new:
            self._connection.execute(insert(schema.steps), new)

    def _held_steps(self, wanted: list[tuple[int, str]]) -> dict[tuple[int, str], Any]:
        table = schema.steps
        held: dict[tuple[int, str], Any] = {}
        for start in range(0, len(wanted), _IN_ONE_QUERY):
            part = wanted[start : start + _IN_ONE_QUERY]
            found = self._connection.execute(select(table).where(tuple_(table.c.run_key, table.c.step_id).in_(part)))
            held.update({(row["run_key"], row["step_id"]): row for row in found.mappings()})
        return held

    # -- the rest ------------------------------------------------------------------------------------------------

    def _store_scores(self, keys: dict[str, int], records: list[dict[str, Any]]) -> None:
        values = [
            {
                "run_key": keys[record["run_id"]],
                "step_id": record.get("step_id"),
                "name": record["name"],
                "value": json.dumps(record["value"]),
                "comment": record.get("comment"),
                "time": record["time"],
            }
            for record in records
        ]
        if values:
            self._connection.execute(insert(schema.scores), values)

    def _store_losses(self, project_id: int, records: list[dict[str, Any]]) -> None:
        values = [
            {
                "project_id": project_id,
                "stream": _stream_and_number(record)[0],
                "reason": record["reason"],
                "records": min(record["records"], _MOST_LOST),
                "time": record["time"],
            }
            for record in records
        ]
        if values:
            self._connection.execute(insert(schema.losses), values)


def _stream_and_number(record: dict[str, Any]) -> tuple[str, int]:
    stream, _, number = record["id"].partition("-")
    return stream, int(number)


def _alive(records: list[dict[str, Any]]) -> dict[str, tuple[int, float]]:
    """For each run in a heartbeat: when its process was alive, and how many seconds until the next sign."""
    signs: dict[str, tuple[int, float]] = {}
    for record in records:
        if record["type"] == HEARTBEAT:
            seconds = float(min(record["interval"], _LONGEST_HEARTBEAT_SECONDS))
            for run_id in record["runs"]:
                signs[run_id] = max(signs.get(run_id, (0, 0.0)), (record["time"], seconds))
    return signs
