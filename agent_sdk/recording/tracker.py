"""The object that user code holds: starts runs, records steps, delivers and closes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterable, Mapping, TypeVar, overload

from agent_sdk.delivery import Delivery, FlushResult, Pipeline, open_pipeline
from agent_sdk.delivery.log import say
from agent_sdk.encoding import Limits, Redactor, is_a, snapshot
from agent_sdk.recording import fields
from agent_sdk.recording.clock import SYSTEM_CLOCK
from agent_sdk.recording.configuration import Configuration, ConfigurationError, killed
from agent_sdk.recording.context import current
from agent_sdk.recording.decorator import tracked
from agent_sdk.recording.guard import guarded, note, nothing
from agent_sdk.recording.handle import Handle
from agent_sdk.recording.ids import as_run_id
from agent_sdk.recording.recorder import Recorder
from agent_sdk.recording.run import Run
from agent_sdk.recording.sampling import Budget, Held, Sampling
from agent_sdk.recording.step import LoneStep, Step, new_step

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

_NOTHING = FlushResult(0, 0, 0, 0, {})


def create_tracker(api_key: str | None = None, base_url: str | None = None, **options: Any) -> RunTracker:
    """A tracker for the collector at ``base_url`` (default: the one on this machine).

    Settings come from arguments, then from ``AGENT_SDK_*`` variables, then from defaults; README lists them. Never
    raises: what cannot be used is said once in the log, and ``strict=True`` raises ``ConfigurationError`` instead.

    >>> tracker = create_tracker(base_url="memory://example")
    >>> with tracker.track_run("greeter", input_data={"name": "Ada"}) as run:
    ...     with tracker.track_step_context("greet", "tool_call") as step:
    ...         _ = step.set_output("Hello, Ada")
    >>> tracker.flush().complete
    True
    """
    arguments = {"api_key": api_key, "base_url": base_url, **options}
    try:
        return RunTracker(Configuration(arguments, os.environ))
    except ConfigurationError:
        raise
    except Exception as error:
        note("create_tracker", error)
        return RunTracker(Configuration({"disabled": True}, {}))


class RunTracker:
    """Records runs and steps. Its methods never raise and never wait; an instance may be used by any thread."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._closed = False
        self._last = _NOTHING
        self._pipeline = _pipeline(configuration)
        self._recorder = Recorder(
            self._pipeline,
            Redactor(configuration.redact, configuration.redact_builtin),
            Limits.for_bodies(configuration.max_body_bytes),
            configuration.clock or SYSTEM_CLOCK,
            configuration.capture_input,
            configuration.capture_output,
            configuration.flush_interval,
        )
        self._sampling = Sampling(configuration.sample_rate, configuration.keep_slower, configuration.keep_costlier)
        if self._pipeline is not None:
            self._pipeline.add_reporter(self._recorder)
            limits = configuration.records_per_minute, configuration.bytes_per_minute
            if limits != (None, None):
                self._recorder.budget = Budget(self._pipeline, *limits)

    # -- runs ----------------------------------------------------------------------------------------------------

    @guarded(lambda tracker, *_: tracker._idle_run())
    def start_run(
        self,
        agent_name: str = "agent",
        input_data: Any = None,
        external_id: str | None = None,
        meta_data: Mapping[str, Any] | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_run_id: Any = None,
        run_id: Any = None,
    ) -> Run:
        """Begin a run and make it the current one of the calling context, until ``end_run`` ends it."""
        run: Run = self.track_run(
            agent_name,
            input_data,
            external_id,
            meta_data,
            session_id=session_id,
            user_id=user_id,
            tags=tags,
            metadata=metadata,
            parent_run_id=parent_run_id,
            run_id=run_id,
        )
        run.__enter__()
        return run

    @guarded(lambda tracker, *_: tracker._idle_run())
    def track_run(
        self,
        agent_name: str = "agent",
        input_data: Any = None,
        external_id: str | None = None,
        meta_data: Mapping[str, Any] | None = None,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        parent_run_id: Any = None,
        run_id: Any = None,
    ) -> Run:
        """A run for a ``with`` or ``async with`` block. Inside another run it becomes a run of its own with a parent.

        ``run_id`` gives the run an id of your own (a UUID).
        """
        recording = self._is_recording()
        name = "agent" if agent_name is None else agent_name
        run = Run(self._recorder, recording, name, _run_id_of(run_id))
        if not recording:
            return run
        around = self._node()
        run._external_id = fields.optional_label(external_id)
        run._session_id = fields.optional_label(session_id)
        run._user_id = fields.optional_label(user_id)
        run._parent_run_id = _run_id_of(parent_run_id) if parent_run_id is not None else around and around.run.id
        run._tags = None if tags is None else fields.tags(tags)
        if meta_data is not None or metadata is not None:
            run.set_metadata(meta_data).set_metadata(metadata)
        if input_data is not None and self._recorder.capture_input:
            run._input, run._input_size = snapshot(input_data, self._recorder.limits)
        if not self._sampling.chooses(run.id):
            run._held = Held(run, self._sampling, self._configuration.buffer_bytes // 4)
        run.start()
        return run

    @guarded(nothing)
    def end_run(self, status: str = "completed", output: Any = None, error: Any = None, run_id: Any = None) -> None:
        """End the current run, or the one that ``run_id`` (a handle or an id) names."""
        run = self._run_for(run_id)
        if run is None:
            say("end_run", "end_run was called outside of a run: nothing was ended")
        elif error is not None:
            run.end("failed" if status == "completed" else status, output, error)
        else:
            run.end(status, output)

    # -- steps ---------------------------------------------------------------------------------------------------

    @guarded(lambda tracker, *_: new_step(tracker._idle_run(), "step"))
    def track_step(
        self,
        name: str = "step",
        step_type: str = "other",
        input_data: Any = None,
        output_data: Any = None,
        error: Any = None,
        tokens_used: int | None = None,
        latency_ms: float | None = None,
        meta_data: Mapping[str, Any] | None = None,
        run_id: Any = None,
        *,
        parent: Handle | None = None,
        model: str | None = None,
        usage: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        status: str | None = None,
    ) -> Step:
        """Record a step that is already over; ``latency_ms`` says how long it took."""
        with self.track_step_context(name, step_type, input_data, meta_data, run_id, parent=parent) as step:
            if latency_ms is not None and step._recording:
                step._started_at = max(0, step._started_at - fields.nanoseconds(latency_ms))
            if tokens_used is not None:
                step.set_usage(total_tokens=tokens_used)
            if usage is not None:
                step.set_usage(**fields.named(usage))
            if model is not None:
                step.set_model(model)
            if tags is not None:
                step.add_tags(*fields.tags(tags))
            if metadata is not None:
                step.set_metadata(metadata)
            step.end(status, output_data, error)
        return step

    def track_step_context(
        self,
        name: str = "step",
        step_type: str = "other",
        input_data: Any = None,
        meta_data: Mapping[str, Any] | None = None,
        run_id: Any = None,
        *,
        parent: Handle | None = None,
    ) -> Step:
        """A step for a ``with`` or ``async with`` block, under the current step or run.

        ``parent`` (a handle) or ``run_id`` (a handle or an id) put it elsewhere. Outside of any run, it makes one.
        """
        try:
            if parent is None and run_id is None:
                node = current.get()
                if node is not None and node._recorder is not self._recorder:
                    node = self._node()
            else:
                node = parent if is_a(parent, Handle) else self._run_for(run_id) or self._node()
            if node is None:
                return self._run_of_one_step(name, step_type, input_data, meta_data)
            return Step(node, name, step_type, input_data, meta_data)
        except Exception as error:
            note("track_step_context", error)
            return new_step(self._idle_run(), name)

    # -- decorator -----------------------------------------------------------------------------------------------

    @overload
    def track(self, function: Function, /) -> Function: ...

    @overload
    def track(
        self,
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
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        step_type: str = "other",
        capture_input: bool = True,
        capture_output: bool = True,
        ignore: Collection[str] = (),
    ) -> Any:
        """Record each call of a function: as a run outside of any run, as a step inside one.

        >>> tracker = create_tracker(base_url="memory://example")
        >>> @tracker.track(step_type="tool_call", ignore=("token",))
        ... def search(query: str, token: str) -> str:
        ...     return query.upper()
        >>> search("weather in Bern", token="…")
        'WEATHER IN BERN'
        """

        def decorate(decorated: Any) -> Any:
            return tracked(decorated, self.begin_call, name, step_type, capture_input, capture_output, ignore)

        return decorate if function is None else decorate(function)

    @guarded(lambda tracker, *_: tracker._idle_run())
    def begin_call(self, name: str, step_type: str, input_data: Any) -> Handle:
        """The handle of a decorated function's call: for ``@track`` and for integrations."""
        node = self._node()
        if node is not None:
            return new_step(node, name, step_type, input_data)
        run: Handle = self.track_run(name, input_data)
        return run

    # -- delivery ------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 5.0) -> FlushResult:
        """Deliver what was recorded, in at most ``timeout`` seconds, and say what became of it. Never raises."""
        return self._ask(lambda pipeline: pipeline.flush(timeout))

    def stats(self) -> FlushResult:
        """What became of everything recorded so far, without waiting."""
        return self._ask(lambda pipeline: pipeline.stats())

    def close(self, timeout: float | None = None) -> FlushResult:
        """Deliver what is left within ``timeout`` seconds (default ``exit_timeout``) and record nothing more."""
        pipeline, recorder = self._pipeline, self._recorder
        if self._closed or pipeline is None:
            return self._last
        self._closed = True
        recorder.release_held()
        self._last = self._ask(lambda pipeline: pipeline.close(timeout))
        pipeline.remove_reporter(recorder)
        return self._last

    def _ask(self, question: Callable[[Pipeline], FlushResult]) -> FlushResult:
        try:
            if self._pipeline is not None:
                return question(self._pipeline)
        except Exception as error:
            note("flush", error)
        return self._last

    @property
    def configuration(self) -> Configuration:
        """The settings, with where each came from."""
        return self._configuration

    def __enter__(self) -> RunTracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            if not self._closed and self._pipeline is not None:
                self._closed = True
                self._pipeline.remove_reporter(self._recorder)
                self._pipeline.release()
        except Exception:
            pass  # a tracker that was never finished being made, or an interpreter that is ending

    # -- inside --------------------------------------------------------------------------------------------------

    def _is_recording(self) -> bool:
        return self._pipeline is not None and not self._closed and not killed()

    def _node(self) -> Any:
        """The innermost run or step of this tracker that the caller is inside of."""
        node = current.get()
        while node is not None and node._recorder is not self._recorder:
            node = node._before
        return node

    def _run_for(self, run_id: Any) -> Any:
        if run_id is None:
            node = self._node()
            return node.run if node is not None else None
        if is_a(run_id, Handle):
            return run_id.run
        text = as_run_id(run_id)
        known = self._recorder.open.get(text)
        if known is not None or text is None:
            return known
        return Run(self._recorder, self._is_recording(), None, text)

    def _run_of_one_step(self, name: Any, step_type: Any, input_data: Any, meta_data: Any) -> Step:
        return new_step(self.track_run(name), name, step_type, input_data, meta_data, LoneStep)

    def _idle_run(self) -> Run:
        return Run(self._recorder, False, "agent")


def _run_id_of(value: Any) -> str | None:
    """The id of a run that is named by a handle or by an id."""
    return value.run.id if is_a(value, Handle) else as_run_id(value)


def _pipeline(configuration: Configuration) -> Pipeline | None:
    if configuration.disabled:
        return None
    delivery: Delivery = configuration.delivery()
    return open_pipeline(delivery, configuration.destination)
