"""Promise 8: a finished step survives ``kill -9`` of its process and an outage of its destination."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

import agent_sdk
from agent_sdk.delivery.adoption import push_orphans
from tests.promises.victims import Victim
from tests.support.collector import RunningCollector, running_collector, wait_for

GROUP_COMMIT_MS = 100.0


@contextmanager
def nobody_answers() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody_there() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def stored_steps(collector: RunningCollector, run_id: str) -> list[str]:
    """The names of all steps of a run, as the collector's read API gives them."""
    return [step["name"] for step in collector.steps(run_id)]


def told_losses(collector: RunningCollector) -> int:
    """How many records the collector was told to be lost with a process."""
    return sum(collector.losses().values())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[RunningCollector]:
    with running_collector(tmp_path / "collector") as running:
        yield running


def environment(home: Path, url: str, collector: RunningCollector, durability: str = "journal") -> dict[str, str]:
    return {
        "AGENT_SDK_HOME": str(home),
        "AGENT_SDK_BASE_URL": url,
        "AGENT_SDK_API_KEY": collector.key,
        "AGENT_SDK_DURABILITY": durability,
    }


def adopt(home: Path, collector: RunningCollector) -> None:
    report = push_orphans(str(home), to=collector.url, api_key=collector.key)
    assert report.remaining == 0, report
    assert report.quarantined == 0, report


class TestKillAfterAThousandSteps:
    """Everything was recorded, the process is killed 150 ms later."""

    @pytest.mark.parametrize("destination", ["up", "down", "hanging"])
    def test_every_step_is_in_the_collector_once(
        self, destination: str, home: Path, collector: RunningCollector
    ) -> None:
        self._record_kill_adopt(destination, home, collector, durability="journal", milliseconds=150)

    @pytest.mark.parametrize("destination", ["up", "down", "hanging"])
    def test_strict_durability_needs_no_time_at_all(
        self, destination: str, home: Path, collector: RunningCollector
    ) -> None:
        self._record_kill_adopt(destination, home, collector, durability="strict", milliseconds=0)

    @staticmethod
    def _record_kill_adopt(
        destination: str, home: Path, collector: RunningCollector, durability: str, milliseconds: float
    ) -> None:
        places = {"down": nobody_there, "hanging": nobody_answers}
        with places.get(destination, lambda: _up(collector))() as url:
            with Victim(home.parent, environment(home, url, collector, durability), steps=1000) as victim:
                victim.wait_until_all_recorded()
                victim.wait_until_older_than(milliseconds)
                victim.kill()
            adopt(home, collector)
        names = stored_steps(collector, victim.run_id)
        assert sorted(names) == sorted(f"step {number}" for number in range(1000))
        assert told_losses(collector) == 0


class TestKillWhileRecording:
    """The process is killed in the middle of its work."""

    @pytest.mark.parametrize("steps_before", [1, 50, 3000])
    @pytest.mark.parametrize("destination", ["up", "down", "hanging"])
    def test_what_is_missing_is_younger_than_a_group_commit_and_counted(
        self, destination: str, steps_before: int, home: Path, collector: RunningCollector
    ) -> None:
        places = {"down": nobody_there, "hanging": nobody_answers}
        with places.get(destination, lambda: _up(collector))() as url:
            settings = environment(home, url, collector)
            with Victim(home.parent, settings, steps=10**9, pause=0.0002) as victim:
                victim.wait_until_recorded(steps_before)
                # Killed within a few milliseconds of its very first record, a process leaves no trace of it.
                wait_for(lambda: list(home.glob("journal/*/manifest.json")), "no journal was begun")
                victim.kill()
            adopt(home, collector)
        names = stored_steps(collector, victim.run_id)
        assert len(names) == len(set(names)), "a step is there twice"
        certain = victim.finished_before_kill(GROUP_COMMIT_MS)
        assert {f"step {number}" for number in range(certain)} <= set(names)
        recorded = len(victim.finished_at())
        # Killed between a step and its entry in the diary, a process has recorded one more than it wrote down.
        assert recorded <= len(names) + told_losses(collector) <= recorded + 1 + _run_start_among_the_lost(names)


@contextmanager
def _up(collector: RunningCollector) -> Iterator[str]:
    yield collector.url


def _run_start_among_the_lost(names: list[str]) -> int:
    """A process killed within its first commit also loses the record that its run began."""
    return 0 if names else 1


