"""The flight recorder for AI agents.

>>> import agent_sdk
>>> tracker = agent_sdk.create_tracker(base_url="memory://docs")
>>> @tracker.track
... def agent(question: str) -> str:
...     return question.upper()
>>> agent("why?")
'WHY?'
"""

from __future__ import annotations

from agent_sdk.delivery import FlushResult
from agent_sdk.recording.configuration import ConfigurationError
from agent_sdk.recording.context import bind, current_run, current_step
from agent_sdk.recording.default import configure, flush, get_tracker, track
from agent_sdk.recording.run import Run
from agent_sdk.recording.step import Step
from agent_sdk.recording.tracker import RunTracker, create_tracker
from agent_sdk.wire.version import __version__

__all__ = [
    "ConfigurationError",
    "FlushResult",
    "Run",
    "RunTracker",
    "Step",
    "__version__",
    "bind",
    "configure",
    "create_tracker",
    "current_run",
    "current_step",
    "flush",
    "get_tracker",
    "track",
]
