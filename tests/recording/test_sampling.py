"""Sampling at the end of a run, and budgets: what is kept, what is left out, and that both are counted."""

from __future__ import annotations

import os
import random

import pytest

from agent_sdk.recording.sampling import Budget, Sampling
from agent_sdk.testing import recording


@pytest.fixture
def sampled():
    with recording(sample_rate=0, keep_slower=10, keep_costlier=0.5) as recorded:
        yield recorded


def names(recorded):
    return [step.name for step in recorded.steps()]


class TestChance:
    @pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
    def test_it_keeps_about_that_share_and_the_same_in_every_process(self, rate):
        from agent_sdk.recording.ids import new_run_id

        made = [new_run_id() for _ in range(4000)]
        chosen = [Sampling(rate).chooses(run_id) for run_id in made]
        assert abs(sum(chosen) / 4000 - rate) < 0.05
        assert chosen == [Sampling(rate).chooses(run_id) for run_id in made]

    def test_a_run_that_is_chosen_is_delivered_while_it_runs(self):
        with recording(sample_rate=1.0) as recorded, recorded.tracker.track_run("a") as run:
            run.child("s").end()
            assert names(recorded) == ["s"]


class TestLeftOut:
    def test_its_steps_stay_away_and_its_totals_are_exact(self, sampled):
        with sampled.tracker.track_run("a", input_data=1) as run:
            for n in range(5):
                with run.child(f"{n}") as step:
                    step.set_usage(input_tokens=10, cost=0.01)
            run.set_output("answer")
        assert names(sampled) == []
        fields = sampled.run.fields
        assert (sampled.run.status, fields["input"], fields["output"]) == ("completed", 1, "answer")
        assert fields["usage"]["input_tokens"] == 50
        assert fields["usage"]["cost"] == pytest.approx(0.05)
        assert fields["left_out"] == {"steps": 5, "failed": 0}

    def test_what_was_left_out_is_counted_and_is_no_loss(self, sampled):
        with sampled.tracker.track_run("a") as run:
            step = run.child("1")
            step.end()
            run.child("2").end()
        step.set_output("late")
        result = sampled.tracker.flush()
        assert result.dropped == {"sampled out": 3}
        assert result.balanced
        assert not [record for record in sampled.records if record["type"] == "loss"]

    def test_totals_that_the_run_itself_states_are_kept(self, sampled):
        with sampled.tracker.track_run("a") as run:
            run.child("s").set_usage(cost=0.1).end()
            run.set_usage(cost=0.2)
        assert sampled.run.fields["usage"] == {"cost": 0.2}

    def test_the_collector_shows_the_totals(self, tmp_path):
        pytest.importorskip("starlette")
        from agent_sdk import create_tracker
        from tests.support.collector import running_collector

        with running_collector(tmp_path) as collector:
            tracker = create_tracker(collector.key, collector.url, sample_rate=0)
            with tracker.track_run("a") as run:
                run.child("s").set_usage(input_tokens=7, output_tokens=3, cost=0.25).end()
            tracker.close(10)
            (found,) = collector.runs()
            assert (found["total_tokens"], found["cost"], collector.steps(found["run_id"])) == (10, 0.25, [])


class TestKept:
    @pytest.mark.parametrize("status", ["failed", "cancelled", "interrupted"])
    def test_a_run_that_did_not_complete(self, sampled, status):
        run = sampled.tracker.track_run("a")
        run.child("s").end()
        run.end(status)
        assert names(sampled) == ["s"]
        assert sampled.tracker.stats().dropped == {}

    def test_a_run_that_raised(self, sampled):
        with pytest.raises(ValueError, match="no"), sampled.tracker.track_run("a") as run:
            run.child("s").end()
            raise ValueError("no")
        assert names(sampled) == ["s"]

    def test_a_run_that_was_slow(self):
        class Clock:
            now = 0

            def ticks(self):
                return self.now

            def anchor(self):
                return 10**18

        clock = Clock()
        with recording(sample_rate=0, keep_slower=10, clock=clock) as recorded:
            for name, seconds in (("quick", 9), ("slow", 11)):
                with recorded.tracker.track_run(name) as run:
                    run.child(name).end()
                    clock.now += seconds * 10**9
            assert names(recorded) == ["slow"]

    def test_a_run_that_was_costly(self, sampled):
        for name, cost in (("cheap", 0.1), ("dear", 0.3)):
            with sampled.tracker.track_run(name) as run:
                for _ in range(2):
                    run.child(name).set_usage(cost=cost).end()
        assert set(names(sampled)) == {"dear"}

    @pytest.mark.parametrize("by", ["run", "step"])
    def test_a_run_that_was_flagged_and_at_once(self, sampled, by):
        with sampled.tracker.track_run("a") as run:
            step = run.child("before")
            step.end()
            (run if by == "run" else step).keep()
            assert names(sampled) == ["before"]
            run.child("after").end()
        assert names(sampled) == ["before", "after"]

    def test_a_run_that_is_open_when_the_tracker_is_closed(self):
        with recording(sample_rate=0) as recorded:
            recorded.tracker.track_run("open").child("s").end()
            recorded.tracker.close()
            assert names(recorded) == ["s"]


