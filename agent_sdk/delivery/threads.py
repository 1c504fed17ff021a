"""Threads and wake-ups that are safe to use from a signal handler, a finalizer and a forked child.

``threading.Thread.start`` and ``threading.Event.set`` take locks that an interrupted thread may be holding; the
primitives below take none, which is why the caller's side of delivery uses nothing else.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Callable

_LONGEST_IMPORT = 10.0


def _unpatched(module: str, name: str) -> Any:
    """The real function where gevent has put its own in place: a busy greenlet must not starve the recorder."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(__import__(module), name)


def new_lock() -> Any:
    """A plain lock of the operating system's threads."""
    return _unpatched("_thread", "allocate_lock")()


class _Loading:
    """Held while a sender's thread imports what it needs for the network. A fork waits for it.

    A child that is forked in the middle of an import finds the module locked for ever: the thread that would unlock it
    is not there.
    """

    def __init__(self) -> None:
        self._lock = new_lock()
        self._held_by_fork = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def before_fork(self) -> None:
        """Wait for an import to end, but not for ever."""
        self._held_by_fork = self._lock.acquire(True, _LONGEST_IMPORT)

    def after_fork(self) -> None:
        """Let imports go on."""
        if self._held_by_fork:
            self._held_by_fork = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A fresh start, whatever the parent was doing."""
        self._lock = new_lock()
        self._held_by_fork = False


def start_thread(target: Callable[[], None], name: str) -> None:
    """Run ``target`` in a daemon thread. Raises ``RuntimeError`` where no thread can be had (interpreter exit)."""

    def run() -> None:
        # Naming the thread also makes it known to `threading.enumerate()`, so that people can see who is there.
        threading.current_thread().name = name
        target()

    _unpatched("_thread", "start_new_thread")(run, ())


LOADING = _Loading()


class Signal:
    """Wakes the one thread that waits for it. Set before the wait, it ends the wait at once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the waiting thread. Lock-free for the caller."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # already set

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; true if the signal was set."""
        return bool(self._lock.acquire(True, max(0.0, min(timeout, threading.TIMEOUT_MAX))))
