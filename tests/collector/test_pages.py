"""The pages, as far as the server decides them: what is shown, how values are written, and where a step stands.

How they behave in a browser is in ``tests/viewer``.
"""

from __future__ import annotations

import itertools
import re
from datetime import datetime, timezone
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_sdk.collector import presentation
from agent_sdk.collector.timeline import WIDTH, timeline
from tests.collector.making import LONG_AGO, Stream, ndjson, now, run_id, step_id


def page(collector, path: str, status: int = 200, **parameters: object) -> str:
    answer = requests.get(collector.url + path, params=parameters, timeout=20)
    assert answer.status_code == status, answer.text[:300]
    return answer.text


ODD_KEYS = st.sampled_from(
    ["$cut", "$type", "$shed", "length", "role", "content", "items", "keys", "<i>not escaped", ""]
)
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ODD_KEYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_KEYS, inner, max_size=4),
    max_leaves=12,
)
NUMBERS = itertools.count(1)


class TestRunsPage:
    def test_the_first_address_leads_to_the_runs(self, collector):
        answer = requests.get(collector.url + "/", timeout=20, allow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (307, "/runs")

    def test_runs_are_shown_with_what_a_sender_wrote_escaped(self, collector, stream):
        collector.post(ndjson([stream.start(1, agent="<script>alert(1)</script>", tags=['"><b>'])]))
        text = page(collector, "/runs")
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "<script>alert" not in text
        assert '"><b>' not in text
        assert f"/runs/{run_id(1)}" in text

    def test_pages_allow_no_foreign_script_and_are_not_kept(self, collector):
        headers = requests.get(collector.url + "/runs", timeout=20).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")

    def test_the_link_to_older_runs_keeps_the_filter(self, collector, stream):
        starts = (stream.start(number, at=LONG_AGO + number, agent="a & b") for number in range(1, 61))
        collector.post(ndjson([*starts, stream.start(61, agent="other")]))
        text = page(collector, "/runs", agent="a & b")
        older = next(href for href in re.findall(r'href="([^"]+)"', text) if "cursor" in href).replace("&amp;", "&")
        assert parse_qs(urlsplit(older).query)["agent"] == ["a & b"]
        rest = page(collector, "/runs" + older[older.index("?") :])
        assert {int(found[-12:], 16) for found in re.findall(r"/runs/([0-9a-f-]{36})", rest)} == set(range(1, 11))

    def test_a_part_of_the_page_is_the_rows_alone(self, collector, stream):
        collector.post(ndjson([stream.start(1)]))
        whole, part = page(collector, "/runs"), page(collector, "/runs", part="rows")
        assert "<html" in whole and "<html" not in part
        assert run_id(1) in part

    @pytest.mark.parametrize("parameters", [{"cursor": "x"}, {"since": "yesterday"}])
    def test_an_address_that_cannot_be_read_is_400_and_says_so(self, collector, parameters):
        assert "That address cannot be read" in page(collector, "/runs", 400, **parameters)

    def test_static_files_are_served_and_nothing_beside_them(self, collector):
        assert requests.get(collector.url + "/static/style.css", timeout=20).status_code == 200
        assert requests.get(collector.url + "/static/%2e%2e/app.py", timeout=20).status_code == 404


class TestRunPage:
    @pytest.fixture
    def recorded(self, collector, stream):
        messages = [{"role": "user", "content": "What is <b>this</b>?"}, {"role": "tool", "content": {"a": 1}}]
        usage = {"input_tokens": 1200, "output_tokens": 34, "cost": 0.0042, "mine": 1.5, "word": "w"}
        collector.post(
            ndjson(
                [
                    stream.start(1, agent="planner", input={"q": "hello"}, metadata={"team": "a"}, tags=["t"]),
                    stream.step(1, 1, name="ask", step_type="llm_call", input=messages, usage=usage, model="m-1"),
                    stream.step(1, 2, name="inner", parent_step_id=step_id(1), output={"$cut": "bytes", "length": 7}),
                    stream.step(1, 3, name="broken", status="failed", error={"type": "KeyError", "message": "gone"}),
                    stream.record("score", LONG_AGO, run_id=run_id(1), name="helpful", value=0.5),
                    stream.record("loss", LONG_AGO, reason="memory", records=2),
                    stream.end(1, output="done"),
                ]
            )
        )
        return collector

    def test_a_run_is_shown_with_its_steps(self, recorded):
        text = page(recorded, f"/runs/{run_id(1)}")
        for shown in ("planner", "ask", "inner", "broken", "hello", "helpful"):
            assert shown in text, shown

    def test_a_chosen_step_is_shown_with_its_bodies_escaped(self, recorded):
        text = page(recorded, f"/runs/{run_id(1)}", step=step_id(1))
        assert "What is &lt;b&gt;this&lt;/b&gt;?" in text
        assert "1,200" in text and "$0.0042" in text

    def test_each_part_can_be_asked_for_alone(self, recorded):
        tree = page(recorded, f"/runs/{run_id(1)}", part="tree")
        inspector = page(recorded, f"/runs/{run_id(1)}", part="inspector", step=step_id(3))
        assert "<html" not in tree and "inner" in tree
        assert "<html" not in inspector and "gone" in inspector

    def test_an_error_needs_no_field_to_be_shown(self, collector, stream):
        errors = [{}, {"type": "OnlyType"}, {"message": "only a message"}, {"stack": "only a stack"}, {"type": None}]
        steps = [stream.step(1, number, status="failed", error=error) for number, error in enumerate(errors, 1)]
        collector.post(
            ndjson([stream.start(1), *steps, stream.end(1, status="failed", error={"message": "of the run"})])
        )
        shown = [page(collector, f"/runs/{run_id(1)}", step=step_id(number)) for number in range(1, 6)]
        for text, word in zip(shown, ("failed", "OnlyType", "only a message", "only a stack", "failed")):
            assert word in text
        assert "of the run" in page(collector, f"/runs/{run_id(1)}")
        assert "of the run" in page(collector, "/runs")

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(value=BODIES)
    def test_no_body_however_odd_breaks_a_page(self, collector, value):
        number = next(NUMBERS)
        stream = Stream(number)
        records = [stream.step(number, 1, input=value, metadata={"m": value}), stream.end(number, output=value)]
        assert collector.post(ndjson(records)).json()["accepted"] == 2
        for parameters in ({}, {"step": step_id(1)}):
            text = page(collector, f"/runs/{run_id(number)}", **parameters)
            assert "<i>not escaped" not in text

    @pytest.mark.parametrize("bracket", ["[]", '{"a":}'], ids=["lists", "objects"])
    def test_the_deepest_body_that_is_taken_is_shown(self, collector, stream, bracket):
        opening, closing = bracket[:-1], bracket[-1]
        line = ndjson([stream.start(1, input="here")])
        for depth in range(210, 1, -1):
            body = line.replace(b'"here"', (opening * depth + "1" + closing * depth).encode())
            if collector.post(body).json()["accepted"]:
                break
        assert depth > 100
        assert "agent" in page(collector, f"/runs/{run_id(1)}")

    def test_absurd_costs_and_counts_are_shown(self, collector, stream):
        usage = {"cost": 10**400, "input_tokens": 10**400}
        collector.post(ndjson([stream.start(1, usage=usage), stream.step(1, 1, usage=usage)]))
        for parameters in ({}, {"step": step_id(1)}):
            assert "step 1" in page(collector, f"/runs/{run_id(1)}", **parameters)
        assert "agent" in page(collector, "/runs")

    def test_a_step_that_is_not_there_shows_the_run_itself(self, recorded):
        assert "planner" in page(recorded, f"/runs/{run_id(1)}", step=step_id(99))

    def test_a_run_that_is_not_there_is_404_and_names_it_escaped(self, collector):
        assert f"There is no run {run_id(9)} here" in page(collector, f"/runs/{run_id(9)}", 404)
        assert "&lt;b&gt;" in page(collector, "/runs/<b>", 404)

    def test_a_run_with_more_steps_than_are_drawn_says_how_many_are_left_out(self, collector, stream):
        collector.post(ndjson(stream.step(1, number) for number in range(1, 2_004)))
        text = page(collector, f"/runs/{run_id(1)}", part="tree")
        assert len(set(re.findall(r"[0-9a-f]{16}(?![0-9a-f-])", text)) & {step_id(n) for n in range(1, 2_004)}) == 2_000
        assert re.search(r"\b3\b[^<]*(more|left)", text)


class TestTimeline:
    def _drawn(self, shelf, *records):
        shelf.send(*records)
        return timeline(shelf.queries.run(run_id(1)), shelf.queries.first_steps(run_id(1), 2_000))

    def _tree(self, drawn) -> list[tuple[str, int]]:
        return [(row.step["name"], row.depth) for row in drawn.rows]

    def test_children_stand_under_their_parent_by_start(self, shelf, stream):
        drawn = self._drawn(
            shelf,
            stream.start(1),
            stream.step(1, 3, name="c", at=LONG_AGO + 900, parent_step_id=step_id(1)),
            stream.step(1, 1, name="a", at=LONG_AGO + 200),
            stream.step(1, 2, name="b", at=LONG_AGO + 300, parent_step_id=step_id(1)),
            stream.step(1, 4, name="d", at=LONG_AGO + 950),
            stream.end(1),
        )
        assert self._tree(drawn) == [("a", 1), ("b", 2), ("c", 2), ("d", 1)]
        assert [row.children for row in drawn.rows] == [2, 0, 0, 0]

    def test_no_step_is_left_out_whose_parent_is_unknown_or_inside_itself(self, shelf, stream):
        drawn = self._drawn(
            shelf,
            stream.step(1, 1, name="orphan", parent_step_id=step_id(77)),
            stream.step(1, 2, name="own", parent_step_id=step_id(2)),
            stream.step(1, 3, name="loop", parent_step_id=step_id(4)),
            stream.step(1, 4, name="back", parent_step_id=step_id(3)),
        )
        assert sorted(self._tree(drawn)) == [("back", 2), ("loop", 1), ("orphan", 1), ("own", 1)]

    def test_a_chain_of_steps_deeper_than_recursion_is_drawn_and_indented_only_so_far(self, shelf, stream):
        chain = [
            stream.step(1, n, at=LONG_AGO + n, parent_step_id=step_id(n - 1) if n > 1 else None)
            for n in range(1, 1_501)
        ]
        drawn = self._drawn(shelf, *chain)
        assert [row.step["step_id"] for row in drawn.rows] == [step_id(n) for n in range(1, 1_501)]
        assert max(row.depth for row in drawn.rows) == 14

    def test_an_open_step_of_a_running_run_reaches_to_now(self, shelf, stream):
        at = now()
        drawn = self._drawn(shelf, stream.start(1, at=at - 10_000_000), stream.step_open(1, 1, at=at - 5_000_000))
        bar = drawn.rows[0].bar
        assert 45 < bar.x < 55
        assert bar.x + bar.width == pytest.approx(WIDTH, abs=0.01)

    def test_an_open_step_of_a_lost_run_reaches_to_its_last_sign_of_life(self, shelf, stream):
        drawn = self._drawn(
            shelf, stream.start(1), stream.step_open(1, 1, at=LONG_AGO + 500), stream.heartbeat(1, at=LONG_AGO + 1_000)
        )
        assert (drawn.rows[0].bar.x, drawn.rows[0].bar.width) == (50.0, 50.0)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        start=st.integers(0, 10**6),
        end=st.none() | st.integers(0, 10**13),
        places=st.lists(st.tuples(st.integers(0, 10**13), st.none() | st.integers(0, 10**13)), max_size=5),
    )
    def test_no_times_however_odd_draw_outside_of_the_axis(self, start, end, places):
        steps = [
            {
                "step_id": step_id(number),
                "parent_step_id": None,
                "name": "s",
                "started_at": began,
                "ended_at": ended,
                "first_token_at": None,
            }
            for number, (began, ended) in enumerate(places, 1)
        ]
        run = {"started_at": start, "ended_at": end, "last_seen_at": start, "status": "completed"}
        drawn = timeline(run, steps)
        assert 1 <= len(drawn.ticks) <= 10
        for bar in [drawn.run_bar, *(row.bar for row in drawn.rows)]:
            assert 0 <= bar.x <= WIDTH
            assert bar.width > 0
            assert bar.x + bar.width <= WIDTH + 0.01
        assert all(0 <= tick.x <= WIDTH for tick in drawn.ticks)


