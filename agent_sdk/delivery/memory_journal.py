"""The journal's stand-in where no disk is wanted or to be had."""

from __future__ import annotations

from typing import Sequence

from agent_sdk.delivery.threads import new_lock


class MemoryJournal:
    """The same queue without a disk: for ``durability="memory"``, and for what a full or read-only disk refuses.

    When it is full, new records find no room: ``append`` returns how many.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._guard = new_lock()
        self._lines: list[bytes] = []
        self.size = 0

    def append(self, lines: Sequence[bytes]) -> int:
        """Take what there is room for; returns how many records there was none for."""
        with self._guard:
            for taken, line in enumerate(lines):
                if self.size + len(line) > self._max_bytes:
                    return len(lines) - taken
                self._lines.append(line)
                self.size += len(line)
            return 0

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def waiting_bytes(self) -> int:
        """Size of the records that are not acknowledged."""
        return self.size

    def peek(self, max_bytes: int, max_records: int) -> list[bytes]:
        """The oldest records: at least one if there is one, else within both limits."""
        with self._guard:
            page: list[bytes] = []
            size = 0
            for line in self._lines[:max_records]:
                size += len(line)
                if page and size > max_bytes:
                    break
                page.append(line)
            return page

    def advance(self, count: int) -> None:
        """Acknowledge the first ``count`` records."""
        with self._guard:
            self.size -= sum(map(len, self._lines[:count]))
            del self._lines[:count]

    def forget_unreadable(self) -> int:
        """Memory is always readable."""
        return 0

    def close(self) -> None:
        """Nothing to give back."""

    def remove(self) -> None:
        """Nothing to delete."""
