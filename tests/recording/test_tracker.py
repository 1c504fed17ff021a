"""Runs and steps through the tracker: what AgentScope's users write, and what is recorded of it."""

from __future__ import annotations

import asyncio
import re

import pytest

import agent_sdk
from agent_sdk.testing import recording

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
def recorded():
    with recording() as recorded:
        yield recorded


@pytest.fixture
def tracker(recorded):
    return recorded.tracker


class TestRuns:
    def test_code_written_for_agentscope_runs_unchanged(self, recorded, tracker):
        run_id = tracker.start_run("agent", input_data={"q": 1}, external_id="mine", meta_data={"team": "a"})
        tracker.track_step("plan", "reasoning", {"in": 1}, {"out": 2}, None, 17, 250, {"k": "v"})
        tracker.track_step("tool", step_type="tool_call", error={"message": "no", "type": "ToolError"}, run_id=run_id)
        tracker.end_run(status="completed", output={"a": 2})
        run = recorded.run
        assert run.fields["input"] == {"q": 1}
        assert run.fields["output"] == {"a": 2}
        assert run.fields["external_id"] == "mine"
        assert run.fields["metadata"] == {"team": "a"}
        plan = recorded.step("plan").fields
        assert plan["usage"] == {"total_tokens": 17}
        assert plan["metadata"] == {"k": "v"}
        assert 250_000 <= plan["ended_at"] - plan["started_at"] < 300_000
        assert recorded.tree() == "agent completed\n  plan completed\n  tool failed"
        assert recorded.step("tool").fields["error"] == {"type": "ToolError", "message": "no"}

    def test_a_run_prints_as_its_id(self, tracker):
        with tracker.track_run("a", input_data={"x": 1}) as run:
            assert UUID.fullmatch(f"{run}")
            assert run.id == run.run_id == str(run)
            assert "'a'" in repr(run)

    def test_run_id_takes_the_handle_or_its_id_in_any_form(self, recorded, tracker):
        with tracker.track_run("a") as run:
            pass
        for name in (run, str(run), str(run).upper(), str(run).replace("-", ""), f"urn:uuid:{run}"):
            tracker.track_step("later", run_id=name)
        assert len(recorded.run.steps) == 5

    def test_a_run_with_an_id_of_ones_own(self, recorded, tracker):
        mine = "0192f0c0-0000-7000-8000-00000000000a"
        with tracker.track_run("a", run_id=mine):
            pass
        assert recorded.run.run_id == mine

    def test_a_run_inside_a_run_is_its_child(self, recorded, tracker):
        with tracker.track_run("outer") as outer, tracker.track_run("inner"):
            pass
        assert recorded.runs[1].fields["parent_run_id"] == outer.id

    def test_attributes_set_late_hold_for_the_whole_run(self, recorded, tracker):
        with tracker.track_run("a", session_id="s1", tags=["x"]) as run:
            run.set_attributes(user_id="u", session_id="s2", external_id="e")
            run.add_tags("y", "x")
            run.set_metadata({"a": 1}).set_metadata(b=2)
        fields = recorded.run.fields
        assert (fields["session_id"], fields["user_id"], fields["external_id"]) == ("s2", "u", "e")
        assert fields["tags"] == ["x", "y"]
        assert fields["metadata"] == {"a": 1, "b": 2}

    def test_what_is_set_after_the_end_is_recorded_too(self, recorded, tracker):
        with tracker.track_run("a") as run:
            step = run.child("s")
            step.end()
        step.set_output("late").set_usage(output_tokens=3).set_model("m").first_token()
        run.set_output("late too").set_error("went wrong").set_attributes(parent_run_id=run)
        assert recorded.step("s").fields["output"] == "late"
        assert recorded.step("s").fields["usage"] == {"output_tokens": 3}
        assert recorded.run.fields["output"] == "late too"
        assert recorded.run.status == "failed"
        assert recorded.run.fields["parent_run_id"] == run.id

    def test_ending_twice_counts_once(self, recorded, tracker):
        with tracker.track_run("a") as run:
            run.end("failed", output=1)
            run.end("completed", output=2)
        assert recorded.run.status == "failed"
        assert recorded.run.fields["output"] == 1
        assert run.ended
        assert run.status == "failed"

    def test_end_run_by_id_from_elsewhere(self, recorded, tracker):
        run = tracker.start_run("a")
        tracker.end_run("failed", error="boom", run_id=str(run))
        assert agent_sdk.current_run() is None
        assert recorded.run.status == "failed"
        assert recorded.run.fields["error"] == {"message": "boom"}

    def test_a_run_that_another_process_began_is_ended_by_its_id(self, recorded, tracker):
        tracker.end_run("completed", output=3, run_id="0192f0c0-0000-7000-8000-00000000000a")
        (end,) = recorded.records
        assert end["output"] == 3
        assert "started_at" not in end
        assert "agent_name" not in end

    @pytest.mark.parametrize(
        ("given", "recorded_as"),
        [("success", "completed"), ("error", "failed"), ("CANCELED", "cancelled"), (7, "completed")],
    )
    def test_foreign_statuses_become_ours(self, given, recorded_as):
        with recording() as recorded:
            recorded.tracker.start_run("a")
            recorded.tracker.end_run(given)
            assert recorded.run.status == recorded_as

    def test_end_run_outside_of_a_run_ends_nothing(self, recorded, tracker):
        tracker.end_run()
        assert recorded.records == []


