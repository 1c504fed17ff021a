"""Every command as a person runs it: real processes, real exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_sdk import create_tracker
from tests.support.collector import collector_process, wait_for

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("serve", "demo", "push", "show", "tail", "doctor")


def run(home, *arguments, timeout=60):
    environment = {**os.environ, "AGENT_SDK_HOME": str(home), "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "agent_sdk", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


def recorded(tmp_path, url, **options):
    tracker = create_tracker(base_url=url, home=str(tmp_path), **options)
    with tracker.track_run("agent", input_data={"q": 1}) as made, made.child("think", "reasoning") as step:
        step.set_output("so").child("look up", "tool_call").end(error="not there")
    tracker.close(0.5)
    return str(made)


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself_with_an_example(self, tmp_path, command):
        told = run(tmp_path, command, "--help")
        assert told.returncode == 0
        assert f"agent-sdk {command}" in told.stdout.partition("Example")[2]

    def test_the_group_lists_all_commands(self, tmp_path):
        told = run(tmp_path, "--help").stdout
        assert all(command in told for command in COMMANDS)
        assert re.search(r"\d+\.\d+\.\d+", run(tmp_path, "--version").stdout)

    def test_an_unknown_command_is_refused(self, tmp_path):
        told = run(tmp_path, "sreve")
        assert told.returncode == 2
        assert "No such command" in told.stderr


class TestServe:
    def test_it_serves_tells_where_and_ends_when_told(self, tmp_path):
        with collector_process(tmp_path) as collector:
            assert collector.get("/health")["status"] == "healthy"
            collector.process.send_signal(signal.SIGTERM)
            out, _ = collector.process.communicate(timeout=20)
            assert collector.process.returncode in (0, -signal.SIGTERM)  # uvicorn passes the signal on at its end
            assert "Traceback" not in out

    def test_a_port_that_is_taken_is_explained(self, tmp_path):
        with collector_process(tmp_path) as collector:
            told = run(tmp_path / "other", "serve", "--port", collector.url.rpartition(":")[2])
            assert told.returncode == 1
            assert "a collector is running there already" in told.stderr
        import socket

        with socket.create_server(("127.0.0.1", 0)) as listener:
            told = run(tmp_path, "serve", "--port", listener.getsockname()[1], timeout=20)
            assert told.returncode == 1
            assert "choose another with --port" in told.stderr

    def test_it_listens_on_this_machine_only(self, tmp_path):
        told = run(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0")
        assert told.returncode == 1
        assert "this machine only" in told.stderr

    def test_it_takes_over_what_was_recorded_while_it_was_away(self, tmp_path):
        made = recorded(tmp_path, "http://127.0.0.1:9")
        with collector_process(tmp_path) as collector:
            wait_for(lambda: collector.runs(), "the run does not arrive")
            assert [found["run_id"] for found in collector.runs()] == [made]


class TestDemo:
    def test_once_it_records_shows_the_tree_and_ends(self, tmp_path):
        told = run(tmp_path, "demo", "--once", "--fast", "--port", "0")
        assert told.returncode == 0, told.stderr
        assert "island researcher" in told.stdout
        assert "write answer" in told.stdout
        assert re.search(r"http://127\.0\.0\.1:\d+/runs/[0-9a-f-]{36}", told.stdout)


class TestShow:
    def test_a_run_is_a_tree(self, tmp_path):
        with collector_process(tmp_path) as collector:
            made = recorded(tmp_path, collector.url)
            wait_for(lambda: collector.runs(), "the run does not arrive")
            for name in ("latest", made):
                told = run(tmp_path, "show", name, "--url", collector.url)
                assert told.returncode == 0, told.stderr
                lines = told.stdout.splitlines()
                positions = [next(n for n, line in enumerate(lines) if word in line) for word in ("think", "look up")]
                assert positions == sorted(positions)
                assert "not there" in told.stdout
            found = json.loads(run(tmp_path, "show", "--url", collector.url, "--json").stdout)
            assert found["run_id"] == made
            assert found["tree"][0]["children"][0]["name"] == "look up"
            told = run(tmp_path, "show", "0192f0c0-0000-7000-8000-000000000000", "--url", collector.url)
            assert told.returncode == 1

    def test_a_file_of_records_will_do(self, tmp_path):
        path = tmp_path / "records.ndjson"
        recorded(tmp_path, f"file://{path}")
        told = run(tmp_path, "show", "--file", path)
        assert (told.returncode, told.stderr) == (0, "")
        assert "look up" in told.stdout

    def test_without_a_collector_it_says_what_to_do(self, tmp_path):
        told = run(tmp_path, "show", "--url", "http://127.0.0.1:9")
        assert told.returncode == 1
        assert "agent-sdk serve" in told.stderr

    def test_without_a_run_it_says_what_to_do(self, tmp_path):
        with collector_process(tmp_path) as collector:
            told = run(tmp_path, "show", "--url", collector.url)
            assert told.returncode == 1
            assert "agent-sdk demo" in told.stderr


class TestTail:
    def test_runs_are_told_as_they_begin_and_end(self, tmp_path):
        with collector_process(tmp_path) as collector:
            environment = {**os.environ, "AGENT_SDK_HOME": str(tmp_path)}
            command = [sys.executable, "-m", "agent_sdk", "tail", "--url", collector.url, "--json", "--count", "1"]
            tail = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            runs = []
            while tail.poll() is None and len(runs) < 200:  # one that ends before tail listens is not seen
                runs.append(recorded(tmp_path, collector.url))
            out, err = tail.communicate(timeout=30)
            assert (tail.returncode, err) == (0, "")
            told = [json.loads(line) for line in out.splitlines()]
            assert told[-1]["run_id"] in runs

    def test_without_a_collector_it_says_what_to_do(self, tmp_path):
        told = run(tmp_path, "tail", "--url", "http://127.0.0.1:9")
        assert told.returncode == 1
        assert "agent-sdk serve" in told.stderr


class TestPush:
    def test_nothing_left_is_said(self, tmp_path):
        told = run(tmp_path, "push")
        assert (told.returncode, told.stdout) == (0, "Nothing was left behind on this machine.\n")

    def test_what_was_left_is_delivered(self, tmp_path):
        path = tmp_path / "target.ndjson"
        recorded(tmp_path, "http://127.0.0.1:9")
        told = run(tmp_path, "push", "--to", f"file://{path}")
        assert told.returncode == 0
        assert "records of 1 journals delivered" in told.stdout
        assert b'"look up"' in path.read_bytes()

    def test_what_cannot_be_delivered_is_kept_and_explained(self, tmp_path):
        recorded(tmp_path, "http://127.0.0.1:9")
        told = run(tmp_path, "push", "--timeout", "3")
        assert told.returncode == 1
        assert "remain on the disk" in told.stdout
        assert "agent-sdk serve" in told.stdout
        report = json.loads(run(tmp_path, "push", "--timeout", "3", "--json").stdout)
        assert report["remaining"] > 0


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_every_example_runs_without_a_server(example, tmp_path):
    if example.stem == "__init__":
        return
    environment = {**os.environ, "AGENT_SDK_HOME": str(tmp_path)}
    command = [sys.executable, "-m", f"agent_sdk.examples.{example.stem}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
