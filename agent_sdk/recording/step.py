"""The handle of a step: one thing done inside a run."""

from __future__ import annotations

from typing import Any

from agent_sdk.recording import fields
from agent_sdk.recording.guard import guarded, itself, note
from agent_sdk.recording.handle import Handle, Self
from agent_sdk.recording.ids import new_step_id
from agent_sdk.recording.recorder import Update
from agent_sdk.wire.records import STEP_END, STEP_START, STEP_UPDATE


class Step(Handle):
    """A step that is open until its block is left or ``end`` is called; also the record of its own end."""

    __slots__ = ("_announced", "_first_token_at", "_model", "_name", "_owns_run", "_parent", "_step_id", "_step_type")

    def __init__(self, parent: Handle, name: Any, step_type: Any, input_data: Any = None, metadata: Any = None) -> None:
        recorder = parent._recorder
        Handle.__init__(self, recorder, parent._recording)
        run = parent.run
        self.run = run
        self._parent = 0 if parent is run else parent._step_id  # type: ignore[attr-defined]
        self._step_id = new_step_id()
        self._name = name if type(name) is str and len(name) < 1024 else fields.label(name)
        self._step_type = step_type
        self._announced = False
        #: The run exists only because of this step and ends with it.
        self._owns_run = False
        self._first_token_at: int | None = None
        self._model: str | None = None
        if self._recording:
            if input_data is not None and recorder.capture_input:
                self._input = recorder.body(input_data)
            if metadata is not None:
                self._metadata = fields.metadata(metadata)
            self._started_at = run._anchor + recorder.clock.ticks()
            recorder.begin(self._step_id, self)

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return f"{self._step_id:016x}"

    @property
    def step_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def run_id(self) -> str:
        """The id of the run that this step belongs to."""
        return str(self.run)

    @property
    def name(self) -> str:
        """What the step is called."""
        return self._name

    @guarded(itself)
    def set_model(self: Self, model: str) -> Self:
        """Record which model answered."""
        if self._recording:
            self._model = fields.label(model)  # type: ignore[attr-defined]
            self._changed("model")
        return self

    @guarded(itself)
    def first_token(self: Self) -> Self:
        """The first piece of a streamed answer is here; only the first call counts."""
        if self._recording and self._first_token_at is None:  # type: ignore[attr-defined]
            self._first_token_at = self.run._anchor + self._recorder.clock.ticks()  # type: ignore[attr-defined]
            self._changed("first_token_at")
        return self

    def child(self, name: str, step_type: str = "other", input_data: Any = None, meta_data: Any = None) -> Step:
        """A step under this one, wherever the calling code is: for callbacks and threads. Use it with ``with``."""
        return new_step(self, name, step_type, input_data, meta_data)

    def _finish(self) -> None:
        Handle._finish(self)
        if self._owns_run:
            self._owns_run = False
            self.run._status = self._status
            self.run._finish()

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<Step {self._name!r} {self.id} {self._status}>"

    # -- records -------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> int:
        return self._step_id

    def encode(self, record_id: str) -> bytes:
        """The line of the ``step.end`` record."""
        names = _ANNOUNCED_END_FIELDS if self._announced else _END_FIELDS
        times = f',"started_at":{self._started_at},"status":"{self._status}"'.encode()
        return b"".join(
            (
                self._head(STEP_END, self._ended_at),
                b',"id":"',
                record_id.encode(),
                b'"',
                self._identity(),
                times,
                *[self._field(name) for name in names],
                b"}\n",
            )
        )

    def progress(self, started_before: int) -> Update | None:
        """A ``step.start`` record if this has been open for so long and was not reported."""
        if self._announced or self._started_at > started_before:
            return None
        self._announced = True
        return Update(
            self._head(STEP_START, self._started_at),
            lambda: self._identity() + b"".join([self._field(name) for name in _START_FIELDS]),
            self.redactor,
            512 + len(self._input or b""),
        )

    def _submit_update(self, names: tuple[str, ...]) -> None:
        if "error" in names:
            names = (*names, "status")
        known = b"".join([self._field(name) for name in names])
        head = self._head(STEP_UPDATE, self.run._anchor + self._recorder.clock.ticks())
        update = Update(head, lambda: known, self.redactor, 256 + len(known))
        if self._recorder.pipeline is not None:
            self._recorder.pipeline.submit(update)

    def _head(self, record_type: str, time: int) -> bytes:
        head = f'{{"type":"{record_type}","time":{time},"run_id":"{self.run.id}","step_id":"{self._step_id:016x}"'
        return head.encode()

    def _identity(self) -> bytes:
        parent = b',"parent_step_id":"%016x"' % self._parent if self._parent else b""
        return parent + b',"name":%b,"step_type":%b' % (fields.quoted(self._name), fields.quoted(self._step_type))


_START_FIELDS = ("input", "model", "tags", "metadata", "first_token_at")
_ANNOUNCED_END_FIELDS = ("output", "error", "model", "usage", "first_token_at", "tags", "metadata")
_END_FIELDS = ("input", *_ANNOUNCED_END_FIELDS)


def new_step(parent: Handle, name: Any, step_type: Any = "other", input_data: Any = None, metadata: Any = None) -> Step:
    """A step under ``parent``; never raises."""
    try:
        return Step(parent, name, _step_type(step_type), input_data, metadata)
    except Exception as error:
        note("step", error)
        return Step(parent, "step", "other")


def _step_type(value: Any) -> str:
    value = getattr(value, "value", value)  # an enumeration's member stands for its value
    return value if type(value) is str and 0 < len(value) <= 64 else fields.label(value)[:64] or "other"
