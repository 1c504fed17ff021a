"""The stream of changes: what is new, what has ended, and nothing missed between two looks."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from contextlib import contextmanager
from typing import Any, Iterator

import pytest
import requests

from agent_sdk.collector import Queries, api
from agent_sdk.collector.queries import RunSummary
from tests.collector.making import LONG_AGO, PATIENCE, Shelf, ndjson, run_id, step_id
from tests.support.collector import RunningCollector, running_collector


class Live:
    """A reader of server-sent events."""

    def __init__(self, answer: requests.Response) -> None:
        self._lines = answer.iter_lines(chunk_size=None, decode_unicode=True)
        self._deadline = time.monotonic() + PATIENCE

    def next(self) -> dict[str, Any]:
        """The fields of the next event or comment."""
        fields: dict[str, Any] = {}
        for line in self._lines:
            assert time.monotonic() < self._deadline, "what was waited for does not come"
            if not line and fields:
                return fields
            if line:
                name, _, value = line.partition(": ")
                fields[name or "comment"] = value
        raise AssertionError("the stream has ended")

    def commit(self) -> list[tuple[str, dict[str, Any]]]:
        """The changes up to the next revision, which is the last of them; the revision is the last item."""
        changes = []
        while True:
            fields = self.next()
            if fields.get("event") == "revision":
                assert fields["id"] == fields["data"]
                return [*changes, ("revision", {"revision": int(fields["id"])})]
            if "event" in fields:
                assert "id" not in fields
                changes.append((fields["event"], json.loads(fields["data"])))


@contextmanager
def live(collector, headers: dict[str, str] | None = None, **parameters: Any) -> Iterator[Live]:
    """An open stream; when it is given, the collector already watches."""
    url = collector.url + "/api/v1/live"
    with requests.get(url, params=parameters, headers=headers, stream=True, timeout=PATIENCE) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-store"
        reader = Live(answer)
        assert reader.next() == {"retry": "1000"}
        yield reader


@pytest.fixture
def collector(tmp_path) -> Iterator[RunningCollector]:
    """A server of its own: a stream ends some time after its reader has gone, and not behind the back of a test."""
    with running_collector(tmp_path / "collector") as running:
        yield running


def runs_of(changes: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(data["run_id"], data["status"]) for kind, data in changes if kind == "run"]


class TestChanges:
    def test_new_and_finished_runs_are_told_and_what_was_there_before_is_not(self, collector, stream):
        collector.post(ndjson([stream.start(1), stream.end(1)]))
        with live(collector) as reader:
            collector.post(ndjson([stream.start(2)]))
            assert runs_of(reader.commit()) == [(run_id(2), "lost")]
            collector.post(ndjson([stream.end(2, status="failed"), stream.start(3)]))
            assert sorted(runs_of(reader.commit())) == [(run_id(2), "failed"), (run_id(3), "lost")]

    def test_an_event_is_the_run_as_the_list_tells_it(self, collector, stream):
        with live(collector) as reader:
            collector.post(ndjson([stream.start(1, tags=["t"]), stream.step(1, 1, usage={"total_tokens": 3})]))
            (kind, told), (_, last) = reader.commit()
        assert kind == "run"
        assert told == collector.runs()[0]
        assert last["revision"] == told["revision"]

    def test_a_reader_of_one_run_is_told_its_steps_and_no_other_run(self, collector, stream):
        collector.post(ndjson([stream.start(1), stream.start(2)]))
        with live(collector, run_id=run_id(1)) as reader:
            collector.post(ndjson([stream.step(2, 9)]))
            collector.post(ndjson([stream.step(1, 1), stream.step_open(1, 2)]))
            changes = reader.commit()
            told = [(kind, data.get("step_id"), data.get("status")) for kind, data in changes[:-1]]
            assert told == [
                ("step", step_id(1), "completed"),
                ("step", step_id(2), "running"),
                ("run", None, "lost"),
            ]
            assert {data["run_id"] for _, data in changes[:-1]} == {run_id(1)}
            listed = {step["step_id"]: step for step in collector.steps(run_id(1))}
            assert changes[0][1] == {**listed[step_id(1)], "run_id": run_id(1)}
            collector.post(ndjson([stream.step(1, 2)]))
            assert [data.get("step_id") for _, data in reader.commit()[:-1]] == [step_id(2), None]

    def test_a_score_and_a_sign_of_life_are_changes_too(self, collector, stream):
        collector.post(ndjson([stream.start(1)]))
        with live(collector, run_id=run_id(1)) as reader:
            collector.post(ndjson([stream.record("score", LONG_AGO, run_id=run_id(1), name="n", value=1)]))
            assert runs_of(reader.commit()) == [(run_id(1), "lost")]
            collector.post(ndjson([stream.heartbeat(1, at=10**15 * 9)]))
            assert runs_of(reader.commit()) == [(run_id(1), "running")]


class TestComingBack:
    def test_a_reader_who_comes_back_with_the_last_id_misses_nothing_and_hears_nothing_twice(self, collector, stream):
        collector.post(ndjson([stream.start(1)]))
        with live(collector, after=0) as reader:
            seen = reader.commit()[-1][1]["revision"]
        collector.post(ndjson([stream.start(2)]))
        collector.post(ndjson([stream.start(3)]))
        with live(collector, {"Last-Event-ID": str(seen)}) as reader:
            assert runs_of(reader.commit()) == [(run_id(2), "lost"), (run_id(3), "lost")]

    def test_the_last_id_of_a_reader_wins_over_where_its_page_began(self, collector, stream):
        for number in (1, 2):
            collector.post(ndjson([stream.start(number)]))
        with live(collector, {"Last-Event-ID": "1"}, after=0) as reader:
            assert runs_of(reader.commit()) == [(run_id(2), "lost")]

    @pytest.mark.parametrize("last", ["none", "-1", "\xb2", "9" * 40])
    def test_an_id_that_is_none_is_passed_over(self, collector, stream, last):
        collector.post(ndjson([stream.start(1)]))
        with live(collector, {"Last-Event-ID": last}, after=0) as reader:
            assert runs_of(reader.commit()) == [(run_id(1), "lost")]

    def test_the_revision_that_a_run_was_told_with_is_where_a_page_may_go_on(self, collector, stream):
        collector.post(ndjson([stream.start(1), stream.step(1, 1)]))
        page = collector.get(f"/api/v1/runs/{run_id(1)}")
        collector.post(ndjson([stream.step(1, 2)]))
        with live(collector, run_id=run_id(1), after=page["revision"]) as reader:
            assert [data.get("step_id") for _, data in reader.commit()[:-1]] == [step_id(2), None]


class TestMuchAtOnce:
    @pytest.mark.parametrize("batches", [1, 5], ids=["one commit", "many commits"])
    def test_more_runs_than_fit_a_page_are_all_told(self, collector, stream, batches):
        starts = [stream.start(number) for number in range(1, 1_501)]
        for part in range(batches):
            collector.post(ndjson(starts[part::batches]))
        told: Counter[str] = Counter()
        with live(collector, after=0) as reader:
            while len(told) < 1_500:
                told.update(run for run, _ in runs_of(reader.commit()))
        assert set(told.values()) == {1}

    @pytest.mark.parametrize("batches", [1, 5], ids=["one commit", "many commits"])
    def test_all_2000_steps_of_a_run_are_told(self, collector, stream, batches):
        records = [stream.step(1, number) for number in range(1, 2_001)]
        for part in range(batches):
            collector.post(ndjson(records[part::batches]))
        told: set[str] = set()
        with live(collector, run_id=run_id(1), after=0) as reader:
            while len(told) < 2_000:
                told.update(data["step_id"] for kind, data in reader.commit() if kind == "step")

    def test_a_commit_between_two_reads_is_told_with_its_run(self, shelf, stream):
        class Overtaken(Queries):
            """Queries while somebody else writes between any two of them."""

            def changed_runs(self, after: int, run_id: str | None = None) -> list[RunSummary]:
                found = super().changed_runs(after, run_id)
                if late:
                    Shelf(shelf.store).send(*late.pop())
                return found

        shelf.send(stream.start(1), stream.step_open(1, 1))
        late = [[stream.step(1, 1), stream.end(1)]]
        queries, after, told = Overtaken(shelf.store), 0, {}
        for _ in range(2):
            events, after = api._events_after(queries, run_id(1), after)
            told.update({kind: data["status"] for kind, data in events})
        assert told == {"step": "completed", "run": "completed"}
        assert api._events_after(queries, run_id(1), after) == ([], after)


class TestQuiet:
    def test_a_quiet_stream_is_kept_open_by_comments(self, collector, monkeypatch):
        monkeypatch.setattr(api, "_KEEP_ALIVE_EVERY", 0.0)
        with live(collector) as reader:
            assert reader.next() == {"comment": "still here"}
            assert reader.next() == {"comment": "still here"}

    def test_readers_hold_no_lock_on_the_database(self, collector, stream):
        with live(collector), live(collector, after=0):
            assert collector.post(ndjson([stream.start(1)])).json()["accepted"] == 1
            connection = sqlite3.connect(collector.home / "collector.db", timeout=PATIENCE)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
