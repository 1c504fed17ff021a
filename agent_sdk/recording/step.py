"""The handle of a step: one thing done inside a run."""

from __future__ import annotations

from typing import Any

from agent_sdk.encoding import encode_line, snapshot
from agent_sdk.recording import fields
from agent_sdk.recording.guard import guarded, itself, note
from agent_sdk.recording.handle import Handle, Self, microseconds
from agent_sdk.recording.ids import new_step_id
from agent_sdk.recording.recorder import MAX_OPEN, Update
from agent_sdk.wire.records import STEP_END, STEP_START, STEP_UPDATE


class Step(Handle):
    """A step that is open until its block is left or ``end`` is called; also the record of its own end."""

    _announced = False
    _first_token_at: int | None = None
    _model: str | None = None

    def __init__(self, parent: Handle, name: Any, step_type: Any, input_data: Any = None, metadata: Any = None) -> None:
        recorder = self._recorder = parent._recorder
        run = self.run = parent.run
        self._parent: int = 0 if parent is run else parent._key
        self._key = new_step_id()
        self._name = name if type(name) is str and len(name) < 1024 else fields.label(name)
        self._step_type = step_type if type(step_type) is str and 0 < len(step_type) <= 64 else _step_type(step_type)
        if not parent._recording:
            self._recording = False
            return
        if input_data is not None and recorder.capture_input:
            self._input, self._input_size = snapshot(input_data, recorder.limits)
        if metadata is not None:
            self._metadata = [snapshot(metadata, recorder.limits)[0]]
        self._started_at = run._anchor + recorder.clock.ticks()
        recorder.open[self._key] = self
        if len(recorder.open) > MAX_OPEN:
            recorder.forget_oldest()

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return f"{self._key:016x}"

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

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<Step {self._name!r} {self.id} {self._status}>"

    # -- records -------------------------------------------------------------------------------------------------

    def encode(self, record_id: str) -> bytes:
        """The line of the ``step.end`` record."""
        record = self._head(STEP_END, self._ended_at)
        record["id"] = record_id
        self._identify(record)
        record["started_at"] = microseconds(self._started_at)
        record["status"] = self._status
        record.update(self._fields(_ANNOUNCED_END_FIELDS if self._announced else _END_FIELDS))
        return encode_line(record, self._recorder.limits)

    def progress(self, started_before: int) -> Update | None:
        """A ``step.start`` record if this has been open for so long and was not reported."""
        if self._announced or self._started_at > started_before or self.run._held is not None:
            return None
        self._announced = True
        return Update(self._recorder, self._start, 512 + self._input_size)

    def _start(self) -> dict[str, Any]:
        record = self._head(STEP_START, self._started_at)
        self._identify(record)
        return {**record, **self._fields(_START_FIELDS)}

    def _submit_update(self, names: tuple[str, ...]) -> None:
        if self._recorder.pipeline is not None:
            now = self.run._anchor + self._recorder.clock.ticks()
            known = {**self._head(STEP_UPDATE, now), **self._fields((*names, "status") if "error" in names else names)}
            size = 512 + (self._output_size if "output" in names else self._input_size if "input" in names else 0)
            held = self.run._held
            (self._recorder.budget if held is None else held).submit(Update(self._recorder, lambda: known, size))

    def _head(self, record_type: str, time: int) -> dict[str, Any]:
        return {"type": record_type, "time": microseconds(time), "run_id": self.run.id, "step_id": f"{self._key:016x}"}

    def _identify(self, record: dict[str, Any]) -> None:
        if self._parent:
            record["parent_step_id"] = f"{self._parent:016x}"
        record["name"] = self._name
        record["step_type"] = self._step_type


class LoneStep(Step):
    """A step whose run exists only because of it, and ends with it."""

    def _finish(self) -> None:
        Handle._finish(self)
        if not self.run._ended:
            self.run._status = self._status
            self.run._finish()


_START_FIELDS = ("input", "model", "tags", "metadata", "first_token_at")
_ANNOUNCED_END_FIELDS = ("output", "error", "model", "usage", "first_token_at", "tags", "metadata")
_END_FIELDS = ("input", *_ANNOUNCED_END_FIELDS)


def new_step(
    parent: Handle,
    name: Any,
    step_type: Any = "other",
    input_data: Any = None,
    metadata: Any = None,
    kind: type[Step] = Step,
) -> Step:
    """A step under ``parent``; never raises."""
    try:
        return kind(parent, name, step_type, input_data, metadata)
    except Exception as error:
        note("step", error)
        return kind(parent, "step", "other")


def _step_type(value: Any) -> str:
    return fields.label(value)[:64] or "other"  # an enumeration's member stands for its value
