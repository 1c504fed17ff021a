"""Promise 7: whatever else watches the program works as if we were not there, in any order of imports."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

#: Prints everything global that a library could be tempted to change.
LOOK = """
import atexit, gc, logging, signal, sys, threading, warnings
def look():
    root = logging.getLogger()
    return {
        "root": (root.level, [type(h).__name__ for h in root.handlers], root.disabled, len(root.filters)),
        "last resort": logging.lastResort is not None and logging.raiseExceptions,
        "signals": [repr(signal.getsignal(n)) for n in sorted(signal.valid_signals()) if n not in (9, 19)],
        "hooks": (sys.excepthook is EXCEPT, threading.excepthook is THREAD, sys.unraisablehook is UNRAISABLE),
        "warnings": list(map(str, warnings.filters)),
        "streams": (sys.stdout is STDOUT, sys.stderr is STDERR),
        "profile": (sys.getprofile(), sys.gettrace(), threading.settrace is SETTRACE),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold(), gc.isenabled()),
        "import": (len(sys.meta_path), len(sys.path_hooks)),
        "methods": (threading.Thread.start is START, sys.displayhook is DISPLAY),
    }
EXCEPT, THREAD, UNRAISABLE = sys.excepthook, threading.excepthook, sys.unraisablehook
STDOUT, STDERR, SETTRACE = sys.stdout, sys.stderr, threading.settrace
START, DISPLAY = threading.Thread.start, sys.displayhook
"""
USE = """
t = agent_sdk.create_tracker(base_url="memory://x", home=sys.argv[1])
@t.track
def use():
    with t.track_step_context("s"): pass
try:
    with t.track_run("a"):
        use()
        raise ValueError
except ValueError: pass
t.flush(); t.close()
agent_sdk.create_tracker("bad key", "nowhere", home=sys.argv[1]).track_run("a").end()
"""


def run(program, tmp_path):
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran


def test_importing_and_using_it_changes_nothing_of_the_interpreter(tmp_path):
    program = LOOK + "import json, wrapt, requests\nbefore = look()\nimport agent_sdk\n" + USE
    ran = run(
        program + "after = look()\nfor k in before: assert before[k] == after[k], (k, before[k], after[k])", tmp_path
    )
    assert ran.stderr == ""


NEIGHBOURS = {
    "opentelemetry": """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider(); provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
def neighbour():
    with trace.get_tracer("n").start_as_current_span("outer"):
        with trace.get_tracer("n").start_as_current_span("inner"): work()
    assert trace.get_tracer_provider() is provider
    spans = [(s.name, s.parent is not None, len(s.attributes)) for s in exporter.get_finished_spans()]
    print(sorted(spans))
""",
    "sentry": """
import sentry_sdk
sent = []
sentry_sdk.init(dsn="http://k@127.0.0.1:9/1", transport=sent.append, traces_sample_rate=0)
def neighbour():
    try:
        work(); raise KeyError("mine")
    except KeyError: sentry_sdk.capture_exception()
    sentry_sdk.flush()
    print([value["type"] for event in sent for value in event["exception"]["values"]])
""",
    "structlog": """
import structlog, logging
structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
logging.basicConfig(format="%(name)s %(message)s", stream=sys.stdout, level=logging.INFO)
def neighbour():
    structlog.get_logger().info("hello", a=1)
    work()
    logging.getLogger("mine").info("plain")
""",
}
WORK = """
def work():
    if OURS:
        with t.track_run("a"):
            with t.track_step_context("s"): pass
"""


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("order", ["first", "last"])
def test_what_a_neighbour_sees_is_the_same_with_us_and_without(neighbour, order, tmp_path):
    pytest.importorskip({"sentry": "sentry_sdk"}.get(neighbour, neighbour))
    ours = "import agent_sdk\nt = agent_sdk.create_tracker(base_url='memory://x', home=sys.argv[1])\n"
    parts = [ours, NEIGHBOURS[neighbour]] if order == "first" else [NEIGHBOURS[neighbour], ours]
    with_us = run("import sys\nOURS = True\n" + "".join(parts) + WORK + "neighbour()", tmp_path)
    without = run("import sys\nOURS = False\n" + NEIGHBOURS[neighbour] + WORK + "neighbour()", tmp_path)
    assert with_us.stdout == without.stdout != ""
    assert with_us.stderr == without.stderr


@pytest.mark.parametrize("order", list(itertools.permutations(NEIGHBOURS)), ids="-".join)
def test_all_of_them_together_in_any_order(order, tmp_path):
    for module in ("opentelemetry", "sentry_sdk", "structlog"):
        pytest.importorskip(module)
    parts = []
    for number, name in enumerate(order):
        parts.append(NEIGHBOURS[name].replace("def neighbour", f"def neighbour{number}"))
    ours = "import agent_sdk\nt = agent_sdk.create_tracker(base_url='memory://x', home=sys.argv[1])\n"
    program = "import sys\nOURS = True\n" + parts[0] + ours + "".join(parts[1:]) + WORK
    ran = run(program + "".join(f"neighbour{number}()\n" for number in range(3)), tmp_path)
    assert "[('inner', True, 0), ('outer', False, 0)]" in ran.stdout
    assert "['KeyError']" in ran.stdout
    assert "mine plain" in ran.stdout
