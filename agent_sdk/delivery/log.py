"""What the library says to the person who runs it: one line for each distinct cause, then silence and a count.

Everything goes to the logger ``agent_sdk``, which has a ``NullHandler``: silent until the program configures logging.
"""

from __future__ import annotations

from typing import Any

_MAX_CAUSES = 64
_seen: dict[str, int] = {}


def logger() -> Any:
    """The library's logger. ``logging`` is imported here because most programs never make us say a word."""
    import logging

    found = logging.getLogger("agent_sdk")
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


def say(cause: str, text: str) -> None:
    """Log ``text`` as a warning the first time that ``cause`` occurs; later times are only counted. Never raises."""
    try:
        times = _seen.get(cause, 0)
        if times == 0 and len(_seen) >= _MAX_CAUSES:
            return
        _seen[cause] = times + 1
        if times == 0:
            logger().warning("agent-sdk: %s", text)
    except Exception:
        pass  # a logging handler of the program that raises must not cost a record


def settle(cause: str, text: str) -> None:
    """Log that a cause that was said before is over, with how often it occurred, and forget it. Never raises."""
    try:
        times = _seen.pop(cause, 0)
        if times:
            logger().warning("agent-sdk: %s (it had failed %d times)", text, times)
    except Exception:
        pass


def forget() -> None:
    """Forget what was said: for tests and for forked children."""
    _seen.clear()
