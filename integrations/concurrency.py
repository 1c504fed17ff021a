"""The current run and step in every thread: ``instrument()`` makes ``Thread.start`` and ``submit`` take them along.

Tasks of asyncio and ``to_thread`` do so by themselves; threads and executors do not. Without this, take a function
along with ``agent_sdk.bind``.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent_sdk.recording.context import bind, current

_lock = threading.Lock()
_originals: dict[str, Any] = {}


def instrument() -> None:
    """Let threads that are started, and calls that are submitted to thread pools, keep the current run and step.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> import agent_sdk
    >>> instrument()
    >>> with agent_sdk.create_tracker(base_url="memory://docs").track_run("agent") as run, ThreadPoolExecutor() as pool:
    ...     pool.submit(agent_sdk.current_run).result() is run
    True
    >>> uninstrument()
    """
    from wrapt import wrap_function_wrapper  # pyright: ignore[reportAttributeAccessIssue]

    with _lock:
        if not _originals:
            _originals["start"] = threading.Thread.start
            _originals["submit"] = ThreadPoolExecutor.submit
            wrap_function_wrapper("threading", "Thread.start", _start)
            wrap_function_wrapper("concurrent.futures", "ThreadPoolExecutor.submit", _submit)


def uninstrument() -> None:
    """Undo ``instrument``. Threads that run already keep what they have."""
    with _lock:
        if _originals:
            threading.Thread.start = _originals["start"]  # type: ignore[method-assign]
            ThreadPoolExecutor.submit = _originals["submit"]  # type: ignore[method-assign]
            _originals.clear()


def _start(wrapped: Any, thread: Any, args: Any, kwargs: Any) -> Any:
    if current.get() is not None:
        thread.run = bind(thread.run)
    return wrapped(*args, **kwargs)


def _submit(wrapped: Any, pool: Any, args: Any, kwargs: Any) -> Any:
    node = current.get()
    if node is None or not args:
        return wrapped(*args, **kwargs)
    bound = bind(args[0])
    current.set(None)  # the pool may start a thread now, which will serve others after us
    try:
        return wrapped(bound, *args[1:], **kwargs)
    finally:
        current.set(node)
