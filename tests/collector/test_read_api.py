"""The read API: pages that do not shift, filters that find what they say, and what is derived from silence."""

from __future__ import annotations

import base64
import json

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_sdk.collector import Store, ensure_project
from agent_sdk.collector.queries import BadCursor
from tests.collector.making import LONG_AGO, Shelf, Stream, ndjson, now, run_id, step_id

SECOND = 1_000_000


def asked(collector, path: str, **parameters: object) -> tuple[int, dict]:
    answer = requests.get(collector.url + path, params=parameters, timeout=20)
    return answer.status_code, answer.json()


class TestPaging:
    def test_pages_stay_whole_while_new_runs_arrive(self, collector, stream):
        collector.post(ndjson(stream.start(number, at=LONG_AGO + number // 3) for number in range(1, 31)))
        expected = [run["run_id"] for run in collector.runs(limit=1000)]
        assert len(set(expected)) == 30
        found, cursor, newer = [], None, 1_000
        while True:
            page = collector.get("/api/v1/runs", limit=4, **({"cursor": cursor} if cursor else {}))
            found += [run["run_id"] for run in page["runs"]]
            collector.post(ndjson(stream.start(newer + n, at=LONG_AGO + newer) for n in range(3)))
            newer += 3
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == expected
        assert collector.runs()[0]["started_at"] == LONG_AGO + newer - 3

    def test_runs_come_newest_first_and_those_of_one_moment_in_a_fixed_order(self, shelf, stream):
        shelf.send(*(stream.start(number, at=LONG_AGO + number % 2) for number in range(1, 7)))
        assert shelf.listed() == [5, 3, 1, 6, 4, 2]

    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(times=st.lists(st.integers(0, 4), min_size=1, max_size=12), limit=st.integers(1, 13))
    def test_pages_of_any_size_have_every_run_and_step_once(self, tmp_path_factory, times, limit):
        store, stream = Store(tmp_path_factory.mktemp("pages") / "collector.db"), Stream()
        shelf = Shelf(store)
        shelf.send(*(stream.start(number, at=LONG_AGO + at) for number, at in enumerate(times, 1)))
        shelf.send(*(stream.step(1, number, at=LONG_AGO + at) for number, at in enumerate(times, 1)))
        runs, cursor = [], None
        while True:
            page = shelf.queries.list_runs({}, cursor, limit)
            assert len(page["runs"]) == limit or page["next_cursor"] is None
            runs += page["runs"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        steps = []
        while True:
            page = shelf.queries.list_steps(run_id(1), cursor, limit)
            assert len(page["steps"]) == limit or page["next_cursor"] is None
            steps += page["steps"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        store.close()
        order = [(run["started_at"], run["run_id"]) for run in runs]
        assert order == sorted(order, reverse=True)
        assert len(set(order)) == len(times)
        order = [(step["started_at"], step["step_id"]) for step in steps]
        assert order == sorted(order)
        assert len(set(order)) == len(times)

    def test_steps_are_paged_while_new_ones_arrive(self, collector, stream):
        collector.post(ndjson(stream.step(1, number, at=LONG_AGO + 1_000) for number in range(1, 8)))
        first = collector.get(f"/api/v1/runs/{run_id(1)}/steps", limit=4)
        collector.post(ndjson([stream.step(1, 90, at=LONG_AGO + 500), stream.step(1, 91, at=LONG_AGO + 2_000)]))
        second = collector.get(f"/api/v1/runs/{run_id(1)}/steps", limit=9, cursor=first["next_cursor"])
        names = [step["name"] for step in [*first["steps"], *second["steps"]]]
        assert names == [f"step {number}" for number in (*range(1, 8), 91)]
        assert second["next_cursor"] is None

    def test_a_page_has_at_least_one_run_and_at_most_a_thousand(self, shelf, stream):
        shelf.send(*(stream.start(number) for number in range(1, 1_003)))
        lengths = [len(shelf.queries.list_runs({}, None, limit)["runs"]) for limit in (0, -5, 1, 10**30)]
        assert lengths == [1, 1, 1, 1000]

    @pytest.mark.parametrize(
        "cursor",
        [
            *("x", "!!!", "\xfc", "AAAA", base64.urlsafe_b64encode(b"a:b").decode()),
            *(base64.urlsafe_b64encode(text).decode() for text in (b"1:2:3", b"1", b"%d:a" % 10**30, b"\xff:a")),
        ],
    )
    def test_a_cursor_that_was_not_made_here_is_400(self, collector, cursor):
        said = {"detail": "this cursor was not made by this collector: begin without one"}
        for path in ("/api/v1/runs", f"/api/v1/runs/{run_id(1)}/steps"):
            assert asked(collector, path, cursor=cursor) == (400, said), path

    def test_a_bad_cursor_is_told_to_callers_in_python_too(self, shelf):
        with pytest.raises(BadCursor, match="not made by this collector"):
            shelf.queries.list_runs({}, "x")

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("runs", "limit"),
            ("runs", "since"),
            ("runs", "until"),
            (f"runs/{run_id(1)}/steps", "limit"),
            ("live", "after"),
        ],
    )
    def test_a_parameter_that_is_no_number_is_400_and_named(self, collector, path, name):
        for value in ("ten", "1.5", "1e3", "\u00b2"):
            status, told = asked(collector, f"/api/v1/{path}", **{name: value})
            assert (status, told) == (400, {"detail": f"{name}: must be a whole number"}), value

    @pytest.mark.parametrize("value", [10**30, -(10**30)])
    def test_a_time_beyond_all_times_is_no_error(self, collector, stream, value):
        collector.post(ndjson([stream.start(1)]))
        assert len(collector.runs(since=value)) == (value < 0)
        assert len(collector.runs(until=value)) == (value > 0)


class TestFilters:
    @pytest.fixture
    def runs(self, shelf) -> Shelf:
        one, two = Stream(1), Stream(2)
        shelf.send(
            one.start(1, at=LONG_AGO + 1, agent="planner", session_id="s1", user_id="Ada", tags=["prod", "a b"]),
            one.end(1, status="completed", at=LONG_AGO + 10),
            one.step(1, 1, name="Look_up", status="failed", error={"type": "E", "message": "Time ran 100% out"}),
            one.start(2, at=LONG_AGO + 2, agent="planner", session_id="s2", external_id="Order-7", tags=["Prod"]),
            one.end(2, status="failed", at=LONG_AGO + 20, error={"type": "KeyError", "message": "no such thing"}),
            one.start(3, at=LONG_AGO + 3, agent="writer", tags=['say "prod"', "\u00fcber"]),
            one.end(3, status="cancelled"),
            one.start(4, at=LONG_AGO + 4, agent="writer", session_id="s1"),
            one.end(4, status="interrupted"),
            two.start(5, at=LONG_AGO + 5, agent="lost one"),
            two.start(6, at=LONG_AGO + 6, agent="alive one"),
            two.heartbeat(6, at=now()),
        )
        return shelf

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            *(("completed", [1]), ("failed", [2]), ("cancelled", [3]), ("interrupted", [4])),
            *(("running", [6]), ("lost", [5]), ("unheard of", []), ("", [6, 5, 4, 3, 2, 1])),
        ],
    )
    def test_by_status_where_lost_is_not_running(self, runs, status, expected):
        assert runs.listed(status=status) == expected
        if status and expected:
            assert {run["status"] for run in runs.queries.list_runs({"status": status})["runs"]} == {status}

    def test_by_agent_and_session_exactly(self, runs):
        assert runs.listed(agent="planner") == [2, 1]
        assert runs.listed(agent="plan") == []
        assert runs.listed(session="s1") == [4, 1]
        assert runs.listed(session="s1", agent="writer") == [4]

    @pytest.mark.parametrize(
        ("tag", "expected"),
        [
            *(("prod", [1]), ("Prod", [2]), ("a b", [1]), ('say "prod"', [3]), ("\u00fcber", [3])),
            *(("pro", []), ("prod%", []), ('prod", "a b', []), ("PROD", [])),
        ],
    )
    def test_by_tag_exactly(self, runs, tag, expected):
        assert runs.listed(tag=tag) == expected

    def test_by_time_from_the_first_moment_to_before_the_last(self, runs):
        assert runs.listed(since=LONG_AGO + 3, until=LONG_AGO + 5) == [4, 3]
        assert runs.listed(since=LONG_AGO + 6) == [6]
        assert runs.listed(until=LONG_AGO + 2) == [1]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            *(("PLANNER", [2, 1]), ("ada", [1]), ("order-7", [2]), ("such thing", [2]), ("s2", [2])),
            *((run_id(4)[-5:], [4]), ("look_up", [1]), ("ran 100% out", [1]), ("a b", [1])),
            *(("%", [1]), ("_", [1]), ("100_", []), ("nowhere", []), ("\\", []), ("[", []), ('", "', [])),
            *(('say "prod"', [3]), ("PROD", [3, 2, 1]), ("\u00fcber", [3])),
        ],
    )
    def test_by_text_in_names_ids_tags_and_errors_and_taken_literally(self, runs, text, expected):
        assert runs.listed(text=text) == expected

    def test_the_filters_of_the_api_are_those_of_the_queries(self, collector, stream):
        about = {"session_id": "s", "tags": ["t"], "external_id": "needle"}
        collector.post(
            ndjson(
                [
                    stream.start(1, at=LONG_AGO + 10, agent="a", **about),
                    stream.end(1, at=LONG_AGO + 11),
                    stream.start(2, at=LONG_AGO, agent="b"),
                ]
            )
        )
        for wanted in (
            *({"status": "completed"}, {"agent": "a"}, {"session": "s"}, {"tag": "t"}, {"q": "NEEDLE"}),
            *({"since": LONG_AGO + 10}, {"since": LONG_AGO + 5, "until": LONG_AGO + 11, "agent": "a", "tag": "t"}),
        ):
            assert [run["run_id"] for run in collector.runs(**wanted)] == [run_id(1)], wanted
        assert collector.runs(until=LONG_AGO + 10)[0]["run_id"] == run_id(2)
        assert collector.runs(agent="a", q="nothing") == []

    def test_a_filter_holds_on_every_page(self, collector, stream):
        starts = (stream.start(number, at=LONG_AGO + number, agent="ab"[number % 2]) for number in range(1, 21))
        collector.post(ndjson(starts))
        found = collector.runs(agent="b", limit=3)
        assert [int(run["run_id"][-12:], 16) for run in found] == list(range(19, 0, -2))

    def test_agents_are_told_once_each_and_in_order(self, collector, stream):
        collector.post(ndjson([stream.start(1, agent="b"), stream.start(2, agent="a"), stream.start(3, agent="b")]))
        assert collector.get("/api/v1/agents") == {"agents": ["a", "b"]}


