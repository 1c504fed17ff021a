"""Folded runs and steps to rows of the narrow tables and back.

A row keeps, beside its fields, the versions that decided them. Most runs and steps are told by one or two records, so
versions are stored as one default (under the empty name) and the exceptions from it.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Mapping

from agent_sdk.collector.bodies import BodyWriter
from agent_sdk.wire.fold import Folded, Version
from agent_sdk.wire.records import RUNNING

_BODIES = ("input", "output", "error", "metadata")
_JSON = ("tags", "usage", "source")
_STEP_JSON = ("tags", "usage")
_RUN_COLUMNS = (
    *("agent_name", "status", "started_at", "ended_at", "session_id", "user_id", "external_id", "parent_run_id"),
)
_STEP_COLUMNS = (
    *("parent_step_id", "name", "step_type", "status", "started_at", "ended_at", "first_token_at", "model"),
)
#: Columns that are never empty: what stands in them while no record has told is no fact.
_STAND_INS = ("started_at", "status", "agent_name", "name", "step_type")
#: Counts and costs above this are nonsense, and sums of them must fit into the 64 bits of an SQLite integer.
_MOST = 1 << 40
_TOKEN_BUCKETS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


def total_tokens(usage: Mapping[str, Any]) -> int | None:
    """The sum of the buckets, or the stated total where there are none."""
    buckets = [usage[name] for name in _TOKEN_BUCKETS if usage.get(name) is not None]
    total = sum(buckets) if buckets else usage.get("total_tokens")
    return None if total is None else int(total)


def run_row(folded: Folded, time: int, bodies: BodyWriter) -> dict[str, Any]:
    """The columns of a run; ``time`` stands in for a start that nobody has told yet."""
    row = _row(folded, time, bodies, _RUN_COLUMNS)
    row["agent_name"] = row["agent_name"] or ""
    row["source"] = _dumped(folded.fields.get("source"))
    return row


def step_row(folded: Folded, time: int, bodies: BodyWriter) -> dict[str, Any]:
    """The columns of a step; ``time`` stands in for a start that nobody has told yet."""
    row = _row(folded, time, bodies, _STEP_COLUMNS)
    row["name"] = row["name"] or ""
    row["step_type"] = row["step_type"] or "other"
    usage = folded.fields.get("usage") or {}
    total, cost = total_tokens(usage), usage.get("cost")
    row["total_tokens"] = None if total is None else min(total, _MOST)
    row["cost"] = None if cost is None else min(cost, _MOST)
    return row


def _row(folded: Folded, time: int, bodies: BodyWriter, columns: tuple[str, ...]) -> dict[str, Any]:
    fields = folded.fields
    row: dict[str, Any] = {name: fields.get(name) for name in columns}
    row["status"] = row["status"] or RUNNING
    row["started_at"] = time if row["started_at"] is None else row["started_at"]
    for name in _BODIES:
        row[name] = bodies.put(fields[name]) if name in fields else None
    error = fields.get("error") or {}
    row["error_type"], row["error_message"] = error.get("type"), _short(error.get("message"))
    row["tags"], row["usage"] = _dumped(fields.get("tags")), _dumped(fields.get("usage"))
    known = {*columns, *_BODIES, *(_JSON if columns is _RUN_COLUMNS else _STEP_JSON)}
    row["more"] = _dumped({name: value for name, value in fields.items() if name not in known} or None)
    row["versions"] = _packed(folded.versions)
    return row


def folded_row(row: Mapping[str, Any], bodies: BodyWriter) -> Folded:
    """What a stored row says, ready to take another record."""
    columns = _STEP_COLUMNS if "step_type" in row else _RUN_COLUMNS
    fields = {name: row[name] for name in columns if row[name] is not None}
    for name in _BODIES:
        if row[name] is not None:
            fields[name] = bodies.get(row[name])
    for name in (*_JSON, "more"):
        if row.get(name) is not None:
            value = json.loads(row[name])
            fields.update(value if name == "more" else {name: value})
    versions = _unpacked(row["versions"], fields)
    for name in _STAND_INS:
        if name not in versions:
            fields.pop(name, None)
    return Folded(fields, versions)


def _packed(versions: Mapping[str, Version]) -> str:
    counted = Counter(versions.values()).most_common(1)
    default = counted[0][0] if counted else (0, "")
    others = {_escaped(name): version for name, version in versions.items() if version != default}
    absent = sorted(name for name in _STAND_INS if name not in versions)
    return json.dumps({"": default, **others, **({"-": absent} if absent else {})}, separators=(",", ":"))


def _unpacked(text: str, fields: Mapping[str, Any]) -> dict[str, Version]:
    packed = json.loads(text)
    default = tuple(packed.pop(""))
    absent = packed.pop("-", ())
    versions = {name: default for name in _versioned_names(fields) if name not in absent}
    versions.update({name[1:] if name.startswith("\\") else name: tuple(version) for name, version in packed.items()})
    return versions


def _escaped(name: str) -> str:
    """Names that would be taken for the default or for what is absent get a mark."""
    return "\\" + name if name in ("", "-") or name.startswith("\\") else name


def _versioned_names(fields: Mapping[str, Any]) -> list[str]:
    names = []
    for name, value in fields.items():
        if name in ("metadata", "usage") and isinstance(value, dict):
            names += [f"{name}.{key}" for key in value]
        elif name != "tags":
            names.append(name)
    return names


def _dumped(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= 500 else text[:499] + "…"