class TestSteps:
    def test_a_step_records_all_that_was_set_on_it(self, recorded, tracker):
        with tracker.track_run("a"), tracker.track_step_context("s", "llm_call", {"p": 1}, {"m": 1}) as step:
            step.set_output({"r": 2}).set_model("m-1").add_tags("t").set_metadata(n=2)
            step.set_usage(
                input_tokens=5, output_tokens=2, cached_tokens=3, reasoning_tokens=1, cost=0.5, audio_tokens=9
            )
            step.first_token()
        fields = recorded.step("s").fields
        assert fields["input"] == {"p": 1}
        assert fields["output"] == {"r": 2}
        assert fields["metadata"] == {"m": 1, "n": 2}
        assert fields["usage"] == {
            "input_tokens": 5,
            "output_tokens": 2,
            "cached_tokens": 3,
            "reasoning_tokens": 1,
            "cost": 0.5,
            "audio_tokens": 9,
        }
        assert fields["started_at"] <= fields["first_token_at"] <= fields["ended_at"]
        assert (fields["model"], fields["tags"], fields["step_type"]) == ("m-1", ["t"], "llm_call")

    def test_usage_that_is_no_number_is_left_out(self, recorded, tracker):
        with tracker.track_run("a") as run:
            run.child("s").set_usage(input_tokens="many", output_tokens=-1, cost=float("nan"), total_tokens=True).end()
        assert "usage" not in recorded.step("s").fields

    def test_a_step_outside_of_any_run_makes_one(self, recorded, tracker):
        tracker.track_step("alone", "tool_call")
        with pytest.raises(ValueError), tracker.track_step_context("failing"):
            raise ValueError
        assert recorded.tree() == "alone completed\n  alone completed\nfailing failed\n  failing failed"
        assert agent_sdk.current_run() is None

    def test_parents_follow_nesting_and_may_be_given(self, recorded, tracker):
        with tracker.track_run("a") as run, tracker.track_step_context("1") as first:
            with tracker.track_step_context("1.1"):
                tracker.track_step("1.1.1")
            with first.child("1.2"):
                tracker.track_step("1.2.1")
            run.child("2").end()
            with tracker.track_step_context("1.3", parent=first):
                pass
            tracker.track_step("3", parent=run)
        assert [(step.name, [child.name for child in step.children]) for step in recorded.run.tree()] == [
            ("1", ["1.1", "1.2", "1.3"]),
            ("2", []),
            ("3", []),
        ]

    def test_inputs_are_taken_as_they_were(self, recorded, tracker):
        messages = ["first"]
        with tracker.track_run("a"), tracker.track_step_context("s", input_data=messages) as step:
            step.set_output(messages)
            messages.append("later")
        assert recorded.step("s").fields["input"] == ["first"]
        assert recorded.step("s").fields["output"] == ["first"]

    def test_capture_switches_leave_bodies_out(self):
        with recording(capture_input=False, capture_output=False) as recorded:
            with recorded.tracker.track_run("a", input_data=1) as run:
                run.set_output(2).set_input(3)
                with run.child("s", input_data=4) as step:
                    step.set_output(5)
            assert not {"input", "output"} & (set(recorded.run.fields) | set(recorded.step("s").fields))

    def test_a_step_that_stays_open_is_reported_while_it_is(self):
        with recording(flush_interval=0.01, heartbeat_interval=0.02) as recorded:
            with recorded.tracker.track_run("a") as run, run.child("slow", "tool_call", input_data={"n": 1}) as step:
                for _ in range(10_000):
                    if any(record["type"] == "step.start" for record in recorded.records):
                        break
                step.set_output(2)
                assert recorded.step("slow").status == "running"
            assert recorded.step("slow").fields["input"] == {"n": 1}
            assert recorded.step("slow").fields["output"] == 2
            (end,) = [record for record in recorded.records if record["type"] == "step.end"]
            assert "input" not in end, "the input was sent when the step was reported as open"

    def test_changes_of_an_open_run_are_reported_while_it_is_open(self):
        with recording(flush_interval=0.01) as recorded, recorded.tracker.track_run("a") as run:
            run.add_tags("late")
            for _ in range(10_000):
                if recorded.run.fields.get("tags") == ["late"]:
                    break
            assert recorded.run.fields["tags"] == ["late"]
            assert recorded.run.status == "running"

    def test_times_never_go_backwards_when_the_clock_is_set(self):
        class Jumping:
            wall = 5_000_000_000_000
            mono = 0

            def anchor(self):
                return self.wall - self.ticks()

            def ticks(self):
                self.mono += 10_000
                return self.mono

        clock = Jumping()
        with recording(clock=clock) as recorded:
            with recorded.tracker.track_run("a") as run:
                with run.child("1"):
                    clock.wall -= 3_600_000_000_000
                with run.child("2"):
                    pass
            times = [step.fields["started_at"] for step in recorded.run.tree()]
            assert times == sorted(times)
            assert all(step.fields["ended_at"] > step.fields["started_at"] for step in recorded.steps())


