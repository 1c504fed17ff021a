"""Promise 3: memory, disk, threads and log lines are bounded, by bytes and by count."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from pathlib import Path

import pytest

import agent_sdk
from agent_sdk.testing import recording
from tests.support.collector import wait_for


def resident():
    """Memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read as Linux tells it")
class TestADeadDestination:
    def test_memory_disk_threads_and_log_stay_flat_for_as_many_steps_as_ten_minutes_bring(self, tmp_path, caplog):
        """600,000 steps as fast as they come, which is harder than at 1,000 a second."""
        cap = 8_000_000
        threads = len(sys._current_frames())
        tracker = agent_sdk.create_tracker(
            "key", "http://127.0.0.1:9", home=str(tmp_path), journal_bytes=cap, buffer_bytes=4_000_000
        )
        seen = []
        with tracker.track_run("endless") as run:
            for round_ in range(60):
                for _ in range(2_000):
                    with run.child("step", "tool_call", {"text": "x" * 200}) as step:
                        step.set_output({"text": "y" * 200})
                if round_ % 5 == 4:
                    tracker.flush(0.5)
                    files = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
                    seen.append((resident(), sum(files), len(sys._current_frames())))
        result = tracker.close(0.5)
        memory, disk, running = zip(*seen)
        assert max(memory[len(memory) // 2 :]) - memory[2] < 30_000_000
        assert max(disk) < cap * 1.5
        assert max(running) <= threads + 2
        assert result.balanced
        assert result.recorded > 100_000
        assert len(caplog.records) <= 5, [record.getMessage() for record in caplog.records]


class TestNothingIsLeftBehind:
    def test_runs_and_steps_that_are_over_are_not_kept(self):
        with recording() as recorded:
            seen = []
            for _ in range(2_000):
                with recorded.tracker.track_run("a") as run, run.child("s") as step:
                    seen += [weakref.ref(run), weakref.ref(step)]
            recorded.tracker.flush()
            del run, step
            gc.collect()
            assert sum(reference() is not None for reference in seen) == 0

    def test_runs_that_are_dropped_without_an_end_are_bounded(self):
        with recording() as recorded:
            for _ in range(25_000):
                recorded.tracker.track_run("dropped")
            assert len(recorded.tracker._recorder.open) <= 20_000
            recorded.tracker.flush()

    def test_trackers_and_decorated_functions_are_not_kept(self, tmp_path):
        seen = []
        before = len(sys._current_frames())
        for number in range(2_000):
            tracker = agent_sdk.create_tracker(base_url=f"memory://grows-{number % 3}", home=str(tmp_path))
            function = tracker.track(lambda: 1)
            if number % 10 == 0:
                function()
            seen += [weakref.ref(tracker), weakref.ref(function)]
        del tracker, function
        gc.collect()
        assert sum(reference() is not None for reference in seen) == 0
        wait_for(lambda: len(sys._current_frames()) <= before, "threads are left")

    def test_a_million_steps_in_one_run_would_not_either(self):
        """A tenth of them; what grows with the steps of a run would show."""
        with recording(buffer_bytes=2_000_000) as recorded:
            recorded._destination.deliver = lambda lines, deadline: agent_sdk_delivered()
            with recorded.tracker.track_run("long") as run:
                for _ in range(10):
                    run.child("s").end()
                recorded.tracker.flush()
                gc.collect()
                objects = len(gc.get_objects())
                for _ in range(10):
                    for _ in range(10_000):
                        run.child("s").end()
                    recorded.tracker.flush()
                gc.collect()
                assert len(gc.get_objects()) - objects < 1_000

    def test_the_library_says_little_whatever_it_meets(self, caplog):
        caplog.set_level(logging.WARNING)
        with recording() as recorded:
            for number in range(5_000):
                recorded.tracker.track_step(nonsense=number)
                recorded.tracker.end_run()
        assert len(caplog.records) <= 5


def agent_sdk_delivered():
    from agent_sdk.delivery.destinations.base import DELIVERED, Outcome

    return Outcome(DELIVERED)
