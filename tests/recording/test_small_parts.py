"""Ids, guard, recorder: the parts that everything else rests on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid

import pytest

import agent_sdk
from agent_sdk.recording import guard, ids
from agent_sdk.recording.recorder import MAX_OPEN
from agent_sdk.testing import recording


class TestIds:
    def test_run_ids_are_uuids_of_version_7_that_sort_by_time(self):
        made = [uuid.UUID(ids.new_run_id()) for _ in range(100)]
        assert {each.version for each in made} == {7}
        assert {each.variant for each in made} == {uuid.RFC_4122}
        assert len(set(made)) == 100
        assert [each.int >> 80 for each in made] == sorted(each.int >> 80 for each in made)

    def test_step_ids_are_16_digits_and_never_zero(self, monkeypatch):
        with recording() as recorded, recorded.tracker.track_run("a") as run:
            assert re.fullmatch("[0-9a-f]{16}", run.child("s").id)
        monkeypatch.setattr(ids._random, "getrandbits", lambda bits: 0)
        assert ids.new_step_id() == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_makes_ids_of_its_own(self):
        program = (
            "import os, agent_sdk.recording.ids as ids\n"
            "read, write = os.pipe()\n"
            "if os.fork() == 0:\n"
            "    os.write(write, ids.new_run_id()[9:].encode()); os._exit(0)\n"
            "os.wait()\n"
            "print(os.read(read, 99).decode() == ids.new_run_id()[9:])\n"
        )
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"

    @pytest.mark.parametrize("value", [None, "", "run", 5, object(), "x" * 32, "1" * 31, "_" * 32, ["a"]])
    def test_what_is_no_id_is_none(self, value):
        assert ids.as_run_id(value) is None

    def test_an_object_that_raises_is_no_id(self):
        class Hostile:
            def __getattribute__(self, name):
                raise RuntimeError

            def __str__(self):
                raise RuntimeError

        assert ids.as_run_id(Hostile()) is None


class TestGuard:
    def test_an_error_is_counted_said_once_and_answered(self, caplog):
        @guard.guarded(lambda first: f"instead of {first}")
        def failing(first):
            raise RuntimeError("inside")

        guard.failures.pop("failing", None)
        assert [failing("a"), failing("b")] == ["instead of a", "instead of b"]
        assert guard.failures["failing"] == 2
        assert sum("failing could not record something" in record.getMessage() for record in caplog.records) == 1

    def test_a_call_without_arguments_is_answered_too(self):
        @guard.guarded(lambda *_: 7)
        def failing():
            raise RuntimeError

        assert failing() == 7

    def test_unknown_arguments_are_left_out(self):
        @guard.guarded(guard.nothing)
        def known(a, *, b=2):
            return a, b

        assert known(1, 2, 3, b=5, c=6) == (1, 5)

    def test_errors_whose_text_cannot_be_had_are_counted(self):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError

        guard.note("somewhere", Mute())
        assert guard.failures["somewhere"] >= 1

    def test_what_ends_the_program_is_not_caught(self):
        @guard.guarded(guard.nothing)
        def stopped():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stopped()

    def test_the_count_is_bounded(self):
        for n in range(300):
            guard.note(f"place {n}", ValueError())
        assert len(guard.failures) <= guard._MAX_NAMES


class TestOpenThings:
    def test_runs_that_never_end_are_forgotten_and_do_not_keep_each_other(self):
        with recording() as recorded:
            runs = [recorded.tracker.start_run(f"{n}") for n in range(20)]
            chain, node = 0, runs[-1]
            while node is not None:
                chain, node = chain + 1, node._before
            assert chain == 20
            recorded.tracker._recorder.open.clear()
            for n in range(MAX_OPEN + 50):
                runs[0].child(f"{n}")
            assert len(recorded.tracker._recorder.open) == MAX_OPEN

    def test_the_oldest_forgotten_run_is_cut_off(self):
        with recording() as recorded:
            recorder = recorded.tracker._recorder
            recorded.tracker.start_run("first")
            second = recorded.tracker.start_run("second")
            recorder.forget_oldest()
            recorder.forget_oldest()
            assert second._before is None

    def test_a_step_that_is_open_for_long_is_announced_and_ends_without_its_input_again(self):
        with recording(flush_interval=0.01) as recorded, recorded.tracker.track_run("r") as run:
            with run.child("slow", input_data={"a": 1}) as step:
                from tests.support.collector import wait_for

                wait_for(lambda: "slow" in {each.name for each in recorded.steps()}, "it is not announced")
                assert recorded.step("slow").status == "running"
                assert recorded.step("slow").fields["input"] == {"a": 1}
                step.set_output(2)
            ends = [record for record in recorded.records if record["type"] == "step.end"]
            assert "input" not in ends[0]
            assert recorded.step("slow").fields["output"] == 2

    def test_attributes_of_a_running_run_are_reported_while_it_runs(self):
        from tests.support.collector import wait_for

        with recording(flush_interval=0.01) as recorded, recorded.tracker.track_run("r") as run:
            run.set_attributes(user_id="ada", parent_run_id="0192f0c0-0000-7000-8000-00000000000a")
            wait_for(lambda: recorded.run.fields.get("user_id") == "ada", "it is not reported")
            assert recorded.run.fields["parent_run_id"] == "0192f0c0-0000-7000-8000-00000000000a"
            assert recorded.run.status == "running"


def test_handles_are_readable():
    with recording() as recorded, recorded.tracker.track_run("r") as run, run.child("s") as step:
        assert f"{step}" == step.id == step.step_id
        assert repr(step) == f"<Step 's' {step.id} running>"
        assert step.run_id == run.run_id
        assert (step.name, run.agent_name, step.status, step.ended) == ("s", "r", "running", False)


def test_finished_things_can_be_changed_and_the_change_is_recorded():
    with recording() as recorded:
        run = recorded.tracker.track_run("r")
        step = run.child("s")
        step.end()
        run.end()
        step.set_output(1).set_input(2).set_error("late").set_model("m").set_metadata(a=1).add_tags("t").first_token()
        step.set_usage(cost=1)
        run.set_output(3).set_error(ValueError("later")).set_attributes(user_id="u").set_input(4).set_usage(cost=2)
        fields = recorded.step("s").fields
        assert (fields["output"], fields["input"], fields["model"], fields["tags"]) == (1, 2, "m", ["t"])
        assert (fields["status"], fields["error"]) == ("failed", {"message": "late"})
        found = recorded.run
        assert (found.fields["output"], found.fields["input"], found.fields["user_id"]) == (3, 4, "u")
        assert found.status == "failed"


def test_everything_public_is_exported_and_documented():
    for name in agent_sdk.__all__:
        member = getattr(agent_sdk, name)
        assert isinstance(member, str) or member.__doc__, name
