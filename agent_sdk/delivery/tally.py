"""A counter that outlives ``kill -9``: the number of records that a process had accepted, in shared memory.

What a process had recorded but not yet written when it was killed is gone; with this number the next process can at
least say how many records that were. Without ``/dev/shm`` (outside Linux) there is no such number, and nothing is said.
"""

from __future__ import annotations

import os
from typing import Any

_DIRECTORY = "/dev/shm"
_PREFIX = "agent-sdk-"
_SIZE = 4096


class Tally:
    """Two 64-bit numbers in a shared page: records accepted, records refused."""

    def __init__(self, path: str, page: Any) -> None:
        self.path = path
        self._page = page
        self.view = memoryview(page).cast("Q")

    @classmethod
    def create(cls, stream: str) -> Tally | None:
        """A fresh tally, or none where shared memory is not to be had."""
        import mmap

        path = os.path.join(_DIRECTORY, _PREFIX + stream)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            # Blocks are reserved now: a write to a page that a full tmpfs cannot back would kill the process.
            os.posix_fallocate(descriptor, 0, _SIZE)
            return cls(path, mmap.mmap(descriptor, _SIZE))
        except (OSError, AttributeError, ValueError):
            _unlink(path)
            return None
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Forget the number. The page stays mapped while a caller may still write to it."""
        _unlink(self.path)


def read(stream: str) -> int | None:
    """How many records the dead process behind ``stream`` had accepted, where that is known."""
    try:
        with open(os.path.join(_DIRECTORY, _PREFIX + stream), "rb") as file:
            return int.from_bytes(file.read(8), "little") or None
    except OSError:
        return None


def remove(stream: str) -> None:
    """Forget the number of a dead process."""
    _unlink(os.path.join(_DIRECTORY, _PREFIX + stream))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
