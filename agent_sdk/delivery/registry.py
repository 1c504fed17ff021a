"""All pipelines of this process: shared by equal settings, renewed in a forked child, emptied at exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any

from agent_sdk.delivery import log
from agent_sdk.delivery.destinations.base import Destination
from agent_sdk.delivery.log import logger
from agent_sdk.delivery.pipeline import Pipeline
from agent_sdk.delivery.settings import Delivery, home_directory
from agent_sdk.delivery.threads import LOADING

_pipelines: dict[Any, Pipeline] = {}
#: Pipelines without users that are not done yet.
_ending: list[Pipeline] = []
#: Reentrant, because a tracker may be garbage-collected while this thread is in here.
_lock = threading.RLock()
_child_watched = False
_prepared = False


def open_pipeline(delivery: Delivery, destination: Destination | None = None) -> Pipeline:
    """The pipeline for these settings, shared with everybody who asks for the same; give it back with its ``close``.

    Starts no thread and touches no file. Raises ``ValueError`` for a destination that is none. A ``destination``
    object is used in place of the one that ``delivery`` names.
    """
    if not delivery.home:
        delivery = delivery._replace(home=home_directory())
    key = (delivery, id(destination) if destination is not None else None)
    with _lock:
        _prepare_process()
        pipeline = _pipelines.get(key)
        if pipeline is None:
            pipeline = _pipelines[key] = Pipeline(delivery, destination)
            pipeline.on_start = _watch_end_of_child_process
            pipeline.on_release = _release
            pipeline.on_end = _forget
        pipeline.users += 1
        return pipeline


def _release(pipeline: Pipeline) -> None:
    with _lock:
        for key in [key for key, value in _pipelines.items() if value is pipeline]:
            del _pipelines[key]
            _ending.append(pipeline)


def _forget(pipeline: Pipeline) -> None:
    with _lock:
        if pipeline in _ending:
            _ending.remove(pipeline)


def close_all() -> None:
    """The end of the process: deliver or journal everything, all pipelines together within one deadline."""
    pipelines = [*_pipelines.values(), *_ending]
    deadline = time.monotonic() + max((p.delivery.exit_timeout for p in pipelines), default=0.0)
    for pipeline in pipelines:
        pipeline.hurry(deadline)
    for pipeline in pipelines:
        pipeline.end(max(0.0, deadline - time.monotonic()))
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        _be_interrupted_again()


def _be_interrupted_again() -> None:
    """Python remembers that an interrupt ends the program, and forgets it when any source text is executed.

    Modules that are imported for the last delivery do that (each named tuple is made of a text), and the exit code
    would be 1 instead of that of a signal. So the memory is renewed.
    """
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        pass


def _begin_in_child() -> None:
    global _lock, _child_watched
    _lock = threading.RLock()
    _child_watched = False
    LOADING.after_fork_in_child()
    log.forget()
    pipelines = [*_pipelines.values(), *_ending]
    _ending.clear()
    for pipeline in pipelines:
        try:
            pipeline.begin_in_child()
        except Exception as error:  # raised here, it would be printed by the interpreter
            log.say("fork", f"a forked child cannot record: {type(error).__name__}: {error}")


def _prepare_process() -> None:
    """Load now, most likely in the main thread, what the first record needs.

    If a thread loaded it while another forks, the child would find those modules locked for ever.
    """
    global _prepared
    if _prepared:
        return
    _prepared = True
    import hashlib  # noqa: F401
    import mmap  # noqa: F401

    logger()
    if hasattr(os, "register_at_fork"):
        # After `logging` has registered its own, because the last one is called first: it takes the lock that an import
        # of ours may need before it can end.
        os.register_at_fork(before=LOADING.before_fork, after_in_parent=LOADING.after_fork)


def _watch_end_of_child_process() -> None:
    """A child of ``multiprocessing`` ends without ``atexit``; it has a list of its own of what to do last."""
    global _child_watched
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if _child_watched or util is None or process is None or process.parent_process() is None:
        return
    _child_watched = True
    util.Finalize(None, close_all, exitpriority=-100)


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
