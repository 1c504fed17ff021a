"""Promise 4: every way in which a program can end, with a server that never answers, within the deadline."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the ways are Linux's")

#: What a process may take beyond its own exit timeout: starting Python on a busy machine.
PATIENCE = 25.0
HEAD = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import agent_sdk
t = agent_sdk.create_tracker("key", sys.argv[1], home=sys.argv[2], exit_timeout=0.5, flush_interval=0.01)
def use(name="a"):
    with t.track_run(name): t.track_step("step")
"""

ENDINGS = {
    "the end": ("use()", 0),
    "sys.exit": ("use(); sys.exit(7)", 7),
    "an exception": ("use(); raise ValueError('mine')", 1),
    "SIGTERM": ("use(); time.sleep(0.2); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
    "SIGINT": ("use(); time.sleep(0.2); os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
    "os._exit": ("use(); os._exit(3)", 3),
    "daemon threads that record": (
        "def go():\n    while True: use()\nfor n in range(3): threading.Thread(target=go, daemon=True).start()\n"
        "time.sleep(0.3)",
        0,
    ),
    "a thread that outlives main": ("threading.Thread(target=lambda: (time.sleep(0.3), use())).start()", 0),
    "flush": ("use(); s = time.monotonic(); t.flush(0.3); assert time.monotonic() - s < 10", 0),
    "close": ("use(); s = time.monotonic(); t.close(0.3); assert time.monotonic() - s < 10", 0),
    "many trackers": (
        "for n in range(20):\n"
        "    more = agent_sdk.create_tracker(f'key{n}', sys.argv[1], home=sys.argv[2], exit_timeout=0.5)\n"
        "    more.track_run('a').end()",
        0,
    ),
    "os.fork": ("use(); pid = os.fork(); use()\nif pid: os.waitpid(pid, 0)", 0),
    "multiprocessing, fork": (
        "import multiprocessing as m\nuse(); p = m.get_context('fork').Process(target=use); p.start(); p.join()\n"
        "assert p.exitcode == 0",
        0,
    ),
    "a pool": (
        "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing as m\n"
        "with ProcessPoolExecutor(2, mp_context=m.get_context('fork')) as pool: list(pool.map(use, 'abcd'))",
        0,
    ),
    "uvloop": (
        "import asyncio, uvloop\nasync def main():\n    async with t.track_run('a'): await asyncio.sleep(0.01)\n"
        "loop = uvloop.new_event_loop(); loop.run_until_complete(main()); loop.close()",
        0,
    ),
}


@pytest.fixture
def silent_server():
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def ended(program, *arguments):
    start = time.monotonic()
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - start < PATIENCE
    return ran


@pytest.mark.parametrize("way", ENDINGS)
def test_it_ends_in_time_with_its_own_exit_code_and_nothing_said(way, silent_server, tmp_path):
    if way == "uvloop":
        pytest.importorskip("uvloop")
    ending, code = ENDINGS[way]
    ran = ended(HEAD + ending, silent_server, tmp_path / "home")
    assert ran.returncode == code, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    if way == "an exception":
        assert lines[-1] == "ValueError: mine"
        assert "agent_sdk" not in ran.stderr
    elif way == "SIGINT":
        assert lines[-1] == "KeyboardInterrupt"
    else:
        assert lines == []
    if way != "os._exit":
        kept = b"".join(path.read_bytes() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
        assert b'"run.' in kept


def test_a_program_under_gevent_ends_too(silent_server, tmp_path):
    pytest.importorskip("gevent")
    program = "from gevent import monkey; monkey.patch_all()\n" + HEAD + (
        "import gevent\n"
        "jobs = [gevent.spawn(use, str(n)) for n in range(20)]\n"
        "gevent.joinall(jobs)\n"
        "assert all(job.successful() for job in jobs)\n"
    )  # fmt: skip
    ran = ended(program, silent_server, tmp_path / "home")
    assert (ran.returncode, ran.stderr) == (0, "")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
    assert kept.count(b'"run.end"') == 20


def test_workers_of_gunicorn_record_after_the_fork_and_end_when_told(silent_server, tmp_path):
    pytest.importorskip("gunicorn")
    import requests

    from tests.support.faulty_proxy import free_port, wait_for_port

    (tmp_path / "site.py").write_text(
        HEAD.replace("sys.argv[1]", repr(silent_server)).replace("sys.argv[2]", repr(str(tmp_path / "home")))
        + "use('before the fork')\n"
        "def app(environ, start_response):\n"
        "    use('request')\n"
        "    start_response('200 OK', [])\n"
        "    return [str(os.getpid()).encode()]\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}", "site_:app"]
    (tmp_path / "site.py").rename(tmp_path / "site_.py")
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_port(port)
        workers = {requests.get(f"http://127.0.0.1:{port}/", timeout=20).text for _ in range(40)}
        assert workers  # which of the two answers is up to the kernel
        start = time.monotonic()
        server.terminate()
        said, _ = server.communicate(timeout=60)
        assert time.monotonic() - start < PATIENCE
        assert "Traceback" not in said, said
        kept = b"".join(path.read_bytes() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
        assert kept.count(b'"agent_name":"request"') == 80  # each run says its name at its start and at its end
    finally:
        if server.poll() is None:
            os.kill(server.pid, signal.SIGKILL)
            server.communicate()
