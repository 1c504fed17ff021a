"""The vocabulary of the record format (docs/wire.md): versions, types and statuses, and nothing that does work."""

from __future__ import annotations

WIRE_VERSION = 1

RUN_START = "run.start"
RUN_UPDATE = "run.update"
RUN_END = "run.end"
STEP_START = "step.start"
STEP_UPDATE = "step.update"
STEP_END = "step.end"
SCORE = "score"
HEARTBEAT = "heartbeat"
LOSS = "loss"

RECORD_TYPES = frozenset((RUN_START, RUN_UPDATE, RUN_END, STEP_START, STEP_UPDATE, STEP_END, SCORE, HEARTBEAT, LOSS))

RUNNING = "running"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted"
#: Derived by a reader, never written: the run is ``running`` and its process has been silent for three heartbeats.
LOST = "lost"

STATUSES = frozenset((RUNNING, COMPLETED, FAILED, CANCELLED, INTERRUPTED))

STEP_TYPES = frozenset(
    (
        "llm_call",
        "tool_call",
        "reasoning",
        "other",
        "retrieval",
        "embedding",
        "agent",
        "chain",
        "guardrail",
        "handoff",
        "memory",
    )
)
