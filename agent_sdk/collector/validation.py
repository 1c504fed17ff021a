"""Whether a record is one: the JSON Schema of the record format by hand, because every record passes through here.

``tests/collector/test_validation.py`` holds this module against ``agent_sdk/wire/schema.json``.
"""

from __future__ import annotations

import re
from typing import Any, Callable

from agent_sdk.wire import records

MAX_TIME = 9_007_199_254_740_991
_RECORD_ID = re.compile(r"[0-9a-f]{16}-[1-9][0-9]{0,18}")
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_STEP_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "total_tokens")
_LEDGER = ("recorded", "delivered", "journaled", "pending")

Check = Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _is_time(value: Any) -> bool:
    return _is_integer(value) and 0 <= value <= MAX_TIME


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(most: int) -> Check:
    return lambda value: type(value) is str and len(value) <= most


def _matches(pattern: re.Pattern[str]) -> Check:
    return lambda value: type(value) is str and pattern.fullmatch(value) is not None


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_object(value: Any) -> bool:
    return value is None or type(value) is dict


def _is_tags(value: Any) -> bool:
    return value is None or (type(value) is list and len(value) <= 1000 and all(map(_is_text(1024), value)))


def _is_error(value: Any) -> bool:
    if type(value) is not dict:
        return value is None
    return all(value.get(name) is None or type(value[name]) is str for name in ("type", "message", "stack"))


def _is_usage(value: Any) -> bool:
    if type(value) is not dict:
        return value is None
    counts = (value.get(name) for name in _TOKENS)
    cost = value.get("cost")
    return all(count is None or (_is_integer(count) and count >= 0) for count in counts) and (
        cost is None or (_is_number(cost) and cost >= 0)
    )


def _is_run_ids(value: Any) -> bool:
    return type(value) is list and all(map(_matches(_RUN_ID), value))


def _is_ledger(value: Any) -> bool:
    if type(value) is not dict:
        return value is None
    dropped = value.get("dropped", {})
    return (
        all(_is_integer(value.get(name, 0)) for name in _LEDGER)
        and type(dropped) is dict
        and all(map(_is_integer, dropped.values()))
    )


_RUN: dict[str, Check] = {
    "run_id": _matches(_RUN_ID),
    "agent_name": _is_text(1024),
    "status": lambda value: type(value) is str and value in records.STATUSES,
    "started_at": _is_time,
    "error": _is_error,
    "usage": _is_usage,
    "source": _is_object,
    "session_id": _or_null(_is_text(1024)),
    "user_id": _or_null(_is_text(1024)),
    "external_id": _or_null(_is_text(1024)),
    "parent_run_id": _or_null(_matches(_RUN_ID)),
    "tags": _is_tags,
    "metadata": _is_object,
}
_STEP: dict[str, Check] = {
    "run_id": _RUN["run_id"],
    "step_id": _matches(_STEP_ID),
    "parent_step_id": _or_null(_matches(_STEP_ID)),
    "name": _is_text(1024),
    "step_type": _is_text(64),
    "status": _RUN["status"],
    "started_at": _is_time,
    "error": _is_error,
    "model": _or_null(_is_text(1024)),
    "usage": _is_usage,
    "first_token_at": _or_null(_is_time),
    "tags": _is_tags,
    "metadata": _is_object,
}
_SCORE: dict[str, Check] = {
    "run_id": _RUN["run_id"],
    "step_id": _or_null(_matches(_STEP_ID)),
    "name": _is_text(1024),
    "value": lambda value: type(value) in (int, float, str, bool),
    "comment": lambda value: value is None or type(value) is str,
}
_HEARTBEAT: dict[str, Check] = {
    "runs": _is_run_ids,
    "interval": lambda value: _is_number(value) and value > 0,
    "ledger": _is_ledger,
}
_LOSS: dict[str, Check] = {
    "reason": lambda value: type(value) is str,
    "records": lambda value: _is_integer(value) and value >= 0,
    "runs": _or_null(_is_run_ids),
}

#: For each type of record: what it must have, and how each field is checked.
_TYPES: dict[str, tuple[tuple[str, ...], dict[str, Check]]] = {
    records.RUN_START: (("run_id", "agent_name"), _RUN),
    records.RUN_UPDATE: (("run_id",), _RUN),
    records.RUN_END: (("run_id", "status"), _RUN),
    records.STEP_START: (("run_id", "step_id", "name", "step_type"), _STEP),
    records.STEP_UPDATE: (("run_id", "step_id"), _STEP),
    records.STEP_END: (("run_id", "step_id", "name", "step_type", "status", "started_at"), _STEP),
    records.SCORE: (("run_id", "name", "value"), _SCORE),
    records.HEARTBEAT: (("runs", "interval"), _HEARTBEAT),
    records.LOSS: (("reason", "records"), _LOSS),
}


def why_refused(record: Any) -> str:
    """Why ``record`` is none, in words for the person who sent it; empty if it is one."""
    if type(record) is not dict:
        return "not a JSON object"
    kind = record.get("type")
    if type(kind) is not str or kind not in _TYPES:
        return "unknown record type"
    if not _matches(_RECORD_ID)(record.get("id")):
        return "id: must be <16 hex digits>-<number>"
    if not _is_time(record.get("time")):
        return "time: must be microseconds since the epoch"
    required, checks = _TYPES[kind]
    for name in required:
        if name not in record:
            return f"{name}: missing"
    for name, value in record.items():
        check = checks.get(name)
        if check is not None and not check(value):
            return f"{name}: not as the record format says (docs/wire.md)"
    return ""
