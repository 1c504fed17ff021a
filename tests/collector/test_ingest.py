"""Ingest says of each record what became of it, and neither order nor repetition nor batching changes what is kept."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from agent_sdk.collector import Store, ensure_project, rows, schema
from agent_sdk.collector.bodies import BodyWriter
from agent_sdk.wire.fold import fold
from agent_sdk.wire.records import STATUSES
from tests.collector.making import LONG_AGO, Shelf, Stream, ndjson, run_id, step_id

# -- records of one run, in any shape that the format allows ---------------------------------------------------------

TIMES = st.integers(0, 12)
WORDS = st.sampled_from(["", "a", "ü", "\x00", '"quoted"', "x" * 300])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
ERRORS = st.fixed_dictionaries({}, optional={"type": WORDS, "message": WORDS, "stack": WORDS | st.none()})
USAGE = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "total_tokens", "mine"]),
    st.integers(0, 9) | st.none(),
    max_size=3,
)
ANY_FACT: dict[str, Any] = {
    "error": ERRORS,
    "input": VALUES,
    "output": VALUES,
    "tags": st.lists(WORDS, max_size=3) | st.none(),
    "metadata": st.dictionaries(WORDS, VALUES, max_size=3) | st.none(),
    # Fields that no version of the format knows yet, with names that a reader might use for itself.
    "unheard_of": VALUES,
    "more": VALUES,
    "revision": VALUES,
    "source": st.dictionaries(WORDS, VALUES, max_size=2),
    "": VALUES,
    "-": VALUES,
}
STATUS = st.sampled_from(sorted(STATUSES))
RUN_FACTS = {**ANY_FACT, "session_id": WORDS | st.none(), "parent_run_id": st.just(run_id(9)) | st.none()}
STEP_FACTS = {
    **ANY_FACT,
    "usage": USAGE | st.none(),
    "model": WORDS | st.none(),
    "first_token_at": TIMES | st.none(),
    "parent_step_id": st.sampled_from([step_id(1), step_id(2)]) | st.none(),
}


def _about_run() -> st.SearchStrategy[dict[str, Any]]:
    named, times = {"agent_name": WORDS}, {"started_at": TIMES}
    status = {"status": STATUS}
    start = st.fixed_dictionaries({"type": st.just("run.start"), **named}, optional=RUN_FACTS)
    update = st.fixed_dictionaries({"type": st.just("run.update")}, optional={**RUN_FACTS, **named, **times, **status})
    end = st.fixed_dictionaries({"type": st.just("run.end"), **status}, optional={**RUN_FACTS, **named, **times})
    return start | update | end


def _about_step() -> st.SearchStrategy[dict[str, Any]]:
    which = {"step_id": st.sampled_from([step_id(1), step_id(2)])}
    called = {"name": WORDS, "step_type": st.sampled_from(["llm_call", "mine"])}
    over = {"status": STATUS, "started_at": TIMES}
    start = st.fixed_dictionaries({"type": st.just("step.start"), **which, **called}, optional=STEP_FACTS)
    update = st.fixed_dictionaries({"type": st.just("step.update"), **which}, optional={**STEP_FACTS, **called, **over})
    end = st.fixed_dictionaries({"type": st.just("step.end"), **which, **called, **over}, optional=STEP_FACTS)
    return start | update | end


SCORES = st.fixed_dictionaries(
    {"type": st.just("score"), "name": WORDS, "value": st.integers(0, 3) | WORDS | st.booleans()},
    optional={"step_id": st.just(step_id(1)), "comment": WORDS | st.none()},
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Records of one run, and batches in which they arrive: in any order, some of them more than once."""
    facts = draw(st.lists(st.tuples(_about_run() | _about_step() | SCORES, TIMES), min_size=1, max_size=7))
    records = [{"id": number, "time": at, **fact} for number, (fact, at) in enumerate(facts, 1)]
    repeated = draw(st.lists(st.sampled_from(records), max_size=4))
    arriving = draw(st.permutations([*records, *repeated]))
    cuts = draw(st.lists(st.booleans(), min_size=len(arriving), max_size=len(arriving)))
    batches: list[list[dict[str, Any]]] = [[]]
    for record, cut in zip(arriving, cuts):
        if cut:
            batches.append([])
        batches[-1].append(record)
    return records, batches


@pytest.fixture(scope="module")
def wide_shelf(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("wide") / "collector.db")
    yield Shelf(store)
    store.close()


NUMBERS = itertools.count(1)


def _named(records: list[dict[str, Any]], run: str, stream: str) -> list[dict[str, Any]]:
    return [{**record, "id": f"{stream}-{record['id']}", "run_id": run} for record in records]


