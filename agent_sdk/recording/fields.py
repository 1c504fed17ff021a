"""What callers pass, turned into what records hold: short, cheap, and forgiving of wrong types."""

from __future__ import annotations

from itertools import islice
from typing import Any, Mapping

from agent_sdk.encoding import dumps, snapshot
from agent_sdk.wire.records import COMPLETED, STATUSES

_MAX_LABEL = 1024
_MAX_TAGS = 100
_MOST = 1 << 53  # what every JSON reader can count to
_SYNONYMS = {"success": COMPLETED, "succeeded": COMPLETED, "ok": COMPLETED, "error": "failed", "canceled": "cancelled"}


def label(value: Any) -> str:
    """Text for a name or an id, cut to what the record format allows."""
    if type(value) is not str:
        value = _as_text(value)
    text: str = value
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"


def optional_label(value: Any) -> str | None:
    """The same, for what may be missing."""
    return None if value is None else label(value)


def _as_text(value: Any) -> str:
    if value is None or value is True or value is False:
        return str(value)
    data = snapshot(value)[0]
    return data if type(data) is str else dumps(data).decode()


def status(value: Any) -> str:
    """A status of the record format for what a caller calls it."""
    text = value.strip().lower() if type(value) is str and len(value) < _MAX_LABEL else ""
    return text if text in STATUSES else _SYNONYMS.get(text, COMPLETED)


def usage(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of ``values`` that are numbers and not negative; counts of tokens are whole."""
    known = {}
    for name, value in values.items():
        if type(value) not in (int, float):
            value = _as_number(value)
        if value is not None and 0 <= value < _MOST:
            known[name] = int(value) if name.endswith("_tokens") else value
    return known or None


def named(values: Any) -> dict[str, Any]:
    """Values by name, as keyword arguments can be made of; no foreign mapping is asked for its own idea of items."""
    if type(values) is not dict:
        values = snapshot(values)[0]
    return {key: values[key] for key in values if type(key) is str and key != "self"} if type(values) is dict else {}


def nanoseconds(milliseconds: Any) -> int:
    """A time span as the clock counts it; 0 for what is none."""
    return int((usage({"": milliseconds}) or {"": 0})[""] * 1_000_000)


def _as_number(value: Any) -> Any:
    """What numpy, Decimal and their like say their value is; None for what is no number."""
    number = snapshot(value)[0]
    try:
        return float(number) if type(number) is str else number if type(number) in (int, float) else None
    except ValueError:
        return None


def tags(values: Any) -> list[str]:
    """Tags as text; one string, or anything else that is no collection, is one tag."""
    if type(values) not in (list, tuple, set, frozenset, dict):
        return [label(values)]
    return [label(value) for value in islice(values, _MAX_TAGS)]


def merged_tags(known: list[str] | None, values: Any) -> list[str]:
    """The tags that are known and new ones, each once."""
    return list(dict.fromkeys([*(known or ()), *tags(values)]))[:_MAX_TAGS]


def merged_metadata(parts: list[Any]) -> dict[str, Any] | None:
    """One object of several, name by name; what is no object is put under ``value``."""
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(part if type(part) is dict else {"value": part})
    return merged or None


def shed(body: Any, size: int) -> Any:
    """What stands for a body that memory or disk had no room for."""
    return None if body is None else {"$shed": size}
