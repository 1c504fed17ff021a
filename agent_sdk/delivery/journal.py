"""The journal: records on the local disk, from before the first attempt to deliver them until they are acknowledged.

A journal is one folder, ``<home>/journal/<stream>/``, and belongs to the process that holds its ``lock``:

- ``manifest.json``: for whom the records are;
- ``000001.ndjson``, ``000002.ndjson``, …: *segments*, the records themselves, one a line;
- ``cursor``: how far they have been acknowledged.

The journal is also the queue between writer and sender: what the sender reads comes back from the page cache, so memory
stays flat however long an outage lasts. One thread appends, one reads. A record counts as journaled when ``write`` has
returned, which a killed process survives and a power cut may not.
"""

from __future__ import annotations

import json
import os
import stat
import time
from typing import Any, NamedTuple, Sequence

from agent_sdk.delivery.segment import NO_FOLLOW, PRIVATE, SUFFIX, Segment
from agent_sdk.delivery.threads import new_lock
from agent_sdk.wire.records import WIRE_VERSION

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no journal there yet, the pipeline says so and keeps records in memory
    fcntl = None

_LOCK = "lock"
_MANIFEST = "manifest.json"
_CURSOR = "cursor"
_QUARANTINE_BYTES = 64 * 1024 * 1024
_PRIVATE_FOLDER = 0o700


class Manifest(NamedTuple):
    """For whom a journal's records are, and who wrote them. Holds no secret."""

    stream: str
    destination: str
    key_fingerprint: str
    pid: int
    created: float
    version: int = WIRE_VERSION