def _without_place(told: dict[str, Any]) -> dict[str, Any]:
    """An answer of the read API without what says when it was stored and not what."""
    return {name: value for name, value in told.items() if name not in ("revision", "run_id")}


def _everything(shelf: Shelf, run: str) -> dict[str, Any]:
    told = shelf.queries.run(run)
    assert told is not None
    steps = [shelf.queries.step(run, step["step_id"]) for step in shelf.queries.list_steps(run)["steps"]]
    scores = sorted(json.dumps(score, sort_keys=True) for score in told.pop("scores"))
    return {"run": _without_place(told), "steps": [_without_place(step) for step in steps if step], "scores": scores}


def _stored_facts(shelf: Shelf, run: str) -> dict[str, dict[str, Any]]:
    """What the tables hold, in the words of the fold: the run under the empty name and each step under its id."""
    with shelf.store.read() as connection:
        row = connection.execute(select(schema.runs).where(schema.runs.c.run_id == run)).mappings().one()
        found = connection.execute(select(schema.steps).where(schema.steps.c.run_key == row["key"])).mappings()
        held = {"": row, **{step["step_id"]: step for step in found}}
        return {name: rows.folded_row(row, BodyWriter(connection)).fields for name, row in held.items()}


class TestOrderAndRepetition:
    @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(delivery=deliveries())
    def test_any_order_repetition_and_batching_store_what_the_fold_says(self, wide_shelf, delivery):
        records, batches = delivery
        number = next(NUMBERS)
        run, stream = run_id(number), f"{number:016x}"
        answers = [wide_shelf.send(*_named(batch, run, stream)) for batch in batches]
        assert [answer.rejected for answer in answers] == [[]] * len(batches)
        assert sum(answer.accepted for answer in answers) == len(records)
        assert sum(answer.duplicates for answer in answers) == sum(map(len, batches)) - len(records)

        folded = fold(_named(records, run, stream))[run]
        stored = _stored_facts(wide_shelf, run)
        assert stored.pop("") == folded.fields
        assert stored == {step.step_id: step.fields for step in folded.steps.values()}
        expected = sorted((score["name"], json.dumps(score["value"])) for score in folded.scores)
        told = wide_shelf.queries.run(run)["scores"]
        assert sorted((score["name"], json.dumps(score["value"])) for score in told) == expected

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(delivery=deliveries())
    def test_the_read_api_tells_the_same_however_records_arrived(self, wide_shelf, delivery):
        records, batches = delivery
        at_once, in_parts = (run_id(next(NUMBERS)) for _ in range(2))
        wide_shelf.send(*_named(records, at_once, at_once[-16:].replace("-", "a")))
        for batch in batches:
            wide_shelf.send(*_named(batch, in_parts, in_parts[-16:].replace("-", "a")))
        assert _everything(wide_shelf, in_parts) == _everything(wide_shelf, at_once)

    def test_a_batch_that_is_sent_again_changes_nothing(self, shelf, stream):
        records = [
            stream.start(1, input={"q": 1}),
            stream.step(1, 1, usage={"total_tokens": 5}),
            stream.record("score", LONG_AGO, run_id=run_id(1), name="good", value=True),
            stream.record("loss", LONG_AGO, reason="memory", records=3),
            stream.end(1),
        ]
        assert shelf.send(*records)[:2] == (5, 0)
        before = shelf.queries.run(run_id(1)), shelf.queries.losses()
        assert shelf.send(*records)[:2] == (0, 5)
        after = shelf.queries.run(run_id(1)), shelf.queries.losses()
        assert after == before

    def test_the_same_record_twice_in_one_batch_is_taken_once(self, shelf, stream):
        score = stream.record("score", LONG_AGO, run_id=run_id(1), name="good", value=1)
        assert shelf.send(score, score, score)[:2] == (1, 2)
        assert len(shelf.queries.run(run_id(1))["scores"]) == 1

    @pytest.mark.parametrize("number", ["1", "9223372036854775807", "9223372036854775808", "9999999999999999999"])
    def test_a_repetition_is_known_by_any_number_that_the_format_allows(self, shelf, stream, number):
        record = {**stream.start(1), "id": f"{stream.name}-{number}"}
        assert shelf.send(record)[:2] == (1, 0)
        assert shelf.send(record)[:2] == (0, 1)

    def test_numbers_that_arrive_in_any_order_are_remembered_as_few_ranges(self, shelf, stream):
        records = [stream.step(1, number) for number in range(1, 101)]
        for record in [*records[::2], *records[:50], *records[::-1]]:
            shelf.send(record)
        with shelf.store.read() as connection:
            assert [json.loads(row.ranges) for row in connection.execute(select(schema.streams))] == [[[1, 100]]]
        assert len(shelf.queries.list_steps(run_id(1))["steps"]) == 100

    def test_streams_do_not_share_numbers(self, shelf):
        assert shelf.send(Stream(1).start(1), Stream(2).start(2))[:2] == (2, 0)
        assert shelf.listed() == [2, 1]

    def test_an_end_before_its_start_gives_a_finished_run(self, shelf, stream):
        start, end = stream.start(1, input="in"), stream.end(1, output="out")
        shelf.send(end)
        shelf.send(start)
        told = shelf.queries.run(run_id(1))
        assert (told["status"], told["input"], told["output"], told["duration"]) == ("completed", "in", "out", 1_000)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_run_whose_start_was_lost_begins_with_its_earliest_step(self, shelf, stream, reverse):
        steps = [stream.step(1, 1, at=LONG_AGO + 900), stream.step(1, 2, at=LONG_AGO + 300)]
        for step in reversed(steps) if reverse else steps:
            shelf.send(step)
        told = shelf.queries.run(run_id(1))
        assert (told["started_at"], told["agent_name"], told["status"]) == (LONG_AGO + 200, "", "lost")

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_step_of_which_only_updates_came_begins_with_the_earliest(self, shelf, stream, reverse):
        about = {"run_id": run_id(1), "step_id": step_id(1)}
        updates = [stream.record("step.update", LONG_AGO + at, **about, output=at) for at in (7, 3)]
        for update in reversed(updates) if reverse else updates:
            shelf.send(update)
        told = shelf.queries.step(run_id(1), step_id(1))
        assert (told["started_at"], told["output"], told["step_type"]) == (LONG_AGO + 3, 7, "other")

    def test_a_start_that_comes_late_replaces_what_stood_in_for_it(self, shelf, stream):
        start = stream.start(1, at=LONG_AGO, agent="late")
        shelf.send(stream.step(1, 1, at=LONG_AGO + 700))
        shelf.send(start)
        told = shelf.queries.run(run_id(1))
        assert (told["started_at"], told["agent_name"]) == (LONG_AGO, "late")

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_run_has_the_losses_of_the_process_that_started_it(self, shelf, reverse):
        mine, other = Stream(1), Stream(2)
        score = other.record("score", LONG_AGO + 5, run_id=run_id(1), name="good", value=1)
        about = [mine.start(1), score]
        shelf.send(*(reversed(about) if reverse else about))
        shelf.send(mine.record("loss", LONG_AGO, reason="disk", records=2))
        shelf.send(other.record("loss", LONG_AGO, reason="memory", records=9))
        assert shelf.queries.run(run_id(1))["losses"] == [{"reason": "disk", "records": 2}]