class TestLost:
    def test_a_run_is_lost_after_three_missed_heartbeats_and_not_before(self, shelf, stream):
        at = now()
        shelf.send(
            *(stream.start(number, at=at - 3_600 * SECOND) for number in (1, 2, 3)),
            stream.heartbeat(1, at=at - 45 * SECOND, interval=20.0),
            stream.heartbeat(2, at=at - 61 * SECOND, interval=20.0),
            stream.heartbeat(3, at=at - 29 * SECOND, interval=5.0),
        )
        assert [shelf.queries.run(run_id(number))["status"] for number in (1, 2, 3)] == ["running", "lost", "lost"]

    def test_a_lost_run_that_is_heard_of_again_is_running(self, collector, stream):
        collector.post(ndjson([stream.start(1)]))
        assert collector.runs()[0]["status"] == "lost"
        at = now()
        collector.post(ndjson([stream.heartbeat(1, at=at)]))
        assert (collector.runs()[0]["status"], collector.runs()[0]["last_seen_at"]) == ("running", at)

    def test_an_old_heartbeat_that_comes_late_takes_nothing_back(self, shelf, stream):
        at = now()
        shelf.send(stream.start(1, at=at - 100 * SECOND), stream.heartbeat(1, at=at))
        shelf.send(stream.heartbeat(1, at=at - 90 * SECOND))
        told = shelf.queries.run(run_id(1))
        assert (told["status"], told["last_seen_at"]) == ("running", at)

    def test_a_clock_that_is_ahead_does_not_keep_a_run_alive(self, shelf, stream):
        before = now()
        shelf.send(stream.start(1, at=before + 3_600 * SECOND), stream.heartbeat(1, at=before + 7_200 * SECOND))
        assert before <= shelf.queries.run(run_id(1))["last_seen_at"] <= now()

    def test_any_record_of_a_run_is_a_sign_of_life(self, shelf, stream):
        shelf.send(stream.start(1))
        assert shelf.queries.run(run_id(1))["status"] == "lost"
        at = now()
        shelf.send(stream.step(1, 1, at=at))
        told = shelf.queries.run(run_id(1))
        assert (told["status"], told["last_seen_at"], told["started_at"]) == ("running", at, LONG_AGO)

    def test_a_run_that_is_over_is_never_lost(self, shelf, stream):
        shelf.send(stream.start(1), stream.end(1, status="interrupted"))
        assert shelf.queries.run(run_id(1))["status"] == "interrupted"

    def test_a_heartbeat_of_a_run_that_nobody_knows_makes_none(self, shelf, stream):
        assert shelf.send(stream.heartbeat(1, at=now())).accepted == 1
        assert shelf.listed() == []


