"""Promise 1: no tracking call raises into the program, and the program's own exceptions pass untouched."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys

import pytest

import agent_sdk
from agent_sdk.testing import recording
from tests.promises.hostile import VALUES

STATES = ("recording", "disabled", "closed", "memory full", "no key")


def tracker_in(state):
    settings = {"disabled": {"disabled": True}, "memory full": {"buffer_records": 1}, "no key": {"api_key": " "}}
    return recording(**settings.get(state, {}))


def everything(tracker, value):
    """Every public entry point, with ``value`` in every place where a user could put it."""
    run = tracker.start_run(value, value, value, value, session_id=value, user_id=value, tags=value, metadata=value)
    tracker.track_step(value, value, value, value, value, value, value, value, value, parent=value, model=value)
    tracker.track_step("s", usage=value, tags=value, metadata=value, status=value)
    tracker.track_step_context(value, value, value, value, value, parent=value).end(value, value, value)
    with tracker.track_run(value, parent_run_id=value, run_id=value) as inner:
        inner.set_input(value).set_output(value).set_error(value, value).set_metadata(value, key=value)
        inner.set_attributes(session_id=value, user_id=value, external_id=value, parent_run_id=value)
        inner.set_usage(input_tokens=value, output_tokens=value, cost=value, anything=value).add_tags(value, value)
        with inner.child(value, value, value, value) as step:
            step.set_model(value).set_usage(total_tokens=value).first_token().keep()
            step.child(value).end(error=value)
        inner.end(value, value, value)
        inner.end(value, value, value)
    assert tracker.track(lambda argument, **more: [argument])(value, more=value)[0] is value
    named = tracker.track(name=value, step_type=value, ignore=("argument",))
    assert named(lambda argument: [argument])(value)[0] is value
    assert agent_sdk.bind(lambda: value)() is value
    for handle in (run, inner, step):
        assert [type(text) for text in (repr(handle), str(handle), handle.status)] == [str] * 3
    tracker.end_run(value, value, value, value)
    tracker.end_run()


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("state", STATES)
def test_no_value_in_any_place_raises(state, name):
    value = VALUES[name]()
    with tracker_in(state) as recorded:
        if state == "closed":
            recorded.tracker.close()
        everything(recorded.tracker, value)
        result = recorded.tracker.flush()
        assert result.balanced
        if state == "recording":
            assert len(recorded.steps()) >= 6
            assert result.dropped == {}


def test_one_odd_field_costs_that_field_only():
    with recording() as recorded:
        with recorded.tracker.track_run("a", input_data=VALUES["raising"](), session_id="s-1") as run:
            run.child("s", input_data={"good": 1, "odd": VALUES["raising"]()}).set_output("o").end()
        assert recorded.run.fields["session_id"] == "s-1"
        fields = recorded.step("s").fields
        assert (fields["input"]["good"], fields["output"]) == (1, "o")


def test_wrong_calls_are_survived_and_counted():
    from agent_sdk.recording.guard import failures

    failures.clear()
    with recording() as recorded:
        for arguments, named in itertools.product([(), (1,) * 12], [{}, {"no_such_argument": 1}]):
            recorded.tracker.start_run(*arguments, **named)
            recorded.tracker.end_run(*arguments, **named)
            recorded.tracker.track_step(*arguments[:8], **named)
            with recorded.tracker.track_run("a") as run:
                run.set_output(*arguments, **named)
                run.set_usage(*arguments)
                run.set_error(*arguments, **named)
    assert failures["start_run"] == 3
    assert failures["track_step"] >= 2


class TestExceptionsPass:
    @pytest.mark.parametrize(
        "kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError, StopIteration]
    )
    @pytest.mark.parametrize("state", ["recording", "disabled"])
    def test_with_identity_traceback_cause_and_context(self, kind, state):
        error, cause, context = kind("why"), KeyError("cause"), OSError("context")
        with tracker_in(state) as recorded:
            with pytest.raises(kind) as caught:  # noqa: SIM117
                with recorded.tracker.track_run("a"), recorded.tracker.track_step_context("s"):
                    try:
                        raise context
                    except OSError:
                        raise error from cause
            assert caught.value is error
            assert (error.__cause__, error.__context__) == (cause, context)
            names = [frame.name for frame in caught.traceback]
            assert not any("agent_sdk" in str(frame.path) for frame in caught.traceback)
            assert names[-1] == "test_with_identity_traceback_cause_and_context"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
    def test_groups_are_split_as_ever(self):
        group = ExceptionGroup("both", [ValueError("a"), KeyError("b")])  # noqa: F821
        with recording() as recorded:
            caught = None
            try:
                with recorded.tracker.track_run("a"):
                    raise group
            except ExceptionGroup as error:  # noqa: F821
                caught = error
            assert caught is group
            assert recorded.run.fields["error"]["type"] == "ExceptionGroup"

    def test_an_exception_is_not_kept_alive(self):
        import weakref

        class Held(Exception):
            pass

        with recording() as recorded:
            try:
                with recorded.tracker.track_run("a"):
                    raise Held
            except Held as error:
                seen = weakref.ref(error)
            gc.collect()
            assert seen() is None


PROGRAMS = {
    "in a finalizer": """
