"""Keys of collectors on this machine: written by ``agent-sdk serve``, read by senders that were given no key."""

from __future__ import annotations

import json
import os
from urllib.parse import urlsplit

_FILE = "keys.json"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(url: str) -> bool:
    """Whether ``url`` names this machine."""
    try:
        return (urlsplit(url).hostname or "") in _LOOPBACK
    except ValueError:
        return False


def read(home: str, url: str) -> str | None:
    """The key of the local collector at ``url``; none for an address outside this machine or an unknown one."""
    if not is_loopback(url):
        return None
    return _load(home).get(_origin(url))


def write(home: str, url: str, key: str) -> None:
    """Remember the key of the local collector at ``url``, readable for this user only."""
    os.makedirs(home, mode=0o700, exist_ok=True)
    keys = _load(home)
    keys[_origin(url)] = key
    path = os.path.join(home, _FILE)
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(keys, file)
    os.replace(temporary, path)


def _load(home: str) -> dict[str, str]:
    try:
        with open(os.path.join(home, _FILE), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return {str(url): str(key) for url, key in found.items()} if isinstance(found, dict) else {}


def _origin(url: str) -> str:
    """All names of this machine are one: a key that was written for ``127.0.0.1`` also opens ``localhost``."""
    return f"loopback:{urlsplit(url).port or 80}"
