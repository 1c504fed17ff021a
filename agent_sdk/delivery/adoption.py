"""Delivering what dead processes left: by the next process, by the collector on this machine, by ``agent-sdk push``."""

from __future__ import annotations

import os
import time
from typing import Callable, Iterator, NamedTuple

from agent_sdk.delivery import journal as journals
from agent_sdk.delivery import ledger as reasons
from agent_sdk.delivery import local_keys, tally
from agent_sdk.delivery.destinations import open_destination
from agent_sdk.delivery.destinations.base import Destination
from agent_sdk.delivery.journal import Journal, Manifest
from agent_sdk.delivery.ledger import Ledger
from agent_sdk.delivery.sender import Queue, Sender
from agent_sdk.delivery.writer import loss

_AT_ONCE = 16


def fingerprint(api_key: str | None) -> str:
    """What a manifest says about a key: enough to tell two keys apart, of no use to anybody else."""
    if not api_key:
        return ""
    from hashlib import sha256  # 6 ms of CPU that programs without a key of their own need not pay

    return sha256(api_key.encode("utf-8", "replace")).hexdigest()[:16]


def adopt(home: str, wanted: Callable[[Manifest], bool], at_once: int = _AT_ONCE) -> Iterator[Queue]:
    """Take over journals of dead processes that are ``wanted``; each comes with an account of what was lost."""
    taken = 0
    for folder in journals.journal_folders(home):
        if taken >= at_once:
            return
        queue = _adopt_one(home, folder, wanted)
        if queue is not None:
            taken += 1
            yield queue


def _adopt_one(home: str, folder: str, wanted: Callable[[Manifest], bool]) -> Queue | None:
    try:
        if not wanted(journals.read_manifest(folder)):
            return None
    except (OSError, ValueError, TypeError):
        return None
    journal = Journal.adopt(folder)
    if journal is None:
        return None
    try:
        _account_for_the_crash(journal)
    except OSError:
        journal.close()
        return None
    return Queue(journal, Ledger(), journal.manifest.stream)


def _account_for_the_crash(journal: Journal) -> None:
    """Say how many records the process had accepted but not written when it died."""
    stream = journal.manifest.stream
    accepted = tally.read(stream)
    last = journal.last_number()
    if accepted is not None and accepted > last:
        note = loss(reasons.CRASHED, accepted - last)
        # Its number is the last one that the dead process gave out, so that it comes once however often it is said.
        journal.append([note.encode(f"{stream}-{accepted}")])
    tally.remove(stream)


def trim(home: str, max_bytes: int, max_days: float, own: str) -> int:
    """Delete the oldest journals of dead processes until all fit ``max_bytes``; returns the records that were lost."""
    lost = 0
    sizes = {folder: journals.folder_size(folder) for folder in journals.journal_folders(home)}
    excess = sum(sizes.values()) - max_bytes
    oldest_allowed = time.time() - max_days * 86_400
    for folder in sorted(sizes, key=_modified):
        if os.path.basename(folder) == own or (excess <= 0 and _modified(folder) >= oldest_allowed):
            continue
        journal = Journal.adopt(folder)
        if journal is not None:
            lost += len(journal)
            excess -= sizes[folder]
            journal.remove()
    return lost


def _modified(folder: str) -> float:
    try:
        return os.stat(folder).st_mtime
    except OSError:
        return 0.0


class Progress(NamedTuple):
    """How far a push has come, in records."""

    delivered: int
    waiting: int


class PushReport(NamedTuple):
    """What a push did: ``journals`` were taken over; of their records ``remaining`` are still on disk."""

    journals: int
    delivered: int
    remaining: int
    quarantined: int
    errors: list[str]


def everything(manifest: Manifest) -> bool:
    """Any journal."""
    return True


def is_local(manifest: Manifest) -> bool:
    """A journal whose records are for a collector on this machine, at whatever port."""
    return local_keys.is_loopback(manifest.destination)


def push_orphans(
    home: str,
    *,
    to: str | None = None,
    api_key: str | None = None,
    which: Callable[[Manifest], bool] = everything,
    timeout: float = 30.0,
    on_progress: Callable[[Progress], None] | None = None,
) -> PushReport:
    """Deliver what dead processes left under ``home``, to where they meant it or ``to`` another URL.

    ``api_key`` is used where it is given; else a local collector's own key is. Journals of living processes are left
    alone. What cannot be delivered in ``timeout`` seconds stays on disk.
    """
    queues = list(adopt(home, which, at_once=10_000))
    push = _Push(home, to, api_key, time.monotonic() + timeout, on_progress)
    try:
        for destination, group in _by_destination(queues, to).items():
            push.deliver(destination, group)
    finally:
        for queue in queues:
            if len(queue.journal):
                queue.journal.close()
            else:
                queue.journal.remove()
    return PushReport(
        journals=len(queues),
        delivered=sum(queue.ledger.delivered for queue in queues),
        remaining=sum(len(queue.journal) for queue in queues),
        quarantined=sum(sum(queue.ledger.dropped().values()) for queue in queues),
        errors=push.errors,
    )


def _by_destination(queues: list[Queue], to: str | None) -> dict[str, list[Queue]]:
    groups: dict[str, list[Queue]] = {}
    for queue in queues:
        groups.setdefault(to or queue.journal.manifest.destination, []).append(queue)
    return groups


class _Push:
    """One push: what its deliveries share."""

    def __init__(
        self,
        home: str,
        to: str | None,
        api_key: str | None,
        deadline: float,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._home = home
        self._to = to
        self._api_key = api_key
        self._deadline = deadline
        self._on_progress = on_progress
        self.errors: list[str] = []

    def deliver(self, url: str, queues: list[Queue]) -> None:
        def key() -> str | None:
            return self._api_key or local_keys.read(self._home, url)

        strangers = [queue for queue in queues if not self._may_open(queue, key())]
        for queue in strangers:
            self.errors.append(f"{queue.stream}: recorded with another key for {url}: give it with --api-key")
        try:
            destination = open_destination(url, key)
        except ValueError as error:
            self.errors.append(str(error))
            return
        self._drain(destination, [queue for queue in queues if queue not in strangers])

    def _may_open(self, queue: Queue, key: str | None) -> bool:
        wanted = queue.journal.manifest.key_fingerprint
        return bool(self._api_key or self._to or not wanted or wanted == fingerprint(key))

    def _drain(self, destination: Destination, queues: list[Queue]) -> None:
        sender = Sender(destination, self._home)
        try:
            while time.monotonic() < self._deadline:
                wait = sender.turn(queues, eager=True, deadline=self._deadline)
                if self._on_progress is not None:
                    delivered = sum(queue.ledger.delivered for queue in queues)
                    self._on_progress(Progress(delivered, sum(len(queue.journal) for queue in queues)))
                if wait is None or sender.trouble:
                    break
            if sender.trouble:
                self.errors.append(sender.trouble)
        finally:
            destination.close()
