"""JSON to and from bytes: orjson where it is installed (``pip install agent-sdk[fast]``), else the standard library.

``import agent_sdk`` does not load orjson, which would cost a third more: the first tracker does, by ``load_codec``.
"""

from __future__ import annotations

import json
from typing import Any, Callable

# Made once: `json.dumps` with any option of its own makes one for each call.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
_dumps: Callable[[Any], bytes] | None = None
_loads: Callable[[Any], Any] = json.loads


def dumps(value: Any) -> bytes:
    """JSON of plain data, in UTF-8. Raises for anything else."""
    return (_dumps or load_codec())(value)


def loads(data: bytes | str) -> Any:
    """What a JSON text says. Raises ``ValueError`` for what is none."""
    if _dumps is None:
        load_codec()
    return _loads(data)


def dumps_standard(value: Any) -> bytes:
    """The same as ``dumps``, by the standard library."""
    return _encoder.encode(value).encode()


def load_codec() -> Callable[[Any], bytes]:
    """Choose the library; returns its ``dumps``."""
    global _dumps, _loads
    try:
        import orjson

        _dumps, _loads = orjson.dumps, orjson.loads
    except ImportError:
        _dumps = dumps_standard
    return _dumps