class TestErrors:
    def test_an_exception_passes_and_is_recorded(self, recorded, tracker):
        error = ValueError("bad value")
        cause = KeyError("why")
        with pytest.raises(ValueError) as raised, tracker.track_run("a"), tracker.track_step_context("s"):
            raise error from cause
        assert raised.value is error
        assert error.__cause__ is cause
        found = recorded.step("s").fields["error"]
        assert found["type"] == "ValueError"
        assert found["message"] == "bad value"
        assert "test_an_exception_passes_and_is_recorded" in found["stack"]
        assert "KeyError" in found["stack"]
        assert recorded.tree() == "a failed\n  s failed"

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (asyncio.CancelledError(), "cancelled"),
            (KeyboardInterrupt(), "cancelled"),
            (SystemExit(1), "cancelled"),
            (GeneratorExit(), "cancelled"),
            (type("GraphInterrupt", (Exception,), {})("ask a person"), "interrupted"),
            (RuntimeError(), "failed"),
        ],
    )
    def test_each_kind_of_exception_has_its_status(self, recorded, tracker, error, status):
        with pytest.raises(type(error)) as raised, tracker.track_run("a"):
            raise error
        assert raised.value is error
        assert recorded.run.status == status

    def test_a_given_error_makes_a_step_fail(self, recorded, tracker):
        tracker.track_step("s", error=ValueError("x"))
        with tracker.track_step_context("t") as step:
            step.set_error("went wrong")
        assert recorded.step("s").status == recorded.step("t").status == "failed"
        assert recorded.step("t").fields["error"] == {"message": "went wrong"}

    def test_no_frame_and_no_exception_is_kept_alive(self, tracker):
        import gc
        import weakref

        class Big:
            pass

        def failing():
            big = Big()
            watcher = weakref.ref(big)
            try:
                with tracker.track_run("a"), tracker.track_step_context("s"):
                    raise ValueError(big)
            except ValueError:
                return watcher

        gc.disable()
        try:
            assert failing()() is None
        finally:
            gc.enable()


