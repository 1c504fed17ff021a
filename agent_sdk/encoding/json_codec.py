"""JSON to and from bytes: orjson where it is installed (``pip install agent-sdk[fast]``), else the standard library."""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

# Made once: `json.dumps` with any option of its own makes one for each call.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def dumps_standard(value: Any) -> bytes:
    """JSON of plain data, in UTF-8, by the standard library."""
    return _encoder.encode(value).encode()


if orjson is None:
    dumps = dumps_standard
    loads: Any = json.loads
else:
    dumps = orjson.dumps
    loads = orjson.loads
