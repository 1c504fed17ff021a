"""What was acknowledged is in the database: after kill -9, a restart, a busy disk and beside another writer."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from agent_sdk.collector import Queries, Store, ensure_project
from agent_sdk.collector.ingest import ParsedBatch, parse
from agent_sdk.collector.store import Overloaded
from tests.collector.making import LONG_AGO, PATIENCE, Shelf, Stream, ndjson, run_id, step_id
from tests.support.collector import collector_process, wait_for


@contextmanager
def locked(path: Path):
    """A database whose writer has to wait."""
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


class TestDeath:
    def test_kill_9_right_after_acks_loses_nothing_that_was_acknowledged(self, tmp_path):
        acknowledged: list[int] = []

        def send_until_it_dies(collector, first: int) -> None:
            stream = Stream(first)
            try:
                for number in range(first, first + 10_000):
                    body = ndjson([stream.start(number), stream.step(number, 1, output="x" * 500), stream.end(number)])
                    if collector.post(body).json()["accepted"] == 3:
                        acknowledged.append(number)
            except requests.RequestException:
                pass

        with collector_process(tmp_path) as collector:
            senders = [threading.Thread(target=send_until_it_dies, args=(collector, 10_000 * n)) for n in (1, 2)]
            for sender in senders:
                sender.start()
            wait_for(lambda: len(acknowledged) >= 40, "the collector takes nothing")
            collector.kill()
            for sender in senders:
                sender.join(PATIENCE)
        with collector_process(tmp_path) as again:
            told = {int(run["run_id"][-12:], 16): run for run in again.runs(limit=1000)}
            assert set(acknowledged) <= set(told)
            assert {told[number]["status"] for number in acknowledged} == {"completed"}
            assert {told[number]["step_count"] for number in acknowledged} == {1}
            # What was being written when it died is there as a whole or not at all.
            assert {(run["status"], run["step_count"]) for run in told.values()} == {("completed", 1)}


class TestReopening:
    def test_a_database_that_is_opened_again_has_everything(self, tmp_path):
        path, stream = tmp_path / "collector.db", Stream()
        store = Store(path)
        shelf = Shelf(store)
        records = [
            stream.start(1, input={"q": "ü" * 500}, tags=["t"], metadata={"k": [1, None]}, source={"pid": 7}),
            stream.step(1, 1, output=["x"], error={"type": "E", "message": "m", "stack": "s"}, usage={"cost": 0.5}),
            stream.record("score", LONG_AGO, run_id=run_id(1), name="good", value=True, comment="c"),
            stream.record("loss", LONG_AGO, reason="disk", records=2),
            stream.end(1, output={"a": 1}),
        ]
        shelf.send(*records)
        before = shelf.queries.run(run_id(1)), shelf.queries.step(run_id(1), step_id(1)), shelf.queries.losses()
        store.close()
        store = Store(path)
        shelf = Shelf(store)
        after = shelf.queries.run(run_id(1)), shelf.queries.step(run_id(1), step_id(1)), shelf.queries.losses()
        assert after == before
        assert before[0]["input"] == {"q": "ü" * 500}
        assert shelf.send(*records)[:2] == (0, 5)
        shelf.send(stream.start(2))
        assert shelf.queries.run(run_id(2))["revision"] > before[0]["revision"]
        store.close()

    def test_closing_commits_what_waits(self, tmp_path):
        store, stream = Store(tmp_path / "collector.db"), Stream()
        project = ensure_project(store)
        answers = [store.ingest(ParsedBatch(project, [stream.start(number)], [])) for number in range(1, 51)]
        store.close()
        assert [answer.result(0).accepted for answer in answers] == [1] * 50
        store = Store(tmp_path / "collector.db")
        assert len(Queries(store).list_runs({})["runs"]) == 50
        store.close()

    def test_nobody_else_on_the_machine_may_read_the_files(self, tmp_path):
        folder = tmp_path / "open"
        folder.mkdir(mode=0o755)
        store = Store(folder / "collector.db")
        Shelf(store).send(Stream().start(1))
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        store.close()
        assert set(modes) == {"collector.db", "collector.db-wal", "collector.db-shm"}
        assert set(modes.values()) == {0o600}

    def test_a_folder_that_is_made_is_private(self, tmp_path):
        store = Store(tmp_path / "made" / "collector.db")
        store.close()
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("name", ["what?.db", "100%20.db", "a#b.db", "with space.db"])
    def test_a_path_may_have_any_characters(self, tmp_path, name):
        store = Store(tmp_path / name)
        assert Shelf(store).send(Stream().start(1)).accepted == 1
        store.close()
        assert (tmp_path / name).stat().st_size > 0


class TestBodiesOnDisk:
    def test_the_same_body_is_stored_once_however_often_it_was_sent(self, shelf, stream):
        prompt = {"prompt": "the same " * 1000}
        shelf.send(*(stream.step(1, number, input=prompt) for number in range(1, 101)))
        with shelf.store.read() as connection:
            held = connection.exec_driver_sql("SELECT size, length(data), encoding FROM bodies").fetchall()
        assert len(held) == 1
        size, stored, encoding = held[0]
        assert (encoding, size > 9_000, stored < 500) == ("zlib", True, True)
        assert shelf.queries.step(run_id(1), step_id(100))["input"] == prompt

    def test_a_metadata_that_is_told_in_parts_is_one_across_batches(self, shelf, stream):
        shelf.send(stream.start(1, metadata={"a": 1, "b": 1}))
        shelf.send(stream.end(1, metadata={"b": 2, "c": None}))
        shelf.send(stream.record("run.update", LONG_AGO - 1, run_id=run_id(1), metadata={"a": 0, "d": 4}))
        assert shelf.queries.run(run_id(1))["metadata"] == {"a": 1, "b": 2, "d": 4}


class TestWriters:
    def test_two_stores_on_one_database_take_each_record_once(self, tmp_path):
        stores = [Store(tmp_path / "collector.db") for _ in range(2)]
        project = ensure_project(stores[0])
        streams = [Stream(number) for number in range(1, 4)]
        batches = [
            ndjson(stream.step(1, part * 10 + number) for number in range(1, 6) for stream in streams)
            for part in range(40)
        ]

        def send_all(store: Store) -> int:
            return sum(store.ingest(parse(project, body, 10**6)).result(PATIENCE).accepted for body in batches)

        with ThreadPoolExecutor(2) as pool:
            taken = list(pool.map(send_all, stores))
        with stores[0].read() as connection:
            ranges = connection.exec_driver_sql("SELECT ranges FROM streams").scalars().all()
        count = len(Queries(stores[1]).list_steps(run_id(1))["steps"])
        for store in stores:
            store.close()
        assert sum(taken) == 40 * 15
        assert [json.loads(text) for text in ranges] == [[[1, 200]]] * 3
        assert count == 40 * 5

    def test_two_stores_give_every_commit_a_revision_of_its_own(self, tmp_path):
        stores = [Store(tmp_path / "collector.db") for _ in range(2)]
        project = ensure_project(stores[0])

        def send_all(number: int) -> None:
            stream = Stream(number)
            for part in range(30):
                batch = ParsedBatch(project, [stream.start(number * 100 + part)], [])
                stores[number - 1].ingest(batch).result(PATIENCE)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(send_all, (1, 2)))
        with stores[0].read() as connection:
            revisions = connection.exec_driver_sql("SELECT revision FROM runs").scalars().all()
        for store in stores:
            store.close()
        assert len(revisions) == len(set(revisions)) == 60

    def test_readers_do_not_wait_for_a_writer(self, shelf, stream):
        shelf.send(stream.start(1))
        with locked(shelf.store.path):
            answer = shelf.store.ingest(ParsedBatch(shelf.project, [stream.end(1)], []))
            assert shelf.queries.run(run_id(1))["status"] == "lost"
            assert not answer.done()
        assert answer.result(PATIENCE).accepted == 1
        assert shelf.queries.run(run_id(1))["status"] == "completed"

    def test_a_collector_that_is_behind_answers_503_and_then_takes_everything(self, collector):
        waiting, refused = [], []
        with ThreadPoolExecutor(340) as pool:
            with locked(collector.home / "collector.db"):

                def send(number: int) -> requests.Response:
                    answer = collector.post(ndjson([Stream(number).start(number)]))
                    if answer.status_code == 503:
                        refused.append(answer)
                    return answer

                waiting = [pool.submit(send, number) for number in range(1, 341)]
                wait_for(lambda: refused, "the collector takes any number of batches")
            answers = [answer.result(PATIENCE) for answer in waiting]
        assert refused[0].headers["Retry-After"] == "1"
        assert refused[0].json() == {"detail": "the collector is behind: try again in a second"}
        taken = [answer for answer in answers if answer.status_code == 200]
        assert len(taken) + len(refused) == 340
        assert len(collector.runs(limit=1000)) == len(taken)
        assert collector.post(ndjson([Stream(999).start(999)])).json()["accepted"] == 1

    def test_no_more_batches_wait_than_may(self, shelf, stream):
        batches = [ParsedBatch(shelf.project, [stream.start(number)], []) for number in range(1, 400)]
        answers = []
        with locked(shelf.store.path):
            with pytest.raises(Overloaded):
                for batch in batches:
                    answers.append(shelf.store.ingest(batch))
            assert len(answers) >= 256
        assert [answer.result(PATIENCE).accepted for answer in answers] == [1] * len(answers)

    def test_a_batch_that_fails_does_not_fail_its_neighbours(self, shelf, stream):
        broken = ParsedBatch(shelf.project, [{"type": "run.start"}], [])
        with locked(shelf.store.path):
            before = shelf.store.ingest(ParsedBatch(shelf.project, [stream.start(1)], []))
            fails = shelf.store.ingest(broken)
            after = shelf.store.ingest(ParsedBatch(shelf.project, [stream.start(2)], []))
        assert (before.result(PATIENCE).accepted, after.result(PATIENCE).accepted) == (1, 1)
        assert isinstance(fails.exception(PATIENCE), KeyError)
        assert shelf.listed() == [2, 1]

    def test_a_sender_that_goes_away_does_not_stop_the_writer(self, shelf, stream):
        broken = ParsedBatch(shelf.project, [{"type": "run.start"}], [])
        with locked(shelf.store.path):
            gone = [shelf.store.ingest(ParsedBatch(shelf.project, [stream.start(1)], [])), shelf.store.ingest(broken)]
            assert [answer.cancel() for answer in gone] == [True, True]
        assert shelf.send(stream.start(2)).accepted == 1
        assert shelf.listed() == [2, 1]


class TestLargeRuns:
    def test_a_run_with_2000_steps_is_kept_and_read_in_full(self, collector, stream):
        body = ndjson(
            [
                stream.start(1, agent="large"),
                *(
                    stream.step(
                        1,
                        number,
                        at=LONG_AGO + number,
                        parent_step_id=step_id(number // 2) if number > 1 else None,
                        input={"n": number},
                        usage={"input_tokens": 1, "output_tokens": 2},
                        model=f"model-{number % 3}",
                        status="failed" if number % 100 == 0 else "completed",
                    )
                    for number in range(1, 2_001)
                ),
                stream.end(1, at=LONG_AGO + 3_000),
            ]
        )
        assert collector.post(body).json()["accepted"] == 2_002
        run = collector.get(f"/api/v1/runs/{run_id(1)}")
        assert (run["step_count"], run["failed_steps"], run["open_steps"]) == (2_000, 20, 0)
        assert (run["total_tokens"], run["models"]) == (6_000, ["model-0", "model-1", "model-2"])
        assert [step["step_id"] for step in collector.steps(run_id(1))] == [step_id(n) for n in range(1, 2_001)]
        for number in (1, 1_000, 2_000):
            assert collector.get(f"/api/v1/runs/{run_id(1)}/steps/{step_id(number)}")["input"] == {"n": number}
