"""Any object to a bounded piece of JSON, in the caller's thread, without ever raising.

Small plain data goes straight to the JSON library. Everything else is walked once, with an explicit stack and budgets
for depth, number of values, bytes and time. Never calls ``repr``, properties, lazy loaders or anybody's ``__iter__``
but those of the built-in types.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Iterator

from agent_sdk.encoding.adapters import Opened, open_value, type_name
from agent_sdk.encoding.json_codec import dumps
from agent_sdk.encoding.limits import DEFAULT_LIMITS, Limits

#: Data within these bounds needs no budgets: it is smaller than any of them.
_SMALL_NODES = 512
_SMALL_CHARACTERS = 16_384
_LONGEST_ESCAPE = 6  # a control character is written as \u0000
_INT64 = 1 << 63
_CHECK_CLOCK_EVERY = 64
_HEAD_OF_A_NUMBER = 50
_CHILDREN = "$cut"


def snapshot(value: Any, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """JSON of ``value`` as it is now, at most ``limits.max_bytes`` long; markers as in ``docs/wire.md``.

    >>> snapshot({"city": "Bern", "nights": 2})
    b'{"city":"Bern","nights":2}'
    """
    try:
        if _is_small_and_plain(value, limits):
            return dumps(value)
    except Exception:
        pass  # lone surrogates, deep nesting, a list that another thread is changing: the walk copes with them
    return _walked(value, limits)


def _is_small_and_plain(value: Any, limits: Limits) -> bool:
    nodes = min(_SMALL_NODES, limits.max_nodes)
    characters = min(_SMALL_CHARACTERS, limits.max_bytes // _LONGEST_ESCAPE, limits.max_string)
    pending = [value]
    for item in pending:  # the list grows while we read it: breadth first, without recursion
        kind = type(item)
        if kind is str:
            characters -= len(item)
        elif kind is dict:
            nodes -= len(item)
            if nodes < 0:
                return False
            for key in item:
                if type(key) is not str:
                    return False
                characters -= len(key)
            pending += item.values()
        elif kind is list:
            nodes -= len(item)
            if nodes < 0:
                return False
            pending += item
        elif kind is int:
            if not -_INT64 <= item < _INT64:
                return False
        elif kind is float:
            if item - item != 0.0:  # NaN or infinite
                return False
        elif item is not None and kind is not bool:
            return False
        if characters < 0:
            return False
    return True


def _walked(value: Any, limits: Limits) -> bytes:
    """Walk with ever smaller budgets, until what comes out fits: escapes can make text six times as long."""
    for shrink in (1, 3, 9, 81):
        try:
            data = dumps(_Walk(limits, shrink).run(value))
        except Exception:
            continue
        if len(data) <= limits.max_bytes:
            return data
    return dumps(_marker("bytes", value))


def _marker(reason: str, value: Any) -> dict[str, Any]:
    marker: dict[str, Any] = {"$cut": reason, "type": type_name(value)}
    kind = type(value)
    if kind in (dict, list, tuple, set, frozenset, str, bytes):
        marker["length"] = len(value)
    return marker


class _Walk:
    """One pass over one value."""

    def __init__(self, limits: Limits, shrink: int) -> None:
        self._bytes = limits.max_bytes // shrink
        self._nodes = limits.max_nodes
        self._objects = limits.max_objects
        self._max_depth = limits.max_depth
        self._max_string = limits.max_string // shrink
        self._give_up_at = perf_counter() + limits.max_seconds
        self._late = False
        #: Containers on the way from the root to here, by identity: meeting one again is a cycle.
        self._path: set[int] = set()

    def run(self, value: Any) -> Any:
        result: list[Any] = []
        frames: list[tuple[Iterator[Any], Any, int]] = [(iter([value]), result, 0)]
        while frames:
            items, target, identity = frames[-1]
            exhausted = self._exhausted()
            try:
                item = next(items)
            except StopIteration:
                frames.pop()
                self._path.discard(identity)
                continue
            except Exception as error:  # changed by another thread while we walk it, or hostile
                self._put(target, _CHILDREN, {"$cut": "unreadable", "type": type(error).__name__})
                frames.pop()
                self._path.discard(identity)
                continue
            if exhausted:
                self._put(target, _CHILDREN, {"$cut": exhausted})
                frames.pop()
                self._path.discard(identity)
                continue
            self._step(item, target, frames)
        return result[0]

    def _step(self, item: Any, target: Any, frames: list[tuple[Iterator[Any], Any, int]]) -> None:
        key, value = (self._key(item[0]), item[1]) if type(target) is dict else ("", item)
        self._nodes -= 1
        opened = self._open(value, len(frames))
        if type(opened) is Opened:
            child: Any = {} if opened.is_mapping else []
            self._put(target, key, child)
            self._bytes -= 2
            identity = id(value)
            self._path.add(identity)
            frames.append((opened.items, child, identity))
        else:
            self._put(target, key, opened)

    def _open(self, value: Any, depth: int) -> Any:
        """What stands for ``value``: something JSON can hold, or a container to go into."""
        kind = type(value)
        if kind is str:
            return self._string(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return self._integer(value)
        if kind is float:
            return self._float(value)
        if id(value) in self._path:
            return _marker("cycle", value)
        opened = open_value(value)
        if type(opened) is not Opened:
            return self._open(opened, depth) if type(opened) in (str, int, float) else opened
        if depth > self._max_depth:
            return _marker("depth", value)
        if opened.is_unknown:
            self._objects -= 1
            if self._objects < 0:
                return _marker("objects", value)
        return opened

    def _string(self, value: str) -> str:
        room = min(self._max_string, max(0, self._bytes))
        if len(value) > room:
            value = f"{value[:room]}…[cut {len(value) - room} characters]"
        if not value.isascii():
            value = value.encode("utf-8", "replace").decode()
        self._bytes -= len(value) + 3
        return value

    def _integer(self, value: int) -> Any:
        if -_INT64 <= value < _INT64:
            self._bytes -= 8
            return value
        bits = value.bit_length()
        digits = bits * 30103 // 100_000 + 1
        marker: dict[str, Any] = {"$type": "int", "digits": digits}
        if bits < 8192:  # longer ones take quadratic time to print
            marker["value"] = str(value)[:_HEAD_OF_A_NUMBER]
        return marker

    def _float(self, value: float) -> Any:
        self._bytes -= 8
        if value - value == 0.0:
            return value
        return {"$type": "float", "value": "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"}

    def _key(self, key: Any) -> str:
        if type(key) is str:
            return self._string(key)
        opened = self._open(key, 0)
        if type(opened) is str:
            return opened
        if opened is None or type(opened) in (int, float, bool):
            return str(opened)
        return f"[{type_name(key)}]"

    @staticmethod
    def _put(target: Any, key: str, value: Any) -> None:
        if type(target) is list:
            target.append(value)
            return
        while key in target:  # 1 and "1" are two keys to Python
            key += "'"
        target[key] = value

    def _exhausted(self) -> str:
        if self._nodes <= 0:
            return "nodes"
        if self._bytes <= 0:
            return "bytes"
        if self._nodes % _CHECK_CLOCK_EVERY == 0 and perf_counter() > self._give_up_at:
            self._late = True
        return "time" if self._late else ""