class Journal:
    """The records of one stream on disk. Raises ``OSError`` where the disk does; the pipeline decides what then."""

    def __init__(self, folder: str, manifest: Manifest, lock: int, segment_bytes: int) -> None:
        self.folder = folder
        self.manifest = manifest
        self._lock_file = lock
        self._segment_bytes = segment_bytes
        self._guard = new_lock()
        self._segments: list[Segment] = []
        self._offset = 0
        self._page: list[bytes] = []
        self._cursor_file: int | None = None

    # -- opening and leaving -------------------------------------------------------------------------------------

    @classmethod
    def create(cls, home: str, manifest: Manifest, segment_bytes: int) -> Journal:
        """A new, empty journal, owned by this process."""
        if fcntl is None:
            raise OSError("journals need file locks, which this platform lacks")
        folder = os.path.join(_private_folder(os.path.join(home, "journal")), manifest.stream)
        os.mkdir(folder, _PRIVATE_FOLDER)
        lock = _take_lock(os.path.join(folder, _LOCK))
        if lock is None:
            raise OSError(f"the new journal {folder} is locked by somebody else")
        journal = cls(folder, manifest, lock, segment_bytes)
        _write_new(os.path.join(folder, _MANIFEST), json.dumps(manifest._asdict()).encode())
        journal._add_segment()
        return journal

    @classmethod
    def adopt(cls, folder: str) -> Journal | None:
        """The journal of a dead process, now owned by this one; none while its owner lives or if it is no journal."""
        if fcntl is None or not os.path.isfile(os.path.join(folder, _MANIFEST)):
            return None
        lock = _take_lock(os.path.join(folder, _LOCK))
        if lock is None:
            return None
        try:
            journal = cls(folder, read_manifest(folder), lock, segment_bytes=0)
            journal._load()
        except (OSError, ValueError, TypeError):
            os.close(lock)
            return None
        return journal

    def close(self) -> None:
        """Leave the journal to be adopted by another process."""
        with self._guard:
            for segment in self._segments:
                segment.close()
            if self._cursor_file is not None:
                os.close(self._cursor_file)
                self._cursor_file = None
            os.close(self._lock_file)
            self._lock_file = os.open(os.devnull, os.O_RDONLY | NO_FOLLOW)

    def remove(self) -> None:
        """Delete the journal from the disk: everything in it is accounted for."""
        _remove_folder(self.folder)
        self.close()

    def abandon_in_child(self) -> None:
        """Close this forked child's copies of the files, so that the lock stays the parent's alone."""
        for descriptor in (self._lock_file, self._cursor_file, *(s.descriptor for s in self._segments)):
            if descriptor is not None:
                try:
                    os.close(descriptor)
                except OSError:
                    pass

    # -- the writer's side ---------------------------------------------------------------------------------------

    def append(self, lines: Sequence[bytes]) -> None:
        """Put whole records at the end, all of them or none."""
        with self._guard:
            last = self._segments[-1]
            if last.size >= self._segment_bytes:
                last = self._add_segment()
            elif last.vanished():
                last = self._restore()
            last.append(lines)

    def drop_oldest(self) -> int:
        """Give up the oldest segment that the sender is not reading; returns how many records went with it."""
        with self._guard:
            if len(self._segments) < 3:
                return 0
            segment = self._segments.pop(1)
            segment.delete()
            return segment.records

    @property
    def size(self) -> int:
        """Bytes that the segments take on disk."""
        return sum(segment.size for segment in self._segments)

    # -- the sender's side ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many records are not acknowledged."""
        return sum(segment.records for segment in self._segments)

    @property
    def waiting_bytes(self) -> int:
        """Size of the records that are not acknowledged."""
        return self.size - self._offset

    def peek(self, max_bytes: int, max_records: int) -> list[bytes]:
        """The oldest records that are not acknowledged: at least one if there is one, else within both limits."""
        with self._guard:
            self._leave_finished_segments()
            self._page = self._segments[0].read(self._offset, max_bytes, max_records)
            return list(self._page)

    def advance(self, count: int) -> None:
        """Acknowledge the first ``count`` records of the last ``peek``."""
        with self._guard:
            self._offset += sum(map(len, self._page[:count]))
            self._segments[0].records -= count
            del self._page[:count]
            self._save_cursor()

    def forget_unreadable(self) -> int:
        """Give up what stands at the front and cannot be read (deleted, torn); returns how many records that were."""
        with self._guard:
            first = self._segments[0]
            lost, first.records = first.records, 0
            self._offset = first.size
            return lost

    # -- inside --------------------------------------------------------------------------------------------------

    def _leave_finished_segments(self) -> None:
        while len(self._segments) > 1 and self._offset >= self._segments[0].size:
            self._segments.pop(0).delete()
            self._offset = 0

    def _add_segment(self) -> Segment:
        number = self._segments[-1].number + 1 if self._segments else 1
        segment = Segment.create(self.folder, number)
        if self._segments and len(self._segments) > 1:
            self._segments[-1].close()  # the first stays open for the sender, the last for the writer
        self._segments.append(segment)
        return segment

    def _restore(self) -> Segment:
        """Somebody deleted the journal under us: write what we can still read to a new place."""
        self.abandon_lock()
        os.makedirs(self.folder, _PRIVATE_FOLDER, exist_ok=True)
        lock = _take_lock(os.path.join(self.folder, _LOCK))
        if lock is None:
            raise OSError(f"the journal {self.folder} was deleted and is now locked by somebody else")
        self._lock_file = lock
        manifest = os.path.join(self.folder, _MANIFEST)
        if not os.path.exists(manifest):
            _write_new(manifest, json.dumps(self.manifest._asdict()).encode())
        for segment in self._segments:
            segment.restore()
        if self._cursor_file is not None:
            os.close(self._cursor_file)
            self._cursor_file = None
        return self._segments[-1]

    def abandon_lock(self) -> None:
        """Let go of a lock file that no longer has a name."""
        os.close(self._lock_file)
        self._lock_file = os.open(os.devnull, os.O_RDONLY | NO_FOLLOW)

    def _save_cursor(self) -> None:
        if self._cursor_file is None:
            path = os.path.join(self.folder, _CURSOR)
            try:
                self._cursor_file = os.open(path, os.O_WRONLY | os.O_CREAT | NO_FOLLOW, PRIVATE)
            except OSError:
                return  # only costs the next owner some duplicates, which change nothing
        line = b"%06d %012d\n" % (self._segments[0].number, self._offset)
        try:
            os.pwrite(self._cursor_file, line, 0)
        except OSError:
            pass

    def _load(self) -> None:
        """Read what a dead owner left; a last line without its end was never acknowledged as written: it goes."""
        number, offset = self._read_cursor()
        for name in sorted(os.listdir(self.folder)):
            if name.endswith(SUFFIX) and name[: -len(SUFFIX)].isdigit():
                segment = Segment.load(self.folder, int(name[: -len(SUFFIX)]))
                if segment.number < number:
                    segment.delete()
                else:
                    self._segments.append(segment)
        if not self._segments:
            self._add_segment()
        first = self._segments[0]
        self._offset = min(offset, first.size) if first.number == number else 0
        first.records = first.count(self._offset)

    def _read_cursor(self) -> tuple[int, int]:
        try:
            with open(os.path.join(self.folder, _CURSOR), "rb") as file:
                number, offset = file.read(64).split()
            return int(number), int(offset)
        except (OSError, ValueError):
            return 0, 0

    def last_number(self) -> int:
        """The number of the last record that was ever written, 0 for none: what its id ends with."""
        for segment in reversed(self._segments):
            found = segment.last_line()
            if found:
                try:
                    return int(str(json.loads(found)["id"]).rpartition("-")[2])
                except (ValueError, KeyError, TypeError):
                    return 0
        return 0