class TestAnswers:
    def test_each_refused_record_is_named_by_line_id_and_reason_and_the_rest_is_kept(self, collector, stream):
        good, unknown, nameless, end = stream.start(1), stream.record("run.pause", 1), stream.start(2), stream.end(1)
        del nameless["agent_name"]
        lines = [
            *(ndjson([good]), b"\n", ndjson([unknown]), b"{broken\n", b"  \r\n"),
            *(b"[1]\n", ndjson([nameless]), b'{"type": "run.end"}\n', b"\xff\xfe\n", ndjson([end]).rstrip(b"\n")),
        ]
        answer = collector.post(b"".join(lines))
        assert answer.status_code == 200
        told = answer.json()
        assert (told["accepted"], told["duplicates"]) == (2, 0)
        reasons = {refused["index"]: (refused["id"], refused["reason"]) for refused in told["rejected"]}
        assert reasons.pop(2)[1].startswith("not JSON: Expecting property name")
        assert reasons.pop(6)[1].startswith("not JSON: 'utf-8' codec can't decode")
        assert reasons == {
            1: (unknown["id"], "unknown record type"),
            3: (None, "not a JSON object"),
            4: (nameless["id"], "agent_name: missing"),
            5: (None, "id: must be <16 hex digits>-<number>"),
        }
        assert [run["run_id"] for run in collector.runs()] == [run_id(1)]
        assert collector.runs()[0]["status"] == "completed"

    def test_accepted_duplicates_and_rejected_add_up_to_the_lines(self, collector, stream):
        record = stream.start(1)
        told = collector.post(ndjson([record, record, {}, stream.end(1)])).json()
        assert (told["accepted"], told["duplicates"], len(told["rejected"])) == (2, 1, 1)

    def test_an_answer_tells_the_limits(self, collector):
        limits = collector.post(b"").json()["limits"]
        assert limits == {"max_batch_bytes": 8 << 20, "max_batch_records": 10_000, "max_record_bytes": 4 << 20}

    def test_a_refused_record_may_be_sent_again_when_it_is_mended(self, shelf, stream):
        record = stream.start(1)
        assert shelf.send({**record, "agent_name": 5})[:2] == (0, 0)
        assert shelf.send(record)[:2] == (1, 0)

    @pytest.mark.parametrize(
        "extra",
        [
            '"runs": [], "interval": 1, "run_id": {"not": "one"}, "type": "heartbeat"',
            '"reason": "x", "records": 1, "run_id": [], "type": "loss"',
            f'"reason": "x", "records": {10**40}, "type": "loss"',
            f'"runs": ["{run_id(1)}"], "interval": {10**400}, "type": "heartbeat"',
            f'"runs": ["{run_id(1)}"], "interval": 1e308, "type": "heartbeat"',
            f'"type": "run.update", "run_id": "{run_id(1)}", "usage": {{"cost": {10**400}, "total_tokens": 1e300}}',
            f'"type": "score", "run_id": "{run_id(1)}", "name": "n", "value": {10**400}',
        ],
        ids=["heartbeat-run", "loss-run", "loss-many", "interval-digits", "interval-float", "usage", "score"],
    )
    def test_no_record_that_the_format_allows_breaks_its_batch_or_a_page(self, collector, stream, extra):
        odd = f'{{"id": "{"b" * 16}-1", "time": {LONG_AGO}, {extra}}}\n'
        answer = collector.post(ndjson([stream.start(1)]) + odd.encode() + ndjson([stream.end(1)]))
        assert (answer.status_code, answer.json()["accepted"]) == (200, 3)
        assert [run["run_id"] for run in collector.runs()] == [run_id(1)]
        assert collector.get(f"/api/v1/runs/{run_id(1)}")["status"] == "completed"
        assert collector.get("/api/v1/losses")

    @pytest.mark.parametrize("count", [10**40, 2**62])
    def test_absurd_token_counts_and_costs_do_not_break_sums(self, collector, stream, count):
        records = [stream.step(1, step, usage={"total_tokens": count, "cost": count}) for step in range(1, 5)]
        assert collector.post(ndjson([stream.start(1), *records])).json()["accepted"] == 5
        assert collector.runs()[0]["step_count"] == 4
        assert collector.steps(run_id(1))[0]["usage"] == {"total_tokens": count, "cost": count}

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
    def test_numbers_that_are_none_are_refused_as_they_could_not_be_told_again(self, collector, stream, value):
        line = ndjson([stream.start(1, input="here")]).replace(b'"here"', value.encode())
        refused = collector.post(line).json()["rejected"]
        assert [(one["index"], one["reason"]) for one in refused] == [(0, f"not JSON: {value} is not JSON")]

    def test_half_of_a_surrogate_pair_is_refused_and_a_whole_one_is_kept(self, collector, stream):
        half = ndjson([stream.start(1, input="here")]).replace(b"here", b"\\ud83d")
        whole = ndjson([stream.start(2, input="here")]).replace(b"here", b"\\ud83d\\ude00")
        told = collector.post(half + whole).json()
        assert [one["index"] for one in told["rejected"]] == [0]
        assert told["rejected"][0]["reason"].startswith("not JSON")
        assert collector.get(f"/api/v1/runs/{run_id(2)}")["input"] == "\U0001f600"

    def test_records_nested_too_deep_are_refused_and_the_deepest_taken_can_be_read(self, collector, stream):
        taken = {}
        for number, depth in enumerate([50, 150, *range(900, 1000, 7), 100_000], 1):
            line = ndjson([stream.start(number, input="here")]).replace(b'"here"', b"[" * depth + b"]" * depth)
            answer = collector.post(line)
            assert answer.status_code == 200, depth
            taken[number] = answer.json()["accepted"]
        assert (taken[1], taken[2], taken[max(taken)]) == (1, 1, 0)
        for number in (number for number, accepted in taken.items() if accepted):
            assert collector.get(f"/api/v1/runs/{run_id(number)}")["input"] is not None


class TestProjects:
    def test_two_projects_may_use_the_same_ids(self, shelf, stream):
        other = ensure_project(shelf.store, "other")
        record = stream.start(1)
        assert shelf.send(record)[:2] == (1, 0)
        assert shelf.send(record, project=other)[:2] == (1, 0)
        shelf.send(stream.end(1, status="failed"), project=other)
        with shelf.store.read() as connection:
            found = connection.execute(select(schema.runs.c.project_id, schema.runs.c.status))
            assert sorted(map(tuple, found)) == sorted([(shelf.project, "running"), (other, "failed")])
