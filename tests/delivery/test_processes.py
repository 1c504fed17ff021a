"""Real processes: fork, exit in every way, pools, and threads that record meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

HEAD = """
import os, sys, signal, threading, time
import agent_sdk
target, home = sys.argv[1:3]
def tracker(**options):
    return agent_sdk.create_tracker(base_url="file://" + target, home=home, **options)
"""


class Ran:
    def __init__(self, process, seconds, target):
        self.code, self.out, self.err, self.seconds = process.returncode, process.stdout, process.stderr, seconds
        lines = target.read_text().splitlines() if target.exists() else []
        self.records = [json.loads(line) for line in lines]

    @property
    def steps(self):
        return sorted(record["name"] for record in self.records if record["type"] == "step.end")


@pytest.fixture
def run(tmp_path):
    def run(body, *options, timeout=60):
        start = time.monotonic()
        target = tmp_path / "records.ndjson"
        # Python 3.12 and later warn of each fork of a process that has threads.
        options = ("-W", "ignore:This process:DeprecationWarning", *options)
        command = [sys.executable, *options, "-c", HEAD + body, str(target), str(tmp_path / "home")]
        process = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        return Ran(process, time.monotonic() - start, target)

    return run


def quiet(ran, code=0):
    assert (ran.code, ran.err) == (code, "")


#: How this Python itself ends a program that is interrupted.
BARE_INTERRUPT = subprocess.run([sys.executable, "-c", "raise KeyboardInterrupt"], capture_output=True).returncode


class TestExit:
    @pytest.mark.parametrize(
        ("ending", "code"),
        [
            ("", 0),
            ("sys.exit(3)", 3),
            ("raise SystemExit('told')", 1),
            ("raise ValueError('crash')", 1),
            ("raise KeyboardInterrupt", BARE_INTERRUPT),
            ("threading.Thread(target=time.sleep, args=(30,), daemon=True).start()", 0),
            ("del t", 0),
            ("t.close()", 0),
            ("import atexit; atexit.register(lambda: t.track_step('late', run_id=r))", 0),
        ],
    )
    def test_everything_is_delivered_however_a_program_ends(self, run, ending, code):
        ran = run(f"t = tracker()\nr = t.start_run('a')\nt.track_step('s')\nt.end_run()\n{ending}\n")
        assert ran.code == code
        assert "s" in ran.steps
        assert ("Traceback" in ran.err) == ("crash" in ending or "Interrupt" in ending)
        assert "agent_sdk" not in ran.err
        if "late" in ending:
            assert "late" in ran.steps

    def test_a_run_that_is_open_at_the_end_is_known_to_the_destination(self, run):
        ran = run("t = tracker()\nt.start_run('open')\nt.track_step('s')\n")
        quiet(ran)
        assert [record["type"] for record in ran.records if record["type"].startswith("run.")] == ["run.start"]

    def test_recording_in_del_at_interpreter_shutdown_is_silent(self, run):
        ran = run(
            "t = tracker()\n"
            "class Late:\n"
            "    def __del__(self):\n"
            "        with t.track_run('late'): t.track_step('very late')\n"
            "late = Late()\nsys.modules['keep'] = late\nt.track_step('s')\n"
        )
        quiet(ran)
        assert "s" in ran.steps

    def test_os_exit_loses_nothing_older_than_a_commit(self, run, tmp_path):
        ran = run("t = tracker()\nt.track_step('s')\nt.flush(); t.track_step('t'); time.sleep(0.3); os._exit(4)\n")
        quiet(ran, 4)
        left = "".join(path.read_text() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
        assert "s" in ran.steps
        assert "t" in ran.steps or '"t"' in left

    @pytest.mark.parametrize("mode", ["", "refuses"])
    def test_a_server_that_is_away_costs_no_more_than_the_exit_timeout(self, run, tmp_path, mode):
        import socket

        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        if not mode:
            listener.listen(5)  # accepts in the kernel and never answers
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        body = f"t = agent_sdk.create_tracker(base_url={url!r}, home=home, exit_timeout=0.5)\n"
        ran = run(body + "t.track_step('s')\nprint('end', flush=True)\n")
        listener.close()
        quiet(ran)
        assert ran.seconds < 25  # without a deadline it would be minutes
        left = "".join(path.read_text() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
        assert '"step.end"' in left

    def test_sigterm_with_the_default_action_leaves_the_journal(self, run, tmp_path):
        ran = run("t = tracker(flush_interval=60)\nt.track_step('s')\ntime.sleep(0.3)\nos.kill(os.getpid(), 15)\n")
        assert ran.code == -signal.SIGTERM
        left = "".join(path.read_text() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
        assert '"step.end"' in left
        assert run("t = tracker()\nt.track_step('next'); t.flush(); t.flush()\n").code == 0


class TestFork:
    def test_parent_and_children_deliver_their_own_each_once(self, run):
        ran = run(
            "t = tracker()\n"
            "t.track_step('before')\n"
            "children = []\n"
            "for n in range(3):\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        t.track_step(f'child {n}'); t.flush(); os._exit(0)\n"
            "    children.append(pid)\n"
            "assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]\n"
            "t.track_step('after')\n"
        )
        quiet(ran)
        assert ran.steps == ["after", "before", "child 0", "child 1", "child 2"]
        ids = [record["id"] for record in ran.records if "id" in record]
        assert len(ids) == len(set(ids))

    def test_a_child_that_exits_normally_delivers_too(self, run):
        ran = run(
            "t = tracker()\nt.track_step('before')\n"
            "if os.fork() == 0:\n    t.track_step('child'); sys.exit(0)\n"
            "os.wait()\n"
        )
        quiet(ran)
        assert ran.steps == ["before", "child"]

    def test_a_run_open_at_the_fork_can_be_continued_in_the_child(self, run):
        ran = run(
            "t = tracker()\n"
            "with t.track_run('a') as r:\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        t.track_step('child'); t.flush(); os._exit(0)\n"
            "    os.waitpid(pid, 0)\n"
        )
        quiet(ran)
        steps = [record for record in ran.records if record["type"] == "step.end"]
        ends = [record for record in ran.records if record["type"] == "run.end"]
        assert len(ends) == 1
        assert steps[0]["run_id"] == ends[0]["run_id"]

    def test_fork_while_other_threads_record(self, run):
        ran = run(
            "t = tracker()\n"
            "stop = threading.Event()\n"
            "def work():\n"
            "    while not stop.is_set(): t.track_step('thread')\n"
            "threads = [threading.Thread(target=work) for _ in range(3)]\n"
            "[thread.start() for thread in threads]\n"
            "codes = []\n"
            "for n in range(20):\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        t.track_step(f'child'); r = t.flush(10); os._exit(0 if r.complete else 1)\n"
            "    codes.append(os.waitpid(pid, 0)[1])\n"
            "stop.set()\n"
            "[thread.join() for thread in threads]\n"
            "r = t.flush(20)\n"
            "print(codes == [0] * 20, r.balanced)\n"
        )
        quiet(ran)
        assert ran.out == "True True\n"
        assert ran.steps.count("child") == 20

    def test_a_child_that_records_nothing_opens_nothing(self, run, tmp_path):
        ran = run(
            "t = tracker()\nt.track_step('s'); t.flush()\n"
            "before = sorted(os.listdir(home + '/journal'))\n"
            "if os.fork() == 0:\n    os._exit(0)\n"
            "os.wait()\n"
            "print(sorted(os.listdir(home + '/journal')) == before)\n"
        )
        quiet(ran)
        assert ran.out == "True\n"


POOL = """
import multiprocessing
def work(n):
    t = tracker()
    t.track_step(f"job {n}")
    return n
