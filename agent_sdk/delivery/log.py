"""What the library says to the person who runs it: one line for each distinct cause, then summaries at long intervals.

Everything goes to the logger ``agent_sdk``, which has a ``NullHandler``: silent until the program configures logging.
"""

from __future__ import annotations

import time
from typing import Any

_MAX_CAUSES = 64
#: After a line about a cause, the next one waits for a minute, the one after that five times as long, and so on.
_FIRST_QUIET = 60.0
_LONGEST_QUIET = 3600.0
_LONGER = 5.0

_causes: dict[str, _Cause] = {}
_now = time.monotonic


class _Cause:
    """What was said about one cause."""

    __slots__ = ("is_open", "quiet", "quiet_until", "times", "unsaid")

    def __init__(self) -> None:
        self.times = 0
        self.unsaid = 0
        self.quiet = _FIRST_QUIET
        self.quiet_until = 0.0
        #: It was said that it is there, and not yet that it is over.
        self.is_open = False


def logger() -> Any:
    """The library's logger.

    Importing ``logging`` costs a fifth of all that ``import agent_sdk`` loads, so it waits for the first tracker. It
    must not wait for something to say: ``logging`` registers what is to be done at a fork, and if one of our threads
    imported it while another forks, only the second half of that would be done.
    """
    import logging

    found = logging.getLogger("agent_sdk")
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


def say(cause: str, text: str) -> None:
    """Log ``text`` as a warning when ``cause`` occurs for the first time; later times are counted and summed up.

    Never raises.
    """
    try:
        known = _causes.get(cause)
        if known is None:
            if len(_causes) >= _MAX_CAUSES:
                return
            known = _causes[cause] = _Cause()
        known.times += 1
        now = _now()
        if now < known.quiet_until:
            known.unsaid += 1
            return
        if known.quiet_until:
            known.quiet = min(known.quiet * _LONGER, _LONGEST_QUIET)
        known.quiet_until = now + known.quiet
        known.is_open = True
        again = f" ({known.unsaid} more times since this was last said)" if known.unsaid else ""
        known.unsaid = 0
        logger().warning("agent-sdk: %s%s", text, again)
    except Exception:
        pass  # a logging handler of the program that raises must not cost a record


def settle(cause: str, text: str) -> None:
    """Log that a cause that was said before is over, and how often it had occurred. Never raises."""
    try:
        known = _causes.get(cause)
        if known is None:
            return
        times, known.times = known.times, 0
        if known.is_open:
            known.is_open = False
            logger().warning("agent-sdk: %s (it had failed %d times)", text, times)
    except Exception:
        pass


def forget() -> None:
    """Forget what was said: for tests and for forked children."""
    _causes.clear()