class Late:
    def __del__(self): use("finalizer")
Late(); late = Late(); late.me = late; del late
import gc; gc.collect(); keep = Late()
""",
    "in a signal handler": """
import signal
inside = []
def handle(*_):
    if not inside:  # it may be called again while it runs
        inside.append(1); use("handler"); inside.clear()
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for n in range(2000): use("main")
signal.setitimer(signal.ITIMER_REAL, 0)
""",
    "in an exit hook": """
import atexit
atexit.register(use, "exit")
use("main")
""",
    "with little stack": """
import inspect
use("before")
def down(n): return use("deep") if n == 0 else down(n - 1)
sys.setrecursionlimit(len(inspect.stack()) + 60)
for depth in range(70):
    try: down(depth)
    except RecursionError: break
sys.setrecursionlimit(1000)
use("after")
""",
    "without memory": """
import resource
use("before")
t.flush()
with open("/proc/self/statm") as file: used = int(file.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 3_000_000, -1))
hoard = []
for size in (1 << 20, 1 << 16, 1 << 12):
    try:
        while True: hoard.append(bytearray(size))
    except MemoryError: pass
value = "x" * 100
for n in range(50): t.track_step("tight", input_data={"a": {value}})
del hoard
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
use("after")
""",
    "after fork": """
pid = os.fork()
use("both")
if pid == 0: os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""",
    "after close": "use('open'); t.close(); use('closed'); t.close()",
    "while modules are torn down": """
import builtins
builtins.keep = type("Late", (), {"__del__": lambda self: use("late")})()
""",
}
HEAD = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import agent_sdk
t = agent_sdk.create_tracker(base_url="file://" + sys.argv[1], home=sys.argv[2])
def use(name):
    with t.track_run(name, input_data={1, 2}) as run:
        with t.track_step_context(name) as step: step.set_output(object()).set_usage(cost=1)
        t.track_step(name, error=ValueError(name))
        t.track(lambda a: a)(name)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the faults are made with Linux's means")
@pytest.mark.parametrize("place", PROGRAMS)
def test_in_awkward_places_and_times(place, tmp_path):
    target = tmp_path / "records.ndjson"
    command = [sys.executable, "-X", "dev", "-c", HEAD + PROGRAMS[place], str(target), str(tmp_path / "home")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    if place not in ("while modules are torn down",):
        assert target.exists() or any((tmp_path / "home").glob("journal/*/*.ndjson"))


def test_unconfigured_and_disabled_by_the_environment(tmp_path):
    environment = {**os.environ, "AGENT_SDK_HOME": str(tmp_path / "home"), "AGENT_SDK_DISABLED": "1"}
    program = "import agent_sdk\n@agent_sdk.track\ndef f(a): return a\nassert f(3) == 3\nagent_sdk.flush()"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not (tmp_path / "home").exists()
