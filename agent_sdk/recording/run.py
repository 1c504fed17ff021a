"""The handle of a run: one execution of an agent."""

from __future__ import annotations

import os
import sys
from typing import Any

from agent_sdk.encoding import encode_line, is_a
from agent_sdk.recording import fields
from agent_sdk.recording.guard import guarded, itself
from agent_sdk.recording.handle import Handle, Self, microseconds
from agent_sdk.recording.ids import as_run_id, new_run_id
from agent_sdk.recording.recorder import MAX_OPEN, Recorder, Update
from agent_sdk.recording.step import Step, new_step
from agent_sdk.wire.records import RUN_END, RUN_START, RUN_UPDATE
from agent_sdk.wire.version import __version__

_ATTRIBUTES = ("session_id", "user_id", "external_id", "parent_run_id", "tags", "metadata")


class Run(Handle):
    """A run that is open until its block is left or ``end`` is called; also the record of its own end.

    ``str(run)`` is its id.
    """

    _dirty = False
    _external_id: str | None = None
    _left_out: dict[str, int] | None = None
    _parent_run_id: str | None = None
    _session_id: str | None = None
    _user_id: str | None = None

    def __init__(self, recorder: Recorder, recording: bool, agent_name: Any, run_id: str | None = None) -> None:
        self.run = self
        self.id = self._key = run_id or new_run_id()
        self._recorder = recorder
        self._recording = recording
        #: None for a run that somebody else has started and that is known here by its id only.
        self._agent_name = fields.optional_label(agent_name)
        self._anchor = recorder.clock.anchor()
        self._started_at = self._anchor + recorder.clock.ticks()

    def start(self) -> None:
        """Record that the run has begun."""
        if self._recording and self._recorder.pipeline is not None:
            self._recorder.open[self._key] = self
            if len(self._recorder.open) > MAX_OPEN:
                self._recorder.forget_oldest()
            self._recorder.pipeline.submit(Update(self._recorder, self._start, 512 + self._input_size))

    @property
    def run_id(self) -> str:
        """The same as ``id``: a UUID."""
        return self.id

    @property
    def agent_name(self) -> str:
        """What the agent is called."""
        return self._agent_name or ""

    @guarded(itself)
    def set_attributes(
        self: Self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        external_id: str | None = None,
        parent_run_id: Any = None,
    ) -> Self:
        """Record whose run this is; it holds for the whole run, however late it is said."""
        if self._recording:
            given = {"session_id": session_id, "user_id": user_id, "external_id": external_id}
            for name, value in given.items():
                if value is not None:
                    setattr(self, "_" + name, fields.label(value))
                    self._changed(name)
            if parent_run_id is not None:
                self._parent_run_id = parent_run_id.run.id if is_a(parent_run_id, Handle) else as_run_id(parent_run_id)  # type: ignore[attr-defined]
                self._changed("parent_run_id")
        return self

    def child(self, name: str, step_type: str = "other", input_data: Any = None, meta_data: Any = None) -> Step:
        """A step directly under this run, wherever the calling code is. Use it with ``with``."""
        return new_step(self, name, step_type, input_data, meta_data)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<Run {self._agent_name!r} {self.id} {self._status}>"

    # -- records -------------------------------------------------------------------------------------------------

    def encode(self, record_id: str) -> bytes:
        """The line of the ``run.end`` record."""
        record = self._head(RUN_END, self._ended_at)
        record["id"] = record_id
        if self._agent_name is not None:
            record["started_at"] = microseconds(self._started_at)
        record["status"] = self._status
        record.update(self._fields(("agent_name", "output", "error", "usage", "left_out", *_ATTRIBUTES)))
        return encode_line(record, self._recorder.limits)

    def progress(self, started_before: int) -> Update | None:
        """A ``run.update`` record if something was set since the last one."""
        if not self._dirty:
            return None
        self._dirty = False
        now = self._now()
        return Update(self._recorder, lambda: {**self._head(RUN_UPDATE, now), **self._fields(_ATTRIBUTES)})

    def _changed(self, field: str) -> None:
        if self._ended:
            Handle._changed(self, field)
        else:
            self._dirty = True

    def _submit_update(self, names: tuple[str, ...]) -> None:
        if self._recorder.pipeline is not None:
            names = (*names, "status") if "error" in names else names
            known = {**self._head(RUN_UPDATE, self._now()), **self._fields(names)}
            size = 512 + (self._output_size if "output" in names else self._input_size if "input" in names else 0)
            self._recorder.pipeline.submit(Update(self._recorder, lambda: known, size))

    def _now(self) -> int:
        return self._anchor + self._recorder.clock.ticks()

    def _head(self, record_type: str, time: int) -> dict[str, Any]:
        return {"type": record_type, "time": microseconds(time), "run_id": self.id}

    def _start(self) -> dict[str, Any]:
        head = self._head(RUN_START, self._started_at)
        return {**head, **self._fields(("agent_name", "input", *_ATTRIBUTES)), "source": _source()}


def _host() -> str:
    # `socket.gethostname` would cost the import of `socket`.
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")


_source_of_pid: tuple[int, dict[str, Any]] = (0, {})


def _source() -> dict[str, Any]:
    """Which program recorded; asked in the writer's thread, once for each process."""
    global _source_of_pid
    pid = os.getpid()
    if _source_of_pid[0] != pid:
        python = ".".join(map(str, sys.version_info[:3]))
        known = {"sdk": f"agent-sdk/{__version__}", "python": python, "host": _host(), "pid": pid}
        _source_of_pid = (pid, known)
    return _source_of_pid[1]