class TestAsync:
    def test_async_with(self, recorded, tracker):
        async def main():
            async with tracker.track_run("a"), tracker.track_step_context("s") as step:
                step.set_output(1)

        asyncio.run(main())
        assert recorded.tree() == "a completed\n  s completed"

    def test_cancelled_tasks_are_recorded_as_cancelled(self, recorded, tracker):
        async def main():
            async def work():
                async with tracker.track_run("a"), tracker.track_step_context("s"):
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert recorded.tree() == "a cancelled\n  s cancelled"


class TestNeverRaises:
    def test_wrong_arguments_are_survived_and_what_is_right_is_recorded(self, recorded, tracker):
        run = tracker.start_run("a", bogus=1, tags=5)
        assert run.id
        tracker.track_step("s", nonsense=True, output_data=7)
        tracker.track_step()
        tracker.track_step_context(name=None, step_type=None, input_data=object(), parent="nobody").end()
        run.set_usage(5)
        run.add_tags(None, {}, 3)
        run.set_metadata(7)
        run.end(status=object())
        tracker.end_run(1, 2, 3, 4, 5, 6, 7)
        assert recorded.step("s").fields["output"] == 7

    def test_a_step_that_took_longer_than_time_itself_began_with_it(self, recorded, tracker):
        tracker.track_step("s", latency_ms=1e15)
        assert recorded.step("s").fields["started_at"] == 0

    def test_disabled_gives_the_same_surface_and_records_nothing(self, monkeypatch):
        with recording(disabled=True) as recorded:
            with recorded.tracker.track_run("a") as run, recorded.tracker.track_step_context("s") as step:
                step.set_output(1).set_model("m").set_usage(cost=1).first_token().add_tags("x")
                assert UUID.fullmatch(str(run))
                run.child("c").end()
            assert recorded.records == []
            assert recorded.tracker.close().recorded == 0

    def test_the_kill_switch_works_while_the_program_runs(self, monkeypatch, recorded, tracker):
        monkeypatch.setenv("AGENT_SDK_DISABLED", "1")
        tracker.track_step("unseen")
        monkeypatch.setenv("AGENT_SDK_DISABLED", "0")
        tracker.track_step("seen")
        assert [step.name for step in recorded.steps()] == ["seen"]

    def test_a_closed_tracker_records_nothing_more(self):
        with recording() as recorded:
            recorded.tracker.track_step("before")
            result = recorded.tracker.close()
            assert result.complete
            assert recorded.tracker.close() == result
            recorded.tracker.track_step("after")
            with recorded.tracker as tracker:
                assert tracker.stats() == result
            assert [step.name for step in recorded.steps()] == ["before"]


class TestFlush:
    def test_flush_accounts_for_every_record(self, tracker):
        with tracker.track_run("a"):
            for number in range(100):
                tracker.track_step(f"s{number}")
        result = tracker.flush()
        assert result.complete
        assert result.balanced
        assert result.recorded - result.delivered == 0
        assert result.delivered >= 102
