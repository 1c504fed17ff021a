"""What callers pass, turned into what records hold: short, cheap, and forgiving of wrong types."""

from __future__ import annotations

from typing import Any, Iterable

from agent_sdk.encoding import dumps, snapshot
from agent_sdk.wire.records import COMPLETED, STATUSES

_MAX_LABEL = 1024
_MAX_TAGS = 100
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
    if value is None or isinstance(value, (bool, int, float)):
        return str(value)
    text = snapshot(value).decode()
    return text[1:-1] if text.startswith('"') else text


def status(value: Any) -> str:
    """A status of the record format for what a caller calls it."""
    text = value.strip().lower() if isinstance(value, str) else ""
    return text if text in STATUSES else _SYNONYMS.get(text, COMPLETED)


def usage(values: dict[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that are numbers and not negative; counts of tokens are whole."""
    known = {}
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
            known[name] = int(value) if name.endswith("_tokens") else value
    return known


def tags(values: Iterable[Any]) -> list[str]:
    """Tags as text; one string is one tag."""
    if isinstance(values, str):
        return [label(values)]
    return [label(value) for value in list(values)[:_MAX_TAGS]]


def metadata(value: Any) -> bytes:
    """JSON of an object: what is none is wrapped under ``value``."""
    data = snapshot(value)
    return data if data[:1] == b"{" else b'{"value":' + data + b"}"


def quoted(value: str) -> bytes:
    """JSON of a label."""
    try:
        return dumps(value)
    except Exception:
        return snapshot(value)  # lone surrogates


def shed(body: bytes | None) -> bytes | None:
    """What stands for a body that memory or disk had no room for."""
    return None if body is None else b'{"$shed":%d}' % len(body)
