"""How much of a value a record may hold."""

from __future__ import annotations

from typing import NamedTuple

_LONGEST_ESCAPE = 6  # a control character is written as \u0000


class Limits(NamedTuple):
    """Bounds of one snapshot. What is beyond them is replaced by a marker that says what was there and how big.

    ``max_bytes`` bounds the JSON text, ``max_string`` the characters of one string, ``max_nodes`` the number of values,
    ``max_objects`` the objects among them of classes that nobody knows, and ``max_seconds`` the time that one snapshot
    may take its caller.
    """

    max_bytes: int = 262_144
    max_depth: int = 32
    max_nodes: int = 20_000
    max_objects: int = 100
    max_string: int = 65_536
    max_seconds: float = 0.05
    #: Plain data with no more characters fits for certain, whatever escapes they need.
    small_characters: int = 16_384

    @classmethod
    def for_bodies(cls, max_bytes: int) -> Limits:
        """The usual limits, but for the JSON text."""
        small = min(max_bytes // _LONGEST_ESCAPE, cls().small_characters)
        return cls(max_bytes=max_bytes, max_string=min(max_bytes, cls().max_string), small_characters=small)


DEFAULT_LIMITS = Limits()