if __name__ == "__main__":
    t = tracker()
    t.track_step("main")
    context = multiprocessing.get_context(%r)
    %s
"""


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_a_process_delivers_before_it_ends(self, tmp_path, method):
        program = tmp_path / "program.py"
        body = "p = [context.Process(target=work, args=(n,)) for n in range(3)]\n"
        body += "    [x.start() for x in p]; [x.join() for x in p]\n    print([x.exitcode for x in p])"
        program.write_text(HEAD + POOL % (method, body))
        target = tmp_path / "records.ndjson"
        command = [sys.executable, str(program), str(target), str(tmp_path / "home")]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (process.stdout, process.stderr) == ("[0, 0, 0]\n", "")
        ran = Ran(process, 0, target)
        assert ran.steps == ["job 0", "job 1", "job 2", "main"]

    def test_workers_that_are_replaced_lose_nothing(self, tmp_path):
        program = tmp_path / "program.py"
        body = "pool = context.Pool(2, maxtasksperchild=2)\n    pool.map(work, range(12), chunksize=1)\n"
        body += "    pool.close(); pool.join()"
        program.write_text(HEAD + POOL % ("fork", body))
        target = tmp_path / "records.ndjson"
        command = [sys.executable, str(program), str(target), str(tmp_path / "home")]
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert process.stderr == ""
        assert len(Ran(process, 0, target).steps) == 13


def test_python_optimized_and_isolated_work_too(run):
    for option in ("-O", "-OO", "-X dev"):
        ran = run("t = tracker()\nt.track_step('s')\n", *option.split())
        assert (ran.code, ran.err) == (0, "")


def test_a_fork_never_falls_into_an_import_of_ours(tmp_path):
    """A child that is forked while a thread imports `requests` could import it never again."""
    program = (
        HEAD.replace('"file://" + target', '"http://127.0.0.1:9"') + "for n in range(20):\n"
        "    t = tracker(); t.track_step('starts the sender, which imports')\n"
        "    time.sleep(n / 200)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        import requests, gzip, email.utils, mmap\n"
        "        t.track_step('child'); t.flush(0.1); os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "    if 'requests' in sys.modules: break\n"
    )
    for _ in range(5):
        command = [sys.executable, "-W", "ignore", "-c", program, "-", str(tmp_path / "home")]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