class TestLosses:
    def test_losses_are_told_newest_first(self, collector, stream):
        records = [
            stream.record("loss", LONG_AGO + 1, reason="memory", records=3, runs=[run_id(1)]),
            stream.record("loss", LONG_AGO + 2, reason="disk full", records=4),
            stream.record("loss", LONG_AGO + 3, reason="memory", records=5),
        ]
        collector.post(ndjson(records))
        told = collector.get("/api/v1/losses")["losses"]
        assert told == [
            {"stream": stream.name, "reason": "memory", "records": 5, "time": LONG_AGO + 3},
            {"stream": stream.name, "reason": "disk full", "records": 4, "time": LONG_AGO + 2},
            {"stream": stream.name, "reason": "memory", "records": 3, "time": LONG_AGO + 1},
        ]

    def test_a_run_tells_the_losses_of_its_process_added_up(self, collector, stream):
        other = Stream(2)
        losses = [stream.record("loss", LONG_AGO, reason="memory", records=n) for n in (3, 4)]
        collector.post(ndjson([stream.start(1), *losses, other.start(2)]))
        assert collector.get(f"/api/v1/runs/{run_id(1)}")["losses"] == [{"reason": "memory", "records": 7}]
        assert collector.get(f"/api/v1/runs/{run_id(2)}")["losses"] == []