class TestWords:
    @pytest.mark.parametrize(
        ("microseconds", "text"),
        [
            *(
                (None, "\N{EN DASH}"),
                (0, "0 µs"),
                (999, "999 µs"),
                (1_500, "1.5 ms"),
                (42_000, "42 ms"),
                (123_456, "123 ms"),
            ),
            *((1_240_000, "1.24 s"), (59_000_000, "59 s"), (125_000_000, "2 min 05 s"), (12_000_000_000, "3 h 20 min")),
        ],
    )
    def test_durations(self, microseconds, text):
        assert presentation.duration(microseconds) == text

    def test_counts_and_dollars(self):
        assert (presentation.count(None), presentation.count(12_345)) == ("\N{EN DASH}", "12,345")
        amounts = (None, 0, 0.0042, 0.5, 1.2, 1234.5)
        assert [presentation.dollars(amount) for amount in amounts] == (
            ["\N{EN DASH}", "$0.00", "$0.0042", "$0.5", "$1.20", "$1234.50"]
        )

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(-5, "now"), (0, "now"), (10, "10 s ago"), (61, "1 min ago"), (7_300, "2 h ago"), (200_000, "2 d ago")],
    )
    def test_how_long_ago(self, seconds, text):
        assert presentation.ago(now() - seconds * 1_000_000) == text

    def test_moments_are_utc(self):
        at = int(datetime(2024, 2, 3, 4, 5, 6, 789, timezone.utc).timestamp() * 1_000_000)
        assert presentation.moment(at) == "2024-02-03 04:05:06.000789 UTC"
        assert presentation.iso(at) == "2024-02-03T04:05:06.000789+00:00"

    def test_usage_has_the_known_buckets_first(self):
        usage = {"zebra": 1.5, "cost": 0.5, "output_tokens": 2_000, "apple": "x", "input_tokens": 1}
        assert presentation.usage_rows(usage) == [
            *[("input", "1"), ("output", "2,000"), ("cost", "$0.5"), ("apple", "x"), ("zebra", "1.5")],
        ]
        assert presentation.usage_rows(None) == []

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            *(("text", ""), ({"a": 1}, ""), ({"$shed": 2048}, "not kept under memory pressure (2,048 bytes)")),
            *(
                ({"$cut": "depth"}, "cut: too many depth"),
                ({"$cut": "bytes", "length": 1200}, "cut: too many bytes, 1,200 items"),
            ),
            *(
                ({"$type": "x.Y"}, "x.Y"),
                ({"$type": "x.Y", "shape": "3", "long": "y" * 60, "list": []}, "x.Y: shape 3"),
            ),
        ],
    )
    def test_markers(self, value, text):
        assert presentation.marker(value) == text

    def test_conversations(self):
        message = {"role": "user", "content": "hi"}
        assert presentation.is_conversation([message, {**message, "name": "n"}])
        for value in ([], "text", {"role": "user"}, [message, "text"], [{"role": "user"}]):
            assert not presentation.is_conversation(value)
