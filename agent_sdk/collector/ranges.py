"""Sets of numbers that are mostly one run of neighbours: which records of a stream have arrived."""

from __future__ import annotations

from bisect import bisect_right


class Ranges:
    """A set of integers as sorted, disjoint, non-adjacent ranges ``[first, last]``."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[list[int]] | None = None) -> None:
        self.pairs = pairs or []

    def add(self, number: int) -> bool:
        """Add ``number``; false if it was there."""
        at = bisect_right(self.pairs, [number, 1 << 64])
        before = self.pairs[at - 1] if at else None
        after = self.pairs[at] if at < len(self.pairs) else None
        if before is not None and number <= before[1]:
            return False
        joins_before = before is not None and before[1] == number - 1
        joins_after = after is not None and after[0] == number + 1
        if joins_before and joins_after:
            before[1] = after[1]  # type: ignore[index]
            del self.pairs[at]
        elif joins_before:
            before[1] = number  # type: ignore[index]
        elif joins_after:
            after[0] = number  # type: ignore[index]
        else:
            self.pairs.insert(at, [number, number])
        return True
