"""JSON to and from bytes: orjson where it is installed (``pip install agent-sdk[fast]``), else the standard library."""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]


def _dumps_standard(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), check_circular=False).encode()


if orjson is None:
    dumps = _dumps_standard
    loads: Any = json.loads
else:
    dumps = orjson.dumps
    loads = orjson.loads
