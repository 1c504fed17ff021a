"""The default tracker: made at its first use, from ``AGENT_SDK_*`` variables unless ``configure`` said more."""

from __future__ import annotations

from typing import Any, Callable, Collection, TypeVar, overload

from agent_sdk.delivery import FlushResult
from agent_sdk.recording.decorator import tracked
from agent_sdk.recording.handle import Handle
from agent_sdk.recording.tracker import RunTracker, create_tracker

Function = TypeVar("Function", bound=Callable[..., Any])

_tracker: RunTracker | None = None


def get_tracker() -> RunTracker:
    """The default tracker."""
    global _tracker
    if _tracker is None:
        _tracker = create_tracker()
    return _tracker


def configure(api_key: str | None = None, base_url: str | None = None, **options: Any) -> RunTracker:
    """Replace the default tracker by one with these settings (see ``create_tracker``); functions that are decorated
    already follow. The old one is closed."""
    global _tracker
    before, _tracker = _tracker, create_tracker(api_key, base_url, **options)
    if before is not None:
        before.close()
    return _tracker


def flush(timeout: float = 5.0) -> FlushResult:
    """Deliver what the default tracker has recorded; see ``RunTracker.flush``."""
    return get_tracker().flush(timeout)


def _begin(name: str, step_type: str, input_data: Any) -> Handle:
    handle: Handle = get_tracker().begin_call(name, step_type, input_data)
    return handle


@overload
def track(function: Function, /) -> Function: ...


@overload
def track(
    function: None = None,
    /,
    *,
    name: str | None = None,
    step_type: str = "other",
    capture_input: bool = True,
    capture_output: bool = True,
    ignore: Collection[str] = (),
) -> Callable[[Function], Function]: ...


def track(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    step_type: str = "other",
    capture_input: bool = True,
    capture_output: bool = True,
    ignore: Collection[str] = (),
) -> Any:
    """Record each call of a function with the default tracker: as a run outside of any run, as a step inside one.

    Works on functions, coroutines, generators, methods and whatever else can be called, and keeps their types.
    ``ignore`` names arguments to leave out.
    """

    def decorate(decorated: Any) -> Any:
        return tracked(decorated, _begin, name, step_type, capture_input, capture_output, ignore)

    return decorate if function is None else decorate(function)
