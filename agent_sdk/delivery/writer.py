"""From the buffer to the journal: give each record its id, encode it, redact it, write it. Never waits for a network.

A commit runs in the writer thread, in the caller under ``durability="strict"``, and in whatever thread flushes.
"""

from __future__ import annotations

import json
import time
from threading import get_ident
from typing import Any, Callable, Sequence

from agent_sdk.delivery import ledger as reasons
from agent_sdk.delivery.buffer import Buffer
from agent_sdk.delivery.journal import Journal
from agent_sdk.delivery.ledger import Ledger
from agent_sdk.delivery.log import say, settle
from agent_sdk.delivery.memory_journal import MemoryJournal
from agent_sdk.delivery.threads import new_lock
from agent_sdk.wire.records import HEARTBEAT, LOSS

#: Above this share of the journal's cap new records are written without their bodies.
_SHED_ABOVE = 0.8
_RETRY_DISK_AFTER = 1.0
#: A signal handler may interrupt a commit in the same thread; it then leaves its record to that commit.
_LOCK_PATIENCE = 5.0
_FEW = 100


class Note:
    """A record that the pipeline writes about itself: a heartbeat or a loss."""

    __slots__ = ("_fields", "size")
    redactor = None

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self.size = 256

    def encode(self, record_id: str) -> bytes:
        """The record's line."""
        return json.dumps({**self._fields, "id": record_id}, separators=(",", ":")).encode() + b"\n"

    def shed(self) -> None:
        """It has no bodies."""


def heartbeat(runs: Sequence[str], interval: float, counts: dict[str, Any]) -> Note:
    """A record that says that the process of ``runs`` is alive."""
    return Note({"type": HEARTBEAT, "time": _now(), "runs": list(runs), "interval": interval, "ledger": counts})


def loss(reason: str, records: int) -> Note:
    """A record that says that ``records`` others will never come."""
    return Note({"type": LOSS, "time": _now(), "reason": reason, "records": records})


class Writer:
    """Commits what is in the buffer to the journal, or to memory while the disk refuses."""

    def __init__(
        self,
        stream: str,
        buffer: Buffer,
        ledger: Ledger,
        memory: MemoryJournal,
        open_journal: Callable[[], Journal] | None,
        journal_bytes: int,
    ) -> None:
        self._stream = stream
        self._buffer = buffer
        self._ledger = ledger
        self._memory = memory
        self._open_journal = open_journal
        self._journal_bytes = journal_bytes
        self._number = 0
        self._lock = new_lock()
        self._owner = 0
        self._may_prepare = True
        self._disk_refused_until = 0.0
        #: Records that a commit holds in its hands.
        self.in_hand = 0
        #: ``loss`` records that stand in the place of records that could not be encoded.
        self.replaced = 0
        self.journal: Journal | None = None

    def begin_stream(self, stream: str) -> None:
        """Leave the journal behind; what comes next goes to a new one, which is only made if something comes."""
        with self._lock:
            self._stream = stream
            self._number = 0
            self.journal = None
            self._may_prepare = False

    def commit(self) -> int:
        """Write everything that waits; returns how many records that were. Never raises."""
        me = get_ident()
        if self._owner == me or not self._lock.acquire(True, _LOCK_PATIENCE):
            return 0
        self._owner = me
        try:
            written = 0
            while True:
                records = self._take()
                if not records:
                    return written
                written += len(records)
                self._write(records)
                # A few more may be what a signal handler has left to us. Not until it is empty: threads that record
                # without a pause would keep us here for ever.
                if len(self._buffer) > _FEW:
                    return written
        finally:
            self.in_hand = 0
            self._owner = 0
            self._lock.release()

    def _take(self) -> list[Any]:
        # `in_hand` is set before the buffer shrinks, so that a reader of the ledger never finds a record nowhere.
        self.in_hand = len(self._buffer)
        records = self._buffer.drain()
        self.in_hand = len(records)
        return records

    def _write(self, records: list[Any]) -> None:
        try:
            lines = self._redacted(records)
            self._store(lines)
        except Exception as error:
            self._ledger.drop(reasons.INTERNAL, self.in_hand)
            say("commit", f"{self.in_hand} records could not be written: {type(error).__name__}: {error}")
        self.in_hand = 0

    def _redacted(self, records: list[Any]) -> list[bytes]:
        """The records' lines, redacted by groups of neighbours that share a redactor."""
        lines: list[bytes] = []
        group: list[bytes] = []
        redactor: Any = None
        shed = self._short_of_disk()
        for record in records:
            if record.redactor is not redactor:
                lines += self._redact(redactor, group)
                group, redactor = [], record.redactor
            if shed:
                record.shed()
            group.append(self._encode(record))
        return lines + self._redact(redactor, group)

    def _encode(self, record: Any) -> bytes:
        """The record's line. One that cannot be encoded leaves a ``loss`` in its place, so that ids stay dense."""
        self._number += 1
        record_id = f"{self._stream}-{self._number}"
        try:
            line: bytes = record.encode(record_id)
            return line
        except Exception as error:
            self._ledger.drop(reasons.ENCODING, report=False)
            self.replaced += 1
            say("encoding", f"a record could not be encoded: {type(error).__name__}: {error}")
            return loss(reasons.ENCODING, 1).encode(record_id)

    def _redact(self, redactor: Any, lines: list[bytes]) -> list[bytes]:
        if redactor is None or not lines:
            return lines
        try:
            redacted: list[bytes] = redactor.redact(lines)
            if len(redacted) == len(lines):
                return redacted
        except Exception:
            pass
        # Nothing that was not redacted may reach a disk or a socket.
        self._ledger.drop(reasons.REDACTION, len(lines))
        self.in_hand -= len(lines)
        say("redaction", f"{len(lines)} records were withheld because redaction failed")
        return []

    # -- where lines go ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Open the journal before the first commit: a process that dies before it leaves at least its tally."""
        with self._lock:
            if self._may_prepare and self.journal is None and self._open_journal is not None:
                try:
                    self.journal = self._open_journal()
                except OSError:
                    pass  # the first commit tries again, and says so

    def _store(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._open_journal is not None and time.monotonic() >= self._disk_refused_until:
            try:
                self._append_to_journal(lines)
                return
            except OSError as error:
                self._disk_refused_until = time.monotonic() + _RETRY_DISK_AFTER
                say(
                    "journal",
                    f"the journal cannot be written ({error}): records are kept in memory meanwhile",
                )
        refused = self._memory.append(lines)
        if refused:
            self._ledger.drop(reasons.MEMORY_FULL, refused)

    def _append_to_journal(self, lines: list[bytes]) -> None:
        if self.journal is None and self._open_journal is not None:
            self.journal = self._open_journal()
        assert self.journal is not None
        while self.journal.size > self._journal_bytes:
            dropped = self.journal.drop_oldest()
            if not dropped:
                break
            self._ledger.drop(reasons.JOURNAL_FULL, dropped)
        self.journal.append(lines)
        settle("journal", "the journal can be written again")

    def _short_of_disk(self) -> bool:
        return self.journal is not None and self.journal.size > self._journal_bytes * _SHED_ABOVE


def _now() -> int:
    return time.time_ns() // 1000
