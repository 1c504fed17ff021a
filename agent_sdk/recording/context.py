"""The ambient context: one variable that holds the run or step that is current, and how to carry it elsewhere.

No token is ever kept. Who leaves a block puts back what was before, and only if the block is still what is current: so
blocks that end out of order, or in another task, disturb nobody.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, Callable, TypeVar

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from agent_sdk.recording.run import Run
    from agent_sdk.recording.step import Step

    P = ParamSpec("P")
T = TypeVar("T")

#: The current ``Run`` or ``Step``, of whatever tracker.
current: contextvars.ContextVar[Any] = contextvars.ContextVar("agent_sdk_current", default=None)


def current_run() -> Run | None:
    """The run that the calling code is inside of, if any."""
    node = current.get()
    return node.run if node is not None else None


def current_step() -> Step | None:
    """The innermost step that the calling code is inside of, if any."""
    node = current.get()
    return node if node is not None and node.run is not node else None


def bind(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with the current run and step as its context, wherever and in whatever thread it is called.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as pool:
    ...     pool.submit(bind(current_run)).result() is current_run()
    True
    """
    node = current.get()

    def bound(*args: P.args, **kwargs: P.kwargs) -> T:
        before = current.get()
        current.set(node)
        try:
            return function(*args, **kwargs)
        finally:
            current.set(before)

    bound.__name__ = getattr(function, "__name__", "bound")
    bound.__wrapped__ = function  # type: ignore[attr-defined]
    return bound