class TestOneRun:
    def test_a_run_is_told_with_all_that_is_known(self, collector, stream):
        error = {"type": "KeyError", "message": "no", "stack": "line 1"}
        collector.post(
            ndjson(
                [
                    stream.start(
                        1,
                        agent="planner",
                        input={"q": [1, None]},
                        session_id="s",
                        user_id="u",
                        external_id="e",
                        parent_run_id=run_id(2),
                        tags=["b", "a"],
                        metadata={"k": 1},
                        source={"pid": 1},
                    ),
                    stream.step_open(1, 1),
                    stream.step(1, 2, status="failed", usage={"input_tokens": 2, "cost": 0.25}, model="m"),
                    stream.step(1, 3, usage={"output_tokens": 3, "cost": 0.5}, model="m"),
                    stream.record("score", LONG_AGO + 2, run_id=run_id(1), name="second", value="good", comment="c"),
                    stream.record("score", LONG_AGO + 1, run_id=run_id(1), step_id=step_id(2), name="first", value=0.5),
                    stream.end(1, status="failed", output="out", error=error),
                ]
            )
        )
        told = collector.get(f"/api/v1/runs/{run_id(1)}")
        assert told.pop("last_seen_at") == LONG_AGO + 1_000
        assert told.pop("revision") == 1
        assert told == {
            "run_id": run_id(1),
            "agent_name": "planner",
            "status": "failed",
            "started_at": LONG_AGO,
            "ended_at": LONG_AGO + 1_000,
            "duration": 1_000,
            "step_count": 3,
            "failed_steps": 1,
            "open_steps": 1,
            "total_tokens": 5,
            "cost": 0.75,
            "models": ["m"],
            "session_id": "s",
            "user_id": "u",
            "external_id": "e",
            "parent_run_id": run_id(2),
            "tags": ["a", "b"],
            "error": error,
            "losses": [],
            "input": {"q": [1, None]},
            "output": "out",
            "metadata": {"k": 1},
            "source": {"pid": 1},
            "scores": [
                {"step_id": step_id(2), "name": "first", "value": 0.5, "comment": None},
                {"step_id": None, "name": "second", "value": "good", "comment": "c"},
            ],
        }

    def test_a_step_is_told_with_its_bodies_and_listed_without(self, collector, stream):
        facts = {
            "input": {"a": 1},
            "output": [2],
            "metadata": {"m": None, "k": 3},
            "model": "m",
            "tags": ["t"],
            "usage": {"input_tokens": 1, "mine": "x"},
            "first_token_at": LONG_AGO + 450,
            "error": {"type": "E", "message": "long " * 200},
            "parent_step_id": step_id(9),
        }
        collector.post(ndjson([stream.step(1, 1, status="failed", **facts)]))
        told = collector.get(f"/api/v1/runs/{run_id(1)}/steps/{step_id(1)}")
        for name in ("input", "output", "model", "tags", "usage", "first_token_at", "error", "parent_step_id"):
            assert told[name] == facts[name], name
        assert told["metadata"] == {"k": 3}
        assert (told["started_at"], told["duration"]) == (LONG_AGO + 400, 100)
        listed = collector.steps(run_id(1))[0]
        assert set(told) - set(listed) == {"input", "output", "metadata"}
        assert listed["error"]["type"] == "E"
        assert len(listed["error"]["message"]) == 500

    def test_tokens_and_cost_that_a_run_states_win_over_the_sum_of_its_steps(self, shelf, stream):
        shelf.send(stream.start(1, usage={"total_tokens": 7, "cost": 0}), stream.step(1, 1, usage={"total_tokens": 3}))
        told = shelf.queries.run(run_id(1))
        assert (told["total_tokens"], told["cost"]) == (7, 0)

    def test_unknown_tokens_and_cost_are_null_and_not_zero(self, shelf, stream):
        shelf.send(stream.start(1), stream.step(1, 1))
        told = shelf.queries.run(run_id(1))
        assert (told["total_tokens"], told["cost"]) == (None, None)

    def test_an_end_before_its_start_by_the_clock_has_no_negative_duration(self, shelf, stream):
        shelf.send(stream.start(1, at=LONG_AGO), stream.end(1, at=LONG_AGO - 5))
        assert shelf.queries.run(run_id(1))["duration"] == 0

    @pytest.mark.parametrize(
        "path", [f"runs/{run_id(2)}", f"runs/{run_id(1)}/steps/{step_id(2)}", f"runs/{run_id(2)}/steps/{step_id(1)}"]
    )
    def test_what_is_not_there_is_404(self, collector, stream, path):
        collector.post(ndjson([stream.step(1, 1)]))
        assert asked(collector, f"/api/v1/{path}") == (404, {"detail": "there is no such run or step"})

    def test_the_steps_of_a_run_that_is_not_there_are_none(self, collector):
        assert collector.get(f"/api/v1/runs/{run_id(2)}/steps") == {"steps": [], "next_cursor": None}

    def test_a_run_of_two_projects_is_told_as_one_of_them_and_its_own_steps(self, shelf, stream):
        other = ensure_project(shelf.store, "other")
        shelf.send(stream.start(1, agent="mine"), stream.step(1, 1))
        shelf.send(Stream(2).start(1, agent="theirs"), project=other)
        told = shelf.queries.run(run_id(1))
        assert (told["agent_name"], told["step_count"]) == ("mine", 1)
        assert json.dumps(shelf.queries.list_steps(run_id(1))).count("step_id") == 2
