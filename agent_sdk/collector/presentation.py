"""How values look to a person: the filters of the templates. Every text that comes out is escaped by the templates."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any, Mapping

#: A shape and a word for each status: colour alone tells nothing to many people.
STATUS_SHAPES = {
    "running": "●",
    "completed": "✓",
    "failed": "✕",
    "cancelled": "⊘",
    "interrupted": "❚❚",
    "lost": "◌",
}
_BUCKETS = {
    "input_tokens": "input",
    "cached_tokens": "cached",
    "output_tokens": "output",
    "reasoning_tokens": "reasoning",
    "total_tokens": "total",
    "cost": "cost",
}


def duration(microseconds: int | None) -> str:
    """3 µs, 42 ms, 1.24 s, 2 min 05 s, 3 h 20 min; a dash for none."""
    if microseconds is None:
        return "–"
    if microseconds < 1_000:
        return f"{microseconds} µs"
    if microseconds < 100_000:
        return f"{microseconds / 1000:.3g} ms"
    if microseconds < 1_000_000:
        return f"{microseconds // 1000} ms"
    seconds = microseconds / 1_000_000
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def count(number: int | None) -> str:
    """12,345; a dash for none."""
    return "–" if number is None else f"{number:,}"


def dollars(amount: float | None) -> str:
    """$0.0042, $1.20; a dash for unknown, which is not the same as nothing."""
    if amount is None:
        return "–"
    amount = min(amount, 1e300)  # a whole number may be larger than any float
    return f"${amount:.2f}" if amount == 0 or amount >= 1 else f"${amount:.2g}"


def ago(microseconds: int) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = max(0, time.time_ns() // 1000 - microseconds) // 1_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now" if seconds < 2 else f"{seconds} s ago"


def moment(microseconds: int) -> str:
    """The time itself, UTC."""
    return datetime.fromtimestamp(microseconds / 1_000_000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def iso(microseconds: int) -> str:
    """The time for machines."""
    return datetime.fromtimestamp(microseconds / 1_000_000, timezone.utc).isoformat()


def usage_rows(usage: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values of what was used, the known buckets first."""
    rows = []
    for name in sorted(usage or {}, key=lambda name: (list(_BUCKETS).index(name) if name in _BUCKETS else 99, name)):
        value = (usage or {})[name]
        shown = dollars(value) if name == "cost" else count(value) if isinstance(value, int) else str(value)
        rows.append((_BUCKETS.get(name, name), shown))
    return rows


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of chat messages."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(item, dict) and "role" in item and "content" in item for item in value)
    )


def marker(value: Any) -> str:
    """The text of a marker that stands for something that was not recorded; empty for a value that is none."""
    if not isinstance(value, dict):
        return ""
    if isinstance(value.get("$shed"), int):
        return f"not kept under memory pressure ({count(value['$shed'])} bytes)"
    if "$cut" in value:
        size = f", {count(value['length'])} items" if isinstance(value.get("length"), int) else ""
        return f"cut: too many {value['$cut']}{size}"
    if "$type" in value:
        rest = ", ".join(f"{name} {known}" for name, known in value.items() if name != "$type" and _is_short(known))
        return f"{value['$type']}{': ' + rest if rest else ''}"
    return ""


def _is_short(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and len(value) < 60)


FILTERS = {
    "duration": duration,
    "count": count,
    "dollars": dollars,
    "ago": ago,
    "moment": moment,
    "iso": iso,
    "usage_rows": usage_rows,
    "marker": marker,
}
TESTS = {"conversation": is_conversation}
