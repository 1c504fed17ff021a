"""The file destination: appends records to one NDJSON file, for machines without a collector and for tests."""

from __future__ import annotations

import os
from typing import Sequence

from agent_sdk.delivery.destinations.base import DELIVERED, RETRY, Destination, Outcome


class FileDestination(Destination):
    """Appends each batch to ``path`` in one write; makes the file (private) and its folder when they are missing."""

    def __init__(self, path: str) -> None:
        self._path = path

    def deliver(self, lines: Sequence[bytes], deadline: float) -> Outcome:
        """Append the records. A torn write is cut off again, so that a retry repeats nothing."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            descriptor = os.open(self._path, flags, 0o600)
            try:
                self._append(descriptor, b"".join(lines))
            finally:
                os.close(descriptor)
        except OSError as error:
            return Outcome(RETRY, f"cannot write to {self._path}: {error.strerror or error}")
        return Outcome(DELIVERED)

    @staticmethod
    def _append(descriptor: int, data: bytes) -> None:
        size = os.fstat(descriptor).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            if os.fstat(descriptor).st_size == size + written:  # nobody else has appended meanwhile
                os.ftruncate(descriptor, size)
            raise