def journal_folders(home: str) -> list[str]:
    """The folders of all journals under ``home``, in no order."""
    root = os.path.join(home, "journal")
    try:
        return [os.path.join(root, name) for name in os.listdir(root)]
    except OSError:
        return []


def read_manifest(folder: str) -> Manifest:
    """The manifest of a journal; raises ``OSError`` or ``ValueError`` where it cannot be read."""
    with open(os.path.join(folder, _MANIFEST), encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict) or int(found.get("version", 0)) > WIRE_VERSION:
        raise ValueError(f"{folder} was written by a newer agent-sdk: upgrade this one")
    return Manifest(**{name: found[name] for name in Manifest._fields if name in found})


def folder_size(folder: str) -> int:
    """Bytes of all files in ``folder``."""
    size = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                size += entry.stat(follow_symlinks=False).st_size
    except OSError:
        pass
    return size


def quarantine(home: str, stream: str, line: bytes, reason: str) -> None:
    """Keep a record that its destination refuses for good, with the reason, for a person to look at."""
    folder = _private_folder(os.path.join(home, "quarantine"))
    if folder_size(folder) > _QUARANTINE_BYTES:
        return  # the first ones teach as much as all of them
    path = os.path.join(folder, stream + SUFFIX)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_FOLLOW
    descriptor = os.open(path, flags, PRIVATE)
    try:
        head = json.dumps({"reason": reason, "at": int(time.time() * 1e6)})[:-1]
        os.write(descriptor, f'{head}, "record": '.encode() + line.rstrip(b"\n") + b"}\n")
    finally:
        os.close(descriptor)


def _remove_folder(folder: str) -> None:
    # `shutil` can do it, but would cost every program the import of three compression libraries.
    try:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:
        pass  # whoever comes next finds an empty journal, or none


def _private_folder(path: str) -> str:
    """Make ``path`` and refuse one that is a link or somebody else's: a record must not be led astray."""
    for folder in (os.path.dirname(path), path):  # `makedirs` would give the parents the default mode
        os.makedirs(folder, mode=_PRIVATE_FOLDER, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{path} is not a folder of its own (a link?): remove it")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user: set AGENT_SDK_HOME to a folder of your own")
    return path


def _take_lock(path: str) -> int | None:
    """An open, exclusively locked file; none while another process holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, PRIVATE)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the lock before us may have deleted the journal: then we hold the lock of a file without a name.
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _write_new(path: str, data: bytes) -> None:
    temporary = path + ".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, PRIVATE)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
