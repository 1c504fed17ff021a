"""Folding: order, repetition and partition of records change nothing."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from agent_sdk.wire.fold import fold

RUN = "0192f0c0-0000-7000-8000-00000000000a"
STREAM = "00000000000000aa"


def record(number, kind="step.end", time=None, **fields):
    base = {"type": kind, "id": f"{STREAM}-{number}", "time": number if time is None else time, "run_id": RUN}
    if kind.startswith("step"):
        base["step_id"] = "0000000000000001"
    return {**base, **fields}


facts = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from("abc"),
        "status": st.sampled_from(["running", "completed", "failed"]),
        "input": st.integers(0, 3),
        "tags": st.lists(st.sampled_from("xyz"), max_size=3),
        "metadata": st.dictionaries(st.sampled_from("pq"), st.integers(0, 3) | st.none(), max_size=2),
        "usage": st.dictionaries(st.sampled_from(["cost", "input_tokens"]), st.integers(0, 3), max_size=2),
        "parent_step_id": st.sampled_from(["0000000000000001", "0000000000000002"]),
    },
)
shapes = st.tuples(
    st.sampled_from(["run.start", "run.update", "run.end", "step.start", "step.update", "step.end"]),
    st.integers(1, 4),
    st.sampled_from(["0000000000000001", "0000000000000002"]),
    facts,
)


@st.composite
def histories(draw):
    made = []
    for number, (kind, time, step_id, known) in enumerate(draw(st.lists(shapes, max_size=12)), 1):
        made.append(record(number, kind, time, **known))
        if kind.startswith("step"):
            made[-1]["step_id"] = step_id
    return made


def seen(runs):
    return {
        run_id: (run.fields, {step_id: step.fields for step_id, step in run.steps.items()})
        for run_id, run in runs.items()
    }


@given(histories(), st.data())
@settings(max_examples=200, deadline=None)
def test_any_order_and_repetition_gives_the_same(records, data):
    expected = seen(fold(copy.deepcopy(records)))
    mixed = data.draw(st.permutations(records))
    repeated = mixed + (data.draw(st.lists(st.sampled_from(mixed), max_size=5)) if mixed else [])
    assert seen(fold(copy.deepcopy(repeated))) == expected


@given(histories())
def test_a_tree_holds_every_step_once(records):
    for run in fold(records).values():
        found, pending = [], run.tree()
        while pending:
            step = pending.pop()
            found.append(step.step_id)
            pending += step.children
        assert sorted(found) == sorted(run.steps)


def test_the_later_value_wins_and_between_equal_times_the_later_id():
    (run,) = fold([record(10, input="ten", time=5), record(9, input="nine", time=5)]).values()
    assert run.steps["0000000000000001"].fields["input"] == "ten"


def test_starts_and_ends_have_times_of_their_own():
    (run,) = fold([record(1, "run.start", 100), record(2, "run.end", 300, status="failed")]).values()
    assert (run.fields["started_at"], run.fields["ended_at"], run.status) == (100, 300, "failed")


def test_a_run_without_an_end_is_running_and_nothing_is_missing():
    (run,) = fold([record(1, "step.end", name="s")]).values()
    assert (run.status, run.agent_name, run.tree()[0].name, run.tree()[0].parent_step_id) == ("running", "", "s", None)


def test_scores_are_kept_and_notes_are_left_out():
    score = record(1, "score", name="quality", value=0.5)
    (run,) = fold([score, record(2, "heartbeat"), record(3, "loss"), score]).values()
    assert run.scores == [score]


def test_a_step_inside_itself_stands_under_the_run():
    own = record(1, parent_step_id="0000000000000001")
    (run,) = fold([own]).values()
    assert [step.step_id for step in run.tree()] == ["0000000000000001"]
