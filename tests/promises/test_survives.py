"""Promise 8: a finished step survives ``kill -9`` of its process and an outage of its destination."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

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
