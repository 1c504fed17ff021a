"""What all handles of one tracker share: how they record, and what of it is open now."""

from __future__ import annotations

from typing import Any, Callable, Iterable

from agent_sdk.delivery import Pipeline
from agent_sdk.encoding import Limits, Redactor, encode_line, load_codec
from agent_sdk.recording.clock import Clock

#: Runs and steps beyond this number may be open, but are no longer reported as open while they are.
MAX_OPEN = 20_000


class Recorder:
    """Takes finished records, and answers the pipeline's question what is still open.

    Without a pipeline nothing is recorded, and handles cost next to nothing.
    """

    __slots__ = (
        *("budget", "capture_input", "capture_output", "clock", "flush_interval", "held_bytes", "limits", "open"),
        *("pipeline", "redactor"),
    )

    def __init__(
        self,
        pipeline: Pipeline | None,
        redactor: Redactor,
        limits: Limits,
        clock: Clock,
        capture_input: bool = True,
        capture_output: bool = True,
        flush_interval: float = 0.5,
    ) -> None:
        self.pipeline = pipeline
        #: Where steps go: the pipeline, or a ``Budget`` before it.
        self.budget: Any = pipeline
        #: Size of the steps that runs hold back, see ``sampling.py``.
        self.held_bytes = 0
        self.redactor = redactor
        self.limits = limits
        self.clock = clock
        self.capture_input = capture_input
        self.capture_output = capture_output
        self.flush_interval = int(flush_interval * 1_000_000_000)
        if pipeline is not None:
            load_codec()
        #: Open runs and steps by their ids; a handle is in it from its start to its end.
        self.open: dict[Any, Any] = {}

    def forget_oldest(self) -> None:
        """Make room among what is open."""
        forgotten = self.open.pop(next(iter(self.open)), None)
        if forgotten is not None:
            if forgotten._held is not None:
                forgotten._held.release()
            forgotten._before = None  # or runs that are begun and never ended would keep each other for ever

    # -- the pipeline's questions --------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Something is open."""
        return bool(self.open)

    def report(self, now: int) -> Iterable[Any]:
        """Records about what has been open for longer than a flush interval and was not reported yet."""
        records = []
        for handle in list(self.open.values()):
            record = handle.progress(now - self.flush_interval)
            if record is not None:
                records.append(record)
        return records

    def open_runs(self) -> list[str]:
        """Ids of the runs that are open."""
        return [key for key in list(self.open) if type(key) is str]

    def release_held(self) -> None:
        """Let runs whose end will not be seen keep what they hold back."""
        for handle in list(self.open.values()):
            if handle._held is not None:
                handle._held.release()

    def after_fork_in_child(self) -> None:
        """What was open or held back at the fork is the parent's to report."""
        for handle in self.open.values():
            handle._held = None
        self.open = {}
        self.held_bytes = 0


class Update:
    """A record of something learnt early or late; ``fields`` gives them when it is written, in the writer's thread."""

    __slots__ = ("_fields", "_recorder", "size")

    def __init__(self, recorder: Recorder, fields: Callable[[], dict[str, Any]], size: int = 512) -> None:
        self._recorder = recorder
        self._fields = fields
        self.size = size

    @property
    def redactor(self) -> Redactor:
        """What takes secrets out of the record."""
        return self._recorder.redactor

    def encode(self, record_id: str) -> bytes:
        """The record's line."""
        return encode_line({**self._fields(), "id": record_id}, self._recorder.limits)

    def shed(self) -> None:
        """Its bodies belong to a handle, which sheds them itself."""