class TestDisks:
    """Real faults of a file system: a limit of the kernel, a place that cannot be, a deleted journal."""

    def test_a_full_disk_keeps_records_in_memory_until_there_is_room(self, tmp_path: Path) -> None:
        program = """
import resource, signal, sys
import agent_sdk
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
t = agent_sdk.create_tracker("key", "http://127.0.0.1:9", home=sys.argv[1], durability="strict")
t.track_step("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, resource.RLIM_INFINITY))
for n in range(200): t.track_step(f"full {n}", output_data="x" * 100)
full = t.stats()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
import time; time.sleep(1.1)
for n in range(10): t.track_step(f"after {n}")
after = t.stats()
print(full.balanced, full.pending > 150, after.balanced, after.journaled > full.journaled, after.dropped)
"""
        ran = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout == "True True True True {}\n"

    def test_a_home_that_cannot_be_written_to_costs_the_safety_and_not_the_records(
        self, tmp_path: Path, caplog
    ) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("")
        path = tmp_path / "records.ndjson"
        tracker = agent_sdk.create_tracker(base_url=f"file://{path}", home=str(blocked / "home"))
        tracker.track_step("s")
        assert tracker.close(20).complete
        assert b'"name":"s"' in path.read_bytes()
        assert "the journal cannot be written" in caplog.text

    def test_a_journal_that_is_deleted_while_it_is_written_loses_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "records.ndjson"
        (tmp_path / "blocked").write_text("")
        tracker = agent_sdk.create_tracker(
            base_url=f"file://{tmp_path}/blocked/records.ndjson", home=str(tmp_path / "home"), durability="strict"
        )
        for number in range(50):
            tracker.track_step(f"{number}")
            if number in (10, 30):
                shutil.rmtree(tmp_path / "home" / "journal")
        (tmp_path / "blocked").unlink()
        assert tracker.close(20).complete
        recorded = (tmp_path / "blocked" / "records.ndjson").read_text()
        assert [f'"name":"{number}"' in recorded for number in range(50)] == [True] * 50
        assert not path.exists()


def test_a_journal_of_the_first_format_is_still_delivered(tmp_path: Path) -> None:
    """Written by version 0.1.0 and kept in this repository: whoever changes the format must read it all the same."""
    kept = Path(__file__).parent / "data" / "journal-1"
    folder = tmp_path / "home" / "journal" / "0123456789abcdef"
    shutil.copytree(kept, folder)
    path = tmp_path / "records.ndjson"
    report = push_orphans(str(tmp_path / "home"), to=f"file://{path}")
    assert (report.journals, report.delivered, report.remaining) == (1, 4, 0)
    types = [json.loads(line)["type"] for line in path.read_text().splitlines()]
    assert types == ["run.start", "step.end", "run.end", "heartbeat"]


def test_an_outage_of_half_an_hour_with_restarts_in_between(tmp_path: Path) -> None:
    """Simulated: the clock of the sender jumps; five processes record, none finds the collector, the last one does."""
    path = tmp_path / "collector" / "records.ndjson"
    (tmp_path / "collector").write_text("the collector is away")
    for number in range(5):
        program = (
            "import sys, time, agent_sdk\n"
            "from agent_sdk.delivery import sender\n"
            "jump = [0.0]\n"
            "real = time.monotonic\n"
            "t = agent_sdk.create_tracker(base_url='file://' + sys.argv[1], home=sys.argv[2], exit_timeout=0.2)\n"
            "t._pipeline._sender._now = lambda: real() + jump[0]\n"
            f"for n in range(20): t.track_step(f'{number}-{{n}}'); jump[0] += 18.0\n"
            "t.flush(0.2)\n"
        )
        subprocess.run([sys.executable, "-c", program, str(path), str(tmp_path / "home")], check=True, timeout=60)
    (tmp_path / "collector").unlink()
    tracker = agent_sdk.create_tracker(base_url=f"file://{path}", home=str(tmp_path / "home"), flush_interval=0.05)
    tracker.track_step("back")
    tracker.flush()
    wait_for(lambda: not list_of_orphans(tmp_path), "journals of dead processes are left")
    tracker.close(20)
    names = [json.loads(line).get("name") for line in path.read_text().splitlines()]
    assert sorted(name for name in names if name and "-" in name) == sorted(
        f"{number}-{n}" for number in range(5) for n in range(20)
    )


def list_of_orphans(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "home" / "journal").iterdir())[1:]
