"""The database of a collector: one writer thread that commits groups of batches, and connections for readers.

A batch is acknowledged when the transaction that holds it has been committed: from then on it survives the death of
the collector's process. (With ``synchronous=NORMAL`` a power cut may take the last transactions with it.)
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from sqlalchemy import URL, Connection, Engine, create_engine, event

from agent_sdk.collector import schema
from agent_sdk.collector.ingest import Answer, Ingest, ParsedBatch

_GROUP = 64
_MAX_WAITING = 256


class Overloaded(Exception):  # noqa: N818 - it is an answer, not a mistake
    """More batches wait than may: try again later."""


class Store:
    """Opens or makes the database at ``path``; ``close`` when done. Safe to use from any thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made before SQLite opens it: the journals beside a database get its permissions.
        self.path.touch(mode=0o600)
        self.path.chmod(0o600)
        self._engine = _sqlite(self.path)
        schema.metadata.create_all(self._engine)
        self._waiting: queue.Queue[tuple[ParsedBatch, Future[Answer]] | None] = queue.Queue(_MAX_WAITING)
        #: Grows with every commit: readers that saw this number have seen everything.
        self.revision = 0
        self._writer = threading.Thread(target=self._write_forever, name="collector writer", daemon=True)
        self._writer.start()

    def read(self) -> Connection:
        """A connection for queries, to be used with ``with``."""
        return self._engine.connect()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction, to be used with ``with``. What it reads holds until it ends: others wait before they write."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def ingest(self, batch: ParsedBatch) -> Future[Answer]:
        """Queue a batch; the future has its answer once it is committed. Raises ``Overloaded``."""
        future: Future[Answer] = Future()
        try:
            self._waiting.put_nowait((batch, future))
        except queue.Full:
            raise Overloaded from None
        return future

    def close(self) -> None:
        """Commit what waits, then close."""
        self._waiting.put(None)
        self._writer.join()
        self._engine.dispose()

    def _write_forever(self) -> None:
        open_for_more = True
        while open_for_more:
            group = [self._waiting.get()]
            while len(group) < _GROUP and not self._waiting.empty():
                group.append(self._waiting.get())
            open_for_more = None not in group
            self._commit([item for item in group if item is not None])

    def _commit(self, group: list[tuple[ParsedBatch, Future[Answer]]]) -> None:
        if not group:
            return
        try:
            with self.write() as connection:
                ingest = Ingest(connection)
                answers = ingest.take([batch for batch, _ in group])
        except Exception as error:
            self._fail(group, error)
            return
        self.revision = ingest.revision
        for (_, future), answer in zip(group, answers):
            if future.set_running_or_notify_cancel():  # whoever waited may have gone away
                future.set_result(answer)

    def _fail(self, group: list[tuple[ParsedBatch, Future[Answer]]], error: Exception) -> None:
        """One bad batch must not fail its neighbours: try each alone."""
        if len(group) == 1:
            if group[0][1].set_running_or_notify_cancel():
                group[0][1].set_exception(error)
            return
        for item in group:
            self._commit([item])


def _sqlite(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA mmap_size=268435456")
        connection.execute("PRAGMA temp_store=MEMORY")

    return engine
