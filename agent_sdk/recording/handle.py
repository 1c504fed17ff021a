"""What runs and steps have in common: the state of a handle, what can be set on it, and how it ends."""

from __future__ import annotations

from typing import Any, Mapping, TypeVar

from agent_sdk.encoding import describe_error, describe_text, dumps, loads
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
_SKELETON_SIZE = 400


class Handle:
    """One run or step: set what is known about it, at any time and from any thread.

    Nothing here raises. What is set after the end is recorded as an update.
    """

    __slots__ = (
        "_before",
        "_ended",
        "_ended_at",
        "_error",
        "_input",
        "_metadata",
        "_output",
        "_recorder",
        "_recording",
        "_started_at",
        "_status",
        "_tags",
        "_usage",
        "run",
        "size",
    )

    run: Any

    def __init__(self, recorder: Recorder, recording: bool) -> None:
        self._recorder = recorder
        self._recording = recording
        self._before: Any = None
        self._ended = False
        self._ended_at = 0
        self._error: bytes | None = None
        self._input: bytes | None = None
        self._output: bytes | None = None
        self._metadata: list[bytes] | None = None
        self._status = RUNNING
        self._tags: list[str] | None = None
        self._usage: dict[str, Any] | None = None
        self.size = _SKELETON_SIZE

    # -- what can be set -----------------------------------------------------------------------------------------

    @guarded(itself)
    def set_output(self: Self, output: Any) -> Self:
        """Record ``output`` (any object; a bounded snapshot is taken now)."""
        if self._recording and self._recorder.capture_output:
            self._output = self._recorder.body(output)
            self._changed("output")
        return self

    @guarded(itself)
    def set_input(self: Self, input_data: Any) -> Self:
        """Record ``input_data`` where it was not known at the start."""
        if self._recording and self._recorder.capture_input:
            self._input = self._recorder.body(input_data)
            self._changed("input")
        return self

    @guarded(itself)
    def set_error(self: Self, error: Any, status: str = FAILED) -> Self:
        """Record an exception, or a message, as the reason why this failed."""
        if self._recording:
            self._error = _describe(error)
            self._status = fields.status(status)
            self._changed("error")
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
            known = {
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cached_tokens": cached_tokens,
                "reasoning_tokens": reasoning_tokens,
                "total_tokens": total_tokens,
                "cost": cost,
                **more,
            }
            self._usage = {**(self._usage or {}), **fields.usage(known)} or None
            self._changed("usage")
        return self

    @guarded(itself)
    def set_metadata(self: Self, metadata: Mapping[str, Any] | None = None, **more: Any) -> Self:
        """Record values by name, from a mapping or as keywords; calls are merged name by name."""
        if self._recording:
            self._metadata = [*(self._metadata or ()), *(fields.metadata(metadata, more or None) or ())] or None
            self._changed("metadata")
        return self

    @guarded(itself)
    def add_tags(self: Self, *tags: str) -> Self:
        """Add tags; a tag is there once however often it is added."""
        if self._recording:
            self._tags = fields.merged_tags(self._tags, tags)
            self._changed("tags")
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
            self.set_error(error, _status_after(error) if isinstance(error, BaseException) else FAILED)
        if status is not None:
            self._status = fields.status(status)
        self._finish()

    def _finish(self) -> None:
        """Hand over to delivery, once."""
        if self._ended:
            return
        self._ended = True
        self._leave()
        if not self._recording:
            return
        self._ended_at = self.run._anchor + self._recorder.clock.ticks()
        if self._status == RUNNING:
            self._status = COMPLETED
        self._recorder.open.pop(self._key, None)
        for body in (self._input, self._output, self._error):
            if body is not None:
                self.size += len(body)
        pipeline = self._recorder.pipeline
        if pipeline is not None:
            pipeline.submit(self)

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
    def _key(self) -> Any:
        raise NotImplementedError

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
        self._input, self._output = fields.shed(self._input), fields.shed(self._output)
        self.size = _SKELETON_SIZE

    def _changed(self, field: str) -> None:
        """A field was set: after the end it needs a record of its own."""
        if self._ended and self._recorder.pipeline is not None:
            self._submit_update((field,))

    def _submit_update(self, names: tuple[str, ...]) -> None:
        raise NotImplementedError

    def _field(self, name: str) -> bytes:
        """``,"name":value`` as JSON, empty where there is nothing to say."""
        value = getattr(self, "_" + name)
        if value is None:
            return b""
        if name == "metadata":
            value = _merged(value)
        elif type(value) is str:
            value = fields.quoted(value)
        elif type(value) is not bytes:
            value = dumps(value)
        return b',"%b":%b' % (name.encode(), value)


def _status_after(error: BaseException) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _INTERRUPTING:
        return INTERRUPTED
    return CANCELLED if names & _CANCELLING else FAILED


def _describe(error: Any) -> bytes:
    if isinstance(error, BaseException):
        return describe_error(error)
    if isinstance(error, dict):
        known = {key: str(error[key]) for key in ("type", "message", "stack") if error.get(key) is not None}
        return dumps(known) if known else describe_text(str(error))
    return describe_text(error)


def _merged(parts: list[bytes]) -> bytes:
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(loads(part))
    return dumps(merged)
