"""One file of a journal: whole records, one a line, written at the end and read from any place."""

from __future__ import annotations

import os
from typing import Iterator, Sequence

SUFFIX = ".ndjson"
PRIVATE = 0o600
#: A link in the place of a file is refused, and no child program inherits the file.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

_BLOCK = 1 << 20
_TAIL = 1 << 16


class Segment:
    """An open or closed segment file. ``records`` counts those that are not acknowledged."""

    __slots__ = ("descriptor", "number", "path", "records", "size")

    def __init__(self, path: str, number: int, descriptor: int | None, size: int, records: int) -> None:
        self.path = path
        self.number = number
        self.descriptor = descriptor
        self.size = size
        self.records = records

    @classmethod
    def create(cls, folder: str, number: int) -> Segment:
        """A new, empty file; raises ``OSError`` if it exists."""
        path = os.path.join(folder, f"{number:06d}{SUFFIX}")
        return cls(path, number, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, PRIVATE), 0, 0)

    @classmethod
    def load(cls, folder: str, number: int) -> Segment:
        """An existing file, cut after its last whole record."""
        path = os.path.join(folder, f"{number:06d}{SUFFIX}")
        segment = cls(path, number, os.open(path, os.O_RDWR | NO_FOLLOW), 0, 0)
        segment.size = segment.end_of_last_line()
        os.ftruncate(segment._open(), segment.size)
        segment.records = segment.count(0)
        segment.close()
        return segment

    def _open(self) -> int:
        if self.descriptor is None:
            self.descriptor = os.open(self.path, os.O_RDWR | NO_FOLLOW)
        return self.descriptor

    def append(self, lines: Sequence[bytes]) -> None:
        """Write all of ``lines`` at the end, or none of them."""
        data = b"".join(lines)
        descriptor = self._open()
        try:
            written = os.pwrite(descriptor, data, self.size)
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], self.size + written)
        except OSError:
            self._cut(descriptor)
            raise
        self.size += len(data)
        self.records += len(lines)

    def _cut(self, descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, self.size)
        except OSError:
            pass  # the next append overwrites the torn part, adoption cuts it

    def read(self, offset: int, max_bytes: int, max_records: int) -> list[bytes]:
        """Records from ``offset`` on, within both limits, at least one. Raises ``OSError`` where the file is torn."""
        if offset >= self.size:
            return []
        descriptor = self._open()
        data = os.pread(descriptor, min(max_bytes, self.size - offset), offset)
        end = data.rfind(b"\n") + 1
        while not end:
            more = os.pread(descriptor, min(max_bytes, self.size - offset - len(data)), offset + len(data))
            if not more:
                raise OSError(f"{self.path} ends in the middle of a record")
            data += more
            end = data.find(b"\n") + 1
        return [line + b"\n" for line in data[: end - 1].split(b"\n", max_records)[:max_records]]

    def count(self, offset: int) -> int:
        """How many lines begin at ``offset`` or later."""
        lines = 0
        for data in self._blocks(offset):
            lines += data.count(b"\n")
        return lines

    def _blocks(self, offset: int) -> Iterator[bytes]:
        descriptor = self._open()
        while True:
            data = os.pread(descriptor, min(_BLOCK, self.size - offset), offset)
            if not data:
                return
            offset += len(data)
            yield data

    def end_of_last_line(self) -> int:
        """Where the last whole record ends."""
        position = os.fstat(self._open()).st_size
        while position > 0:
            start = max(0, position - _TAIL)
            found = os.pread(self._open(), position - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
        return 0

    def last_line(self) -> bytes:
        """The last whole record, empty if there is none."""
        if not self.size:
            return b""
        length = _TAIL
        while True:
            start = max(0, self.size - length)
            data = os.pread(self._open(), self.size - start, start)
            before = data.rfind(b"\n", 0, -1)
            if before >= 0 or start == 0:
                return data[before + 1 :]
            length *= 2

    def vanished(self) -> bool:
        """Somebody has deleted the file under us."""
        return self.descriptor is not None and os.fstat(self.descriptor).st_nlink == 0

    def restore(self) -> None:
        """Give a deleted file that is still open a name again, with what it held."""
        if not self.vanished():
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | NO_FOLLOW, PRIVATE)
        position = 0
        for data in self._blocks(0):
            os.pwrite(descriptor, data, position)
            position += len(data)
        self.close()
        self.descriptor = descriptor

    def close(self) -> None:
        """Give back the descriptor; the next use opens the file again."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def delete(self) -> None:
        """Take the file from the disk."""
        self.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass
