"""What runs and steps have in common: the state of a handle, what can be set on it, and how it ends."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping, TypeVar

from agent_sdk.encoding import describe_error, is_a, snapshot
from agent_sdk.recording import fields
from agent_sdk.recording.context import current
from agent_sdk.recording.guard import guarded, itself, note, nothing
from agent_sdk.recording.recorder import Recorder
from agent_sdk.wire.records import CANCELLED, COMPLETED, FAILED, INTERRUPTED, RUNNING

Self = TypeVar("Self", bound="Handle")

#: Exceptions that end a block without anything having gone wrong in it, known by the names of their classes.
_CANCELLING = frozenset(("CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit", "Cancelled"))
#: How frameworks stop an agent to ask a person: the run goes on later.
_INTERRUPTING = frozenset(("GraphInterrupt", "NodeInterrupt", "GraphBubbleUp", "InterruptException"))
_SKELETON_SIZE = 1024
_METADATA_SIZE = 512


class Handle:
    """One run or step: set what is known about it, at any time and from any thread.

    Nothing here raises. What is set after the end is recorded as an update.
    """

    # Defaults, so that a new handle sets only what it has. The first three are set by every handle itself.
    run: Any
    _recorder: Recorder
    #: What it is known by among what is open: a run's id, a step's number.
    _key: Any
    _recording = True
    _before: Any = None
    _ended = False
    #: What a run's steps are held back by, if chance has not chosen it. Steps ask their run.
    _held: Any = None
    _started_at = 0
    _ended_at = 0
    _error: dict[str, str] | None = None
    _input: Any = None
    _input_size = 0
    _metadata: list[Any] | None = None
    _output: Any = None
    _output_size = 0
    _status = RUNNING
    _tags: list[str] | None = None
    _usage: dict[str, Any] | None = None
    #: About how much memory the record takes, in bytes.
    size = _SKELETON_SIZE

    # -- what can be set -----------------------------------------------------------------------------------------

    @guarded(itself)
    def set_output(self: Self, output: Any) -> Self:
        """Record ``output`` (any object; a bounded snapshot is taken now)."""
        if self._recording and self._recorder.capture_output:
            self._output, self._output_size = snapshot(output, self._recorder.limits)
            if self._ended:
                self._submit_update(("output",))
        return self

    @guarded(itself)
    def set_input(self: Self, input_data: Any) -> Self:
        """Record ``input_data`` where it was not known at the start."""
        if self._recording and self._recorder.capture_input:
            self._input, self._input_size = snapshot(input_data, self._recorder.limits)
            if self._ended:
                self._submit_update(("input",))
        return self

    @guarded(itself)
    def set_error(self: Self, error: Any, status: str = FAILED) -> Self:
        """Record an exception, or a message, as the reason why this failed."""
        if self._recording:
            self._error = describe_error(error)
            self._status = fields.status(status)
            if self._ended:
                self._submit_update(("error",))
        return self

    @guarded(itself)
    def set_usage(
        self: Self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
        reasoning_tokens: int | None = None,
        total_tokens: int | None = None,
        cost: float | None = None,
        **more: float,
    ) -> Self:
        """Record what this used; calls add up by name, a later value replaces an earlier one.

        The buckets are disjoint: ``input_tokens`` without ``cached_tokens``, ``output_tokens`` without
        ``reasoning_tokens``. ``cost`` is in US dollars; leave it out where it is unknown.
        """
        if self._recording:
            given: dict[str, Any] = {**more} if more else {}
            if input_tokens is not None:
                given["input_tokens"] = input_tokens
            if output_tokens is not None:
                given["output_tokens"] = output_tokens
            if cached_tokens is not None:
                given["cached_tokens"] = cached_tokens
            if reasoning_tokens is not None:
                given["reasoning_tokens"] = reasoning_tokens
            if total_tokens is not None:
                given["total_tokens"] = total_tokens
            if cost is not None:
                given["cost"] = cost
            # A new one each time: the writer may be reading the old one.
            self._usage = given if self._usage is None else {**self._usage, **given}
            if self._ended:
                self._submit_update(("usage",))
        return self

    @guarded(itself)
    def set_metadata(self: Self, metadata: Mapping[str, Any] | None = None, **more: Any) -> Self:
        """Record values by name, from a mapping or as keywords; calls are merged name by name."""
        if self._recording:
            given = [
                snapshot(values, self._recorder.limits)[0] for values in (metadata, more or None) if values is not None
            ]
            self._metadata = [*(self._metadata or ()), *given]
            self._changed("metadata")
        return self

    @guarded(itself)
    def add_tags(self: Self, *tags: str) -> Self:
        """Add tags; a tag is there once however often it is added."""
        if self._recording:
            self._tags = fields.merged_tags(self._tags, tags)
            self._changed("tags")
        return self

    @guarded(itself)
    def keep(self: Self) -> Self:
        """Keep the whole run, whatever sampling says."""
        if self.run._held is not None:
            self.run._held.release()
        return self

    # -- the end -------------------------------------------------------------------------------------------------

    @guarded(nothing)
    def end(self, status: str | None = None, output: Any = None, error: Any = None) -> None:
        """End this now. ``status`` is ``completed``, or ``failed`` with an error, unless it is given."""
        if self._ended:
            return
        if output is not None:
            self.set_output(output)
        if error is not None:
            self.set_error(error, _status_after(error) if is_a(error, BaseException) else FAILED)
        if status is not None:
            self._status = fields.status(status)
        self._finish()

    def _finish(self) -> None:
        """Hand over to delivery, once."""
        if self._ended:
            return
        self._ended = True
        if current.get() is self:
            self._leave()
        if not self._recording:
            return
        recorder = self._recorder
        self._ended_at = self.run._anchor + recorder.clock.ticks()
        if self._status == RUNNING:
            self._status = COMPLETED
        recorder.open.pop(self._key, None)
        self.size = _SKELETON_SIZE + self._input_size + self._output_size
        if self._metadata is not None:
            self.size += _METADATA_SIZE * len(self._metadata)
        if self._error is not None:
            self.size += sum(map(len, self._error.values()))
        if recorder.pipeline is not None:
            held = self.run._held
            (recorder.budget if held is None else held).submit(self)

    def _leave(self) -> None:
        """Make current again what was before, unless something else has become current meanwhile."""
        if current.get() is self:
            before = self._before
            while before is not None and before._ended:  # it ended before us, out of order
                before = before._before
            current.set(before)

    def first_token(self: Self) -> Self:
        """The first piece of a streamed answer is here. Runs keep no time of it."""
        return self

    @property
    def ended(self) -> bool:
        """Whether this is over."""
        return self._ended

    @property
    def status(self) -> str:
        """``running``, ``completed``, ``failed``, ``cancelled`` or ``interrupted``."""
        return self._status

    def fail(self, error: BaseException) -> None:
        """End this with an exception that is passing through. Never raises, and leaves the exception as it is."""
        try:
            if self._recording and not self._ended:
                if self._error is None:
                    self._error = describe_error(error)
                self._status = _status_after(error)
            self._finish()
        except Exception as failure:
            note("fail", failure)

    def __enter__(self: Self) -> Self:
        try:
            self._before = current.get()
            current.set(self)
        except Exception as error:
            note("__enter__", error)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if error is not None:
                self.fail(error)
            else:
                self._finish()
        except Exception as failure:
            note("__exit__", failure)

    async def __aenter__(self: Self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.__exit__(kind, error, traceback)

    # -- records -------------------------------------------------------------------------------------------------

    @property
    def redactor(self) -> Any:
        """What takes secrets out of this handle's records."""
        return self._recorder.redactor

    def shed(self) -> None:
        """Give up the bodies, so that the rest survives a shortage of memory or disk."""
        self._input = fields.shed(self._input, self._input_size)
        self._output = fields.shed(self._output, self._output_size)
        self.size = _SKELETON_SIZE

    def _changed(self, field: str) -> None:
        """An attribute was set: after the end it needs a record of its own."""
        if self._ended:
            self._submit_update((field,))

    def _submit_update(self, names: tuple[str, ...]) -> None:
        raise NotImplementedError

    def _fields(self, names: Iterable[str]) -> dict[str, Any]:
        """What is to be said of each name: nothing of what nobody has set."""
        found = {}
        for name in names:
            value = getattr(self, "_" + name)
            if value is not None and name in _PREPARED:
                value = _PREPARED[name](value)
            if value is not None:
                found[name] = value
        return found


def microseconds(nanoseconds: int) -> int:
    """A time as the record format has it."""
    return nanoseconds // 1000


def _status_after(error: BaseException) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _INTERRUPTING:
        return INTERRUPTED
    return CANCELLED if names & _CANCELLING else FAILED


_PREPARED: dict[str, Callable[[Any], Any]] = {
    "first_token_at": microseconds,
    "metadata": fields.merged_metadata,
    "usage": fields.usage,
}
