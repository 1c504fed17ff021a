"""What the delivery of records can be told: immutable values, and where things live by default."""

from __future__ import annotations

import os
from typing import NamedTuple

DEFAULT_URL = "http://127.0.0.1:8790"

JOURNAL = "journal"
STRICT = "strict"
MEMORY = "memory"
DURABILITIES = (JOURNAL, STRICT, MEMORY)

_MIB = 1024 * 1024


def home_directory() -> str:
    """Where journals, local keys and the collector's database live: ``AGENT_SDK_HOME``, else ``~/.agent-sdk``."""
    return os.environ.get("AGENT_SDK_HOME") or os.path.join(os.path.expanduser("~"), ".agent-sdk")


def without_login(url: str) -> str:
    """``url`` without the user and password in it: for files and for people."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + path


class Delivery(NamedTuple):
    """Everything that decides where and how records travel. Trackers with equal settings share one pipeline.

    Sizes are bytes, times are seconds.

    - ``destination``: URL of a collector (``https://…``), ``file:///path/records.ndjson`` or ``memory://name``.
    - ``durability``: ``journal`` writes records to disk every ``commit_interval``; ``strict`` writes each one in the
      caller, before the tracking call returns; ``memory`` never writes.
    - ``buffer_bytes``, ``buffer_records``: what may wait in memory for the next commit.
    - ``journal_bytes``: what all journals in ``home`` may take; above it the oldest records go, counted.
    - ``flush_interval``: how long a batch may wait for company, and after how long an open step is reported.
    - ``exit_timeout``: how long the end of the process may wait for the last delivery.
    """

    destination: str = DEFAULT_URL
    api_key: str | None = None
    home: str = ""
    durability: str = JOURNAL
    buffer_bytes: int = 64 * _MIB
    buffer_records: int = 100_000
    journal_bytes: int = 512 * _MIB
    journal_days: float = 14.0
    commit_interval: float = 0.05
    flush_interval: float = 0.5
    heartbeat_interval: float = 10.0
    request_timeout: float = 10.0
    exit_timeout: float = 2.0

    def __repr__(self) -> str:
        return f"Delivery({without_login(self.destination)!r}, durability={self.durability!r})"
