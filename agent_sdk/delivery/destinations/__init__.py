"""Where batches go: one module for each kind of destination, and the choice between them by URL."""

from __future__ import annotations

from typing import Callable
from urllib.parse import unquote, urlsplit

from agent_sdk.delivery.destinations.base import BatchLimits, Destination, Outcome, Rejection
from agent_sdk.delivery.destinations.file import FileDestination
from agent_sdk.delivery.destinations.memory import MemoryDestination

__all__ = [
    "BatchLimits",
    "Destination",
    "FileDestination",
    "MemoryDestination",
    "Outcome",
    "Rejection",
    "open_destination",
]

_in_memory: dict[str, MemoryDestination] = {}


def open_destination(url: str, key: Callable[[], str | None], timeout: float = 10.0) -> Destination:
    """The destination that ``url`` names; raises ``ValueError`` for a URL that names none.

    ``key`` is asked at each delivery, because a local collector may write its key after we have started.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        from agent_sdk.delivery.destinations.collector import CollectorDestination

        return CollectorDestination(url, key, timeout)
    if scheme == "file":
        return FileDestination(unquote(urlsplit(url).path))
    if scheme == "memory":
        return _in_memory.setdefault(url, MemoryDestination())
    raise ValueError(f"no destination is known for {url!r}: use http://, https://, file:// or memory://")
