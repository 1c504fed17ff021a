"""Any Python object to bounded plain data, and that to redacted lines of JSON; never raises."""

from __future__ import annotations

from agent_sdk.encoding.adapters import is_a, type_name
from agent_sdk.encoding.errors import describe_error
from agent_sdk.encoding.json_codec import dumps, load_codec, loads
from agent_sdk.encoding.limits import DEFAULT_LIMITS, Limits
from agent_sdk.encoding.lines import encode_line
from agent_sdk.encoding.redaction import Redactor
from agent_sdk.encoding.snapshot import NODE_SIZE, snapshot

__all__ = [
    "DEFAULT_LIMITS",
    "NODE_SIZE",
    "Limits",
    "Redactor",
    "describe_error",
    "dumps",
    "encode_line",
    "is_a",
    "load_codec",
    "loads",
    "snapshot",
    "type_name",
]
