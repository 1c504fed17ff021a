"""A record to its line of JSON, in the writer's thread."""

from __future__ import annotations

from typing import Any, Mapping

from agent_sdk.encoding.json_codec import dumps
from agent_sdk.encoding.limits import Limits
from agent_sdk.encoding.snapshot import marker, walked


def encode_line(record: Mapping[str, Any], limits: Limits) -> bytes:
    """JSON of plain data, ended by a line feed; no field takes more than ``limits.max_bytes`` in it."""
    try:
        line = dumps(record)
        if len(line) <= limits.max_bytes:
            return line + b"\n"
    except Exception:
        pass  # half a surrogate pair, say
    fields = [b'"%b":%b' % (name.encode(), _fitted(value, limits)) for name, value in record.items()]
    return b"{" + b",".join(fields) + b"}\n"


def _fitted(value: Any, limits: Limits) -> bytes:
    """``value`` as it is, or with ever smaller budgets until it fits: escapes can make text six times as long."""
    for shrink in (0, 1, 3, 9, 81):
        try:
            data = dumps(walked(value, limits, shrink)[0] if shrink else value)
        except Exception:
            continue
        if len(data) <= limits.max_bytes:
            return data
    return dumps(marker("bytes", value))
