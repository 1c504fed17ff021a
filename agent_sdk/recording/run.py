"""The handle of a run: one execution of an agent."""

from __future__ import annotations

import os
import sys
from typing import Any

from agent_sdk.encoding import dumps
from agent_sdk.recording import fields
from agent_sdk.recording.guard import guarded, itself
from agent_sdk.recording.handle import Handle, Self
from agent_sdk.recording.ids import as_run_id, new_run_id
from agent_sdk.recording.recorder import Recorder, Update
from agent_sdk.recording.step import Step, new_step
from agent_sdk.wire.records import RUN_END, RUN_START, RUN_UPDATE
from agent_sdk.wire.version import __version__

_ATTRIBUTES = ("session_id", "user_id", "external_id", "parent_run_id", "tags", "metadata")


class Run(Handle):
    """A run that is open until its block is left or ``end`` is called; also the record of its own end.

    ``str(run)`` is its id.
    """

    __slots__ = (
        "_agent_name",
        "_anchor",
        "_dirty",
        "_external_id",
        "_parent_run_id",
        "_session_id",
        "_user_id",
        "id",
    )

    def __init__(self, recorder: Recorder, recording: bool, agent_name: Any, run_id: str | None = None) -> None:
        Handle.__init__(self, recorder, recording)
        self.run = self
        self.id = run_id or new_run_id()
        #: None for a run that somebody else has started and that is known here by its id only.
        self._agent_name = fields.optional_label(agent_name)
        self._anchor = recorder.clock.anchor()
        self._dirty = False
        self._external_id: str | None = None
        self._parent_run_id: str | None = None
        self._session_id: str | None = None
        self._user_id: str | None = None
        self._started_at = self._anchor + recorder.clock.ticks()

    def start(self) -> None:
        """Record that the run has begun."""
        if self._recording and self._recorder.pipeline is not None:
            self._recorder.begin(self.id, self)
            size = 512 + len(self._input or b"")
            head = self._head(RUN_START, self._started_at)
            self._recorder.pipeline.submit(Update(head, self._start_fields, self.redactor, size))

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
                self._parent_run_id = as_run_id(parent_run_id)  # type: ignore[attr-defined]
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

    @property
    def _key(self) -> str:
        return self.id

    def encode(self, record_id: str) -> bytes:
        """The line of the ``run.end`` record."""
        names = ("agent_name", "output", "error", "usage", *_ATTRIBUTES)
        started = "" if self._agent_name is None else f',"started_at":{self._started_at}'
        times = f',"id":"{record_id}"{started},"status":"{self._status}"'.encode()
        return b"".join((self._head(RUN_END, self._ended_at), times, *map(self._field, names), b"}\n"))

    def progress(self, started_before: int) -> Update | None:
        """A ``run.update`` record if something was set since the last one."""
        if not self._dirty:
            return None
        self._dirty = False
        return Update(self._head(RUN_UPDATE, self._now()), self._attribute_fields, self.redactor)

    def _changed(self, field: str) -> None:
        if self._ended:
            Handle._changed(self, field)
        else:
            self._dirty = True

    def _submit_update(self, names: tuple[str, ...]) -> None:
        if "error" in names:
            names = (*names, "status")
        known = b"".join(map(self._field, names))
        if self._recorder.pipeline is not None:
            update = Update(self._head(RUN_UPDATE, self._now()), lambda: known, self.redactor, 256 + len(known))
            self._recorder.pipeline.submit(update)

    def _now(self) -> int:
        return self._anchor + self._recorder.clock.ticks()

    def _head(self, record_type: str, time: int) -> bytes:
        return f'{{"type":"{record_type}","time":{time},"run_id":"{self.id}"'.encode()

    def _start_fields(self) -> bytes:
        return self._field("agent_name") + self._field("input") + self._attribute_fields() + _source()

    def _attribute_fields(self) -> bytes:
        return b"".join(map(self._field, _ATTRIBUTES))


_source_of_pid: tuple[int, bytes] = (0, b"")


def _source() -> bytes:
    """Which program recorded; asked in the writer's thread, once for each process."""
    global _source_of_pid
    pid = os.getpid()
    if _source_of_pid[0] != pid:
        import socket

        python = ".".join(map(str, sys.version_info[:3]))
        known = {"sdk": f"agent-sdk/{__version__}", "python": python, "host": socket.gethostname(), "pid": pid}
        _source_of_pid = (pid, b',"source":' + dumps(known))
    return _source_of_pid[1]
