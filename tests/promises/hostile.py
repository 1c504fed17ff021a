"""Objects that fight back, and every place where a user could hand one in."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import types
from typing import Any, Callable


class Raising:
    """Every operation raises."""

    def _spring(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("sprung")

    __repr__ = __str__ = __len__ = __iter__ = __next__ = __eq__ = __bool__ = __getitem__ = __contains__ = _spring
    __call__ = __int__ = __float__ = __index__ = __format__ = __enter__ = __lt__ = __add__ = __getattribute__ = _spring

    def __hash__(self) -> int:
        return 1

    @property
    def __class__(self) -> Any:
        raise RuntimeError("sprung")

    @property
    def __dict__(self) -> Any:
        raise RuntimeError("sprung")


class Lying(str):
    """Says that it is text, and that it has no length."""

    def __len__(self) -> int:
        return -5

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Any:
        return iter([1])


class Endless(dict):
    """Has no end."""

    def items(self) -> Any:
        while True:
            yield object(), object()

    keys = values = __iter__ = items


class Lazy:
    """Loads from somewhere slow whatever one asks of it, as an ORM does."""

    def __init__(self) -> None:
        self.__dict__["touched"] = []

    def __getattr__(self, name: str) -> Any:
        self.__dict__["touched"].append(name)
        raise TimeoutError("the database is away")


def cycle() -> Any:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


def deep() -> Any:
    value: Any = None
    for _ in range(1000):
        value = [value]
    return value


async def _coroutine() -> None:
    pass


def coroutine() -> Any:
    made = _coroutine()
    made.close()
    return made


#: Made anew for each use, because some are used up.
VALUES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "raising": Raising,
    "raising class": lambda: Raising,
    "lying": lambda: Lying("x"),
    "endless": Endless,
    "lazy": Lazy,
    "cycle": cycle,
    "deep": deep,
    "huge text": lambda: "x" * 50_000_000,
    "huge bytes": lambda: bytes(50_000_000),
    "huge number": lambda: 10**5000,
    "surrogate": lambda: "\ud800\udfff\udc00",
    "nan": lambda: float("nan"),
    "infinity": lambda: {"a": [float("inf")]},
    "bytes": lambda: b"\xff\x00",
    "set": lambda: {frozenset([1]), (2, 3)},
    "odd keys": lambda: {Raising(): 1, None: 2, (1, 2): 3, 1.5: 4, b"k": 5},
    "generator": lambda: (n for n in range(3)),
    "coroutine": coroutine,
    "exception": lambda: ValueError(Raising()),
    "module": lambda: types,
    "class": lambda: type("Made", (), {"__slots__": ("a",)}),
    "decimal": lambda: decimal.Decimal("sNaN"),
    "datetime": lambda: datetime.datetime.max,
    "loop": lambda: asyncio.Lock,
    "memoryview": lambda: memoryview(b"abc").cast("B", (3, 1)),
    "self": lambda: VALUES,
}