class TestBounds:
    def test_a_run_that_would_hold_too_much_is_kept(self):
        with recording(sample_rate=0, buffer_bytes=400_000) as recorded:
            with recorded.tracker.track_run("a") as run:
                for n in range(200):
                    run.child(f"{n}", input_data="x" * 1000).end()
                assert recorded.tracker._recorder.held_bytes <= 100_000
            assert len(recorded.steps()) == 200
            assert recorded.tracker._recorder.held_bytes == 0

    def test_a_thousand_runs_leave_nothing_behind(self, sampled):
        for _ in range(1000):
            with sampled.tracker.track_run("a") as run:
                run.child("s").end()
        assert sampled.tracker._recorder.held_bytes == 0
        assert sampled.tracker.flush().dropped == {"sampled out": 1000}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_in_a_child_a_held_run_is_the_parents(self, sampled):
        with sampled.tracker.track_run("a") as run:
            run.child("before").end()
            pid = os.fork()
            if pid == 0:
                os._exit(0 if run._held is None and sampled.tracker._recorder.held_bytes == 0 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        assert sampled.run.fields["left_out"]["steps"] == 1

    def test_whatever_happens_everything_is_accounted_for(self):
        dice = random.Random(5)
        with recording(sample_rate=0.5, keep_costlier=1.0) as recorded:
            expected = 0
            for _ in range(200):
                run = recorded.tracker.track_run("a")
                for _ in range(dice.randrange(12)):
                    run.child("s", input_data="x" * dice.randrange(2000)).set_usage(cost=dice.random() / 4).end()
                    expected += 1
                if dice.random() < 0.1:
                    run.keep()
                run.end(dice.choice(["completed", "completed", "failed"]))
            result = recorded.tracker.flush()
            assert result.balanced
            assert len(recorded.steps()) + result.dropped["sampled out"] == expected
            told = sum(run.fields["left_out"]["steps"] for run in recorded.runs if "left_out" in run.fields)
            assert told == result.dropped["sampled out"]


class TestBudgets:
    def test_steps_beyond_the_budget_are_left_out_and_told_and_runs_pass(self):
        with recording(records_per_minute=3) as recorded:
            with recorded.tracker.track_run("a") as run:
                for n in range(10):
                    run.child(f"{n}").end()
            recorded.tracker.flush()
            result = recorded.tracker.flush()
            assert names(recorded) == ["0", "1", "2"]
            assert recorded.run.status == "completed"
            assert result.dropped == {"over budget": 7}
            assert result.balanced
            told = [record for record in recorded.records if record["type"] == "loss"]
            assert sum(record["records"] for record in told) == 7

    def test_bodies_go_before_steps_do(self):
        with recording(bytes_per_minute=10_000) as recorded:
            with recorded.tracker.track_run("a") as run:
                for n in range(5):
                    run.child(f"{n}", input_data="x" * 4000).end()
            found = [step.fields["input"] for step in recorded.steps()]
            assert found[0] == "x" * 4000
            assert found[-1] == {"$shed": 4064}

    def test_each_minute_has_its_own(self):
        class Pipeline:
            taken, refused = 0, 0

            def submit(self, record):
                self.taken += 1

            def leave_out(self, count, reason):
                self.refused += count

        class Record:
            size = 100

        pipeline, now = Pipeline(), [0.0]
        budget = Budget(pipeline, 2, None, lambda: now[0])
        for second in (0, 1, 2, 59, 60, 61, 62):
            now[0] = float(second)
            budget.submit(Record())
        assert (pipeline.taken, pipeline.refused) == (4, 3)
