"""Any object to bounded plain data of our own, in the caller's thread, without ever raising.

Plain data is what JSON knows: dictionaries with text as keys, lists, text, numbers, booleans and None. Text and numbers
cannot change, so a snapshot of small plain data copies its containers and nothing else; making JSON of it is left to
the writer. Everything else is walked once, with an explicit stack and budgets for depth, number of values, bytes and
time. Never calls ``repr``, properties, lazy loaders or anybody's ``__iter__`` but those of the built-in types.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Iterator

from agent_sdk.encoding.adapters import Opened, open_value, type_name
from agent_sdk.encoding.limits import DEFAULT_LIMITS, Limits

#: Data within these bounds needs no budgets: it is smaller than any of them.
_SMALL_NODES = 512
_SMALL_DEPTH = 8
_INT64 = 1 << 63
_CHECK_CLOCK_EVERY = 64
_HEAD_OF_A_NUMBER = 50
_CHILDREN = "$cut"
#: What a value costs in memory beyond its characters.
NODE_SIZE = 64


def snapshot(value: Any, limits: Limits = DEFAULT_LIMITS) -> tuple[Any, int]:
    """``value`` as it is now, and about how many bytes of memory that takes; markers as in ``docs/wire.md``.

    >>> snapshot({"city": "Bern", "stay": range(2)})[0]
    {'city': 'Bern', 'stay': {'$type': 'range', 'start': 0, 'stop': 2, 'step': 1}}
    """
    kind = type(value)
    if kind is str and len(value) <= limits.small_characters:
        return value, NODE_SIZE + len(value)
    try:
        if kind is dict or kind is list:
            return _copied(value, limits.small_characters)
        if _is_plain(value, kind):
            return value, NODE_SIZE
    except Exception:
        pass
    return walked(value, limits)


class _NotSmallAndPlain(Exception):  # noqa: N818 - a case, not a mistake
    pass


def _copied(value: Any, most_characters: int) -> tuple[Any, int]:
    """A private copy of a dictionary or list and its size; raises where it is not small and plain throughout."""
    nodes, characters, depth = len(value), 0, 0
    if nodes > _SMALL_NODES:
        raise _NotSmallAndPlain
    whole = copy = value.copy()  # at once, for another thread may change it
    pending = []
    while True:
        if type(copy) is dict:
            items: Any = copy.items()
            for key in copy:
                if type(key) is not str:
                    raise _NotSmallAndPlain
                characters += len(key)
        else:
            items = enumerate(copy)
        for key, item in items:
            kind = type(item)
            if kind is str:
                characters += len(item)
            elif item is None or kind is bool or (kind is int and -_INT64 <= item < _INT64):
                pass  # before the call, because they are most of what there is
            elif kind is dict or kind is list:
                nodes += len(item)
                if nodes > _SMALL_NODES or depth >= _SMALL_DEPTH:
                    raise _NotSmallAndPlain
                copy[key] = item.copy()
                pending.append((copy[key], depth + 1))
            elif not _is_plain(item, kind):
                raise _NotSmallAndPlain
        if characters > most_characters:
            raise _NotSmallAndPlain
        if not pending:
            return whole, characters + NODE_SIZE * (1 + nodes)
        copy, depth = pending.pop()


def _is_plain(value: Any, kind: Any) -> bool:
    if kind is int:
        return bool(-_INT64 <= value < _INT64)
    return value is None or kind is bool or (kind is float and value - value == 0.0)  # neither NaN nor infinite


def walked(value: Any, limits: Limits, shrink: int = 1) -> tuple[Any, int]:
    """The same for anything at all; ``shrink`` divides the budgets for text."""
    walk = _Walk(limits, shrink)
    try:
        return walk.run(value), walk.size
    except Exception:  # no memory, or no stack
        return marker("unreadable", value), NODE_SIZE


def marker(reason: str, value: Any) -> dict[str, Any]:
    """What stands for a value that was left out."""
    found: dict[str, Any] = {"$cut": reason, "type": type_name(value)}
    kind = type(value)
    if kind in (dict, list, tuple, set, frozenset, str, bytes):
        found["length"] = len(value)
    return found


class _Walk:
    """One pass over one value."""

    def __init__(self, limits: Limits, shrink: int) -> None:
        self._bytes = self._all_bytes = limits.max_bytes // shrink
        self._nodes = self._all_nodes = limits.max_nodes
        self._objects = limits.max_objects
        self._max_depth = limits.max_depth
        self._max_string = limits.max_string // shrink
        self._give_up_at = perf_counter() + limits.max_seconds
        self._late = False
        #: Containers on the way from the root to here, by identity: meeting one again is a cycle.
        self._path: set[int] = set()

    @property
    def size(self) -> int:
        """About how much memory the result takes."""
        return NODE_SIZE * (self._all_nodes - self._nodes) + max(0, self._all_bytes - self._bytes)

    def run(self, value: Any) -> Any:
        """The whole result."""
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
            return marker("cycle", value)
        opened = open_value(value)
        if type(opened) is not Opened:
            return self._open(opened, depth) if type(opened) in (str, int, float) else opened
        if depth > self._max_depth:
            return marker("depth", value)
        if opened.is_unknown:
            self._objects -= 1
            if self._objects < 0:
                return marker("objects", value)
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
        found: dict[str, Any] = {"$type": "int", "digits": digits}
        if bits < 8192:  # longer ones take quadratic time to print
            found["value"] = str(value)[:_HEAD_OF_A_NUMBER]
        return found

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
