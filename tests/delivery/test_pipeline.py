"""Buffer, writer, threads and ledger together, with a destination that is told what to do."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time

import pytest

from agent_sdk.delivery import Delivery, registry
from agent_sdk.delivery.buffer import Buffer
from agent_sdk.delivery.destinations.base import DELIVERED, RETRY, Outcome, Rejection
from agent_sdk.delivery.ledger import FlushResult, Ledger
from agent_sdk.delivery.memory_journal import MemoryJournal
from agent_sdk.delivery.pipeline import Pipeline
from agent_sdk.delivery.writer import Note, Writer, loss
from tests.support.collector import wait_for

from .scripted import Hanging, Scripted

DOWN = Outcome(RETRY, "down")


class Record:
    """What a handle is to delivery."""

    def __init__(self, name="r", size=100, body=b"", redactor=None):
        self.name = name
        self.size = size + len(body)
        self.body = body
        self.redactor = redactor
        self.was_shed = False

    def encode(self, record_id):
        if isinstance(self.name, Exception):
            raise self.name
        return (
            json.dumps({"type": "step.end", "id": record_id, "name": self.name, "body": len(self.body)}).encode()
            + b"\n"
        )

    def shed(self):
        self.was_shed = True
        self.size -= len(self.body)
        self.body = b""


@pytest.fixture
def make(tmp_path):
    made = []

    def make(destination=None, **settings):
        settings = {"home": str(tmp_path / "home"), "flush_interval": 0.02, "commit_interval": 0.001, **settings}
        pipeline = Pipeline(Delivery(**settings), destination or Scripted())
        pipeline.users = 1
        made.append(pipeline)
        return pipeline

    yield make
    for pipeline in made:
        pipeline._destination.abort()
        pipeline.end(0.5)


def names(destination):
    return [record["name"] for record in destination.records if record["type"] == "step.end"]


class TestBuffer:
    def test_it_takes_and_gives_in_order(self):
        buffer = Buffer(10_000, 10)
        records = [Record(str(n)) for n in range(5)]
        for record in records:
            buffer.append(record)
        assert (len(buffer), buffer.accepted, buffer.refused) == (5, 5, 0)
        assert buffer.drain() == records
        assert (len(buffer), buffer.accepted) == (0, 5)

    def test_short_of_memory_records_lose_their_bodies_first_then_their_place(self):
        buffer = Buffer(1000, 100)
        records = [Record(body=b"x" * 400) for _ in range(12)]
        for record in records:
            buffer.append(record)
        assert [record.was_shed for record in records] == [False] + [True] * 11
        assert 0 < buffer.refused < 10
        assert buffer.accepted + buffer.refused == 12
        buffer.drain()
        late = Record(body=b"x" * 400)
        buffer.append(late)
        assert not late.was_shed

    def test_their_number_is_bounded_too(self):
        buffer = Buffer(1 << 30, 3)
        for _ in range(5):
            buffer.append(Record())
        assert (len(buffer), buffer.refused) == (3, 2)

    def test_many_threads_lose_no_count(self):
        buffer = Buffer(1 << 30, 50_000)
        drained = []
        stop = threading.Event()

        def record():
            for _ in range(10_000):
                buffer.append(Record())

        def drain():
            while not stop.is_set() or len(buffer):
                drained.extend(buffer.drain())

        reader = threading.Thread(target=drain)
        reader.start()
        writers = [threading.Thread(target=record) for _ in range(4)]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        reader.join()
        assert buffer.accepted + buffer.refused == 40_000
        assert len(drained) == buffer.accepted


class TestWriter:
    def writer(self, **changes):
        self.buffer, self.ledger = Buffer(1 << 20, 1000), Ledger()
        self.memory = MemoryJournal(1 << 20)
        return Writer("s", self.buffer, self.ledger, self.memory, changes.get("opener"), 1 << 20)

    def lines(self):
        return [json.loads(line) for line in self.memory.peek(1 << 20, 1000)]

    def test_ids_are_dense_in_the_order_of_the_records(self):
        writer = self.writer()
        for name in "abc":
            self.buffer.append(Record(name))
        assert writer.commit() == 3
        assert [(line["id"], line["name"]) for line in self.lines()] == [("s-1", "a"), ("s-2", "b"), ("s-3", "c")]

    def test_a_record_that_cannot_be_encoded_leaves_a_loss_in_its_place(self):
        writer = self.writer()
        for name in ("a", RuntimeError("bug"), "c"):
            self.buffer.append(Record(name))
        writer.commit()
        assert [line["type"] for line in self.lines()] == ["step.end", "loss", "step.end"]
        assert [line["id"] for line in self.lines()] == ["s-1", "s-2", "s-3"]
        assert self.ledger.dropped() == {"encoding failed": 1}
        assert not self.ledger.has_unreported
        assert writer.replaced == 1

    @pytest.mark.parametrize("answer", [RuntimeError("bug"), []])
    def test_what_could_not_be_redacted_is_withheld(self, answer):
        class Redactor:
            def redact(self, lines):
                if isinstance(answer, Exception):
                    raise answer
                return answer

        writer = self.writer()
        for record in (Record("a"), Record("secret", redactor=Redactor()), Record("c")):
            self.buffer.append(record)
        writer.commit()
        assert [line["name"] for line in self.lines()] == ["a", "c"]
        assert self.ledger.take_unreported() == {"redaction failed": 1}

    def test_a_disk_that_refuses_leaves_records_in_memory_and_is_tried_again(self, monkeypatch, caplog):
        tries = []

        def opener():
            tries.append(1)
            raise OSError(errno.EROFS, "Read-only file system")

        now = [0.0]
        monkeypatch.setattr("agent_sdk.delivery.writer.time.monotonic", lambda: now[0])
        writer = self.writer(opener=opener)
        for _ in range(3):
            self.buffer.append(Record())
            writer.commit()
        assert (len(tries), len(self.memory)) == (1, 3)
        now[0] = 2.0
        self.buffer.append(Record())
        writer.commit()
        assert len(tries) == 2
        assert [record.getMessage() for record in caplog.records] == [
            "agent-sdk: the journal cannot be written ([Errno 30] Read-only file system): "
            "records are kept in memory meanwhile"
        ]

    def test_memory_that_is_full_counts_what_it_refuses(self):
        writer = self.writer()
        self.memory._max_bytes = 150
        for _ in range(5):
            self.buffer.append(Record())
        writer.commit()
        assert self.ledger.dropped() == {"memory full": 5 - len(self.memory)}

    def test_a_commit_inside_a_commit_leaves_the_record_to_it(self):
        writer = self.writer()
        inner = []

        class Reentrant(Record):
            def encode(self, record_id):
                inner.append(writer.commit())
                return Record.encode(self, record_id)

        self.buffer.append(Reentrant())
        assert writer.commit() == 1
        assert inner == [0]

    def test_an_unexpected_failure_is_counted(self, monkeypatch):
        writer = self.writer()
        monkeypatch.setattr(writer, "_store", lambda lines: 1 / 0)
        self.buffer.append(Record())
        writer.commit()
        assert self.ledger.dropped() == {"internal error": 1}
        assert writer.in_hand == 0

    def test_notes_have_no_bodies(self):
        note = loss("why", 3)
        note.shed()
        assert isinstance(note, Note)
        assert json.loads(note.encode("s-1"))["records"] == 3


class TestDelivery:
    def test_records_arrive_by_themselves(self, make):
        destination = Scripted()
        pipeline = make(destination)
        for name in "abc":
            pipeline.submit(Record(name))
        wait_for(lambda: names(destination) == ["a", "b", "c"], "they do not arrive")
        wait_for(lambda: pipeline.stats().complete, "they are not counted")
        assert pipeline.stats() == FlushResult(3, 3, 0, 0, {})

    def test_flush_delivers_at_once(self, make):
        destination = Scripted()
        pipeline = make(destination, flush_interval=60.0, commit_interval=30.0)
        pipeline.submit(Record())
        start = time.monotonic()
        assert pipeline.flush(20.0) == FlushResult(1, 1, 0, 0, {})
        assert time.monotonic() - start < 5

    def test_flush_without_records_starts_nothing(self, make, tmp_path):
        before = len(sys._current_frames())
        assert make().flush() == FlushResult(0, 0, 0, 0, {})
        assert len(sys._current_frames()) == before
        assert not (tmp_path / "home").exists()

    def test_flush_returns_early_when_an_attempt_failed_and_all_is_on_disk(self, make):
        pipeline = make(Scripted(*[DOWN] * 1000))
        pipeline.submit(Record())
        start = time.monotonic()
        result = pipeline.flush(20.0)
        assert time.monotonic() - start < 5
        assert (result.journaled, result.delivered, result.balanced) == (1, 0, True)
        assert pipeline.trouble == "down"

    def test_flush_ends_in_time_when_the_destination_hangs(self, make):
        destination = Hanging()
        pipeline = make(destination)
        pipeline.submit(Record())
        destination.entered.wait(20)
        start = time.monotonic()
        result = pipeline.flush(0.1)
        assert 0.05 < time.monotonic() - start < 2
        assert (result.recorded, result.delivered, result.balanced) == (1, 0, True)

    def test_an_outage_loses_nothing_and_keeps_the_order(self, make):
        destination = Scripted(DOWN, DOWN)
        pipeline = make(destination)
        for number in range(20):
            pipeline.submit(Record(str(number)))
        for _ in range(3):
            pipeline.flush(10.0)
        assert names(destination) == [str(number) for number in range(20)]
        assert pipeline.stats().complete

    def test_closing_delivers_ends_the_threads_and_leaves_no_file(self, make, tmp_path):
        before = len(sys._current_frames())
        destination = Scripted()
        pipeline = make(destination)
        pipeline.submit(Record())
        assert pipeline.close().complete
        wait_for(lambda: len(sys._current_frames()) <= before, "a thread is left")
        assert list((tmp_path / "home" / "journal").iterdir()) == []
        assert destination.closed
        assert not os.path.exists(f"/dev/shm/agent-sdk-{pipeline.stream}")

    def test_closing_while_the_destination_hangs_ends_in_time_and_leaves_the_journal(self, make, tmp_path):
        destination = Hanging()
        pipeline = make(destination)
        pipeline.submit(Record())
        destination.entered.wait(20)
        start = time.monotonic()
        result = pipeline.close(0.1)
        assert time.monotonic() - start < 2
        assert (result.journaled, result.pending, result.balanced) == (1, 0, True)
        (folder,) = (tmp_path / "home" / "journal").iterdir()
        assert b'"step.end"' in (folder / "000001.ndjson").read_bytes()

    def test_records_after_the_end_go_to_the_disk(self, make, tmp_path):
        pipeline = make(Scripted(*[DOWN] * 100))
        pipeline.submit(Record("before"))
        pipeline.close(0.1)
        pipeline.submit(Record("after"))
        pipeline._leave_journal()
        kept = b"".join(path.read_bytes() for path in (tmp_path / "home" / "journal").glob("*/*.ndjson"))
        assert b'"before"' in kept
        assert b'"after"' in kept
        assert pipeline.stats().balanced

    def test_without_a_disk_what_is_left_at_the_end_is_counted_as_lost(self, make):
        pipeline = make(Scripted(*[DOWN] * 100), durability="memory")
        pipeline.submit(Record())
        result = pipeline.close(0.1)
        assert result.dropped["not delivered before exit"] >= 1
        assert result.balanced
        pipeline.submit(Record())
        assert pipeline.stats().balanced

    def test_strict_writes_before_the_call_returns(self, make, tmp_path):
        pipeline = make(Hanging(), durability="strict", commit_interval=60.0)
        pipeline.submit(Record("strict"))
        (folder,) = (tmp_path / "home" / "journal").iterdir()
        assert b'"strict"' in (folder / "000001.ndjson").read_bytes()

    def test_drops_are_told_to_the_destination(self, make):
        destination = Scripted()
        pipeline = make(destination, buffer_records=5, commit_interval=0.5)
        for _ in range(50):
            pipeline.submit(Record())
        pipeline.flush()
        result = pipeline.flush()
        told = [record for record in destination.records if record["type"] == "loss"]
        assert sum(record["records"] for record in told) == sum(result.dropped.values()) > 0
        assert {record["reason"] for record in told} == {"buffer full"}
        assert result.balanced

    def test_a_journal_over_its_cap_sheds_bodies_then_its_oldest_records(self, make):
        destination = Scripted(*[DOWN] * 10_000)
        pipeline = make(destination, journal_bytes=40_000, durability="strict")
        for number in range(2000):
            pipeline.submit(Record(str(number), body=b"x"))
        result = pipeline.stats()
        assert pipeline._writer.journal.size < 50_000
        assert result.dropped["journal full"] > 500
        assert result.balanced
        destination.answers.clear()
        for _ in range(5):
            pipeline.flush(10)
        kept = names(destination)
        assert kept[-1] == "1999"
        assert pipeline.stats().balanced

    def test_rejected_records_are_counted(self, make):
        destination = Scripted(Outcome(DELIVERED, rejected=(Rejection(0, "no"),)))
        pipeline = make(destination)
        pipeline.submit(Record())
        assert pipeline.flush().dropped == {"rejected by the destination": 1}

    def test_where_no_thread_can_be_had_the_flush_does_the_work(self, make, monkeypatch):
        def refuse(*_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("agent_sdk.delivery.loops.start_thread", refuse)
        destination = Scripted()
        pipeline = make(destination)
        pipeline.submit(Record("a"))
        assert pipeline.flush(5).complete
        assert names(destination) == ["a"]
        down = make(Scripted(*[DOWN] * 100), home=make().delivery.home + "2")
        down.submit(Record("b"))
        assert down.flush(5).journaled == 1

    def test_a_signal_handler_may_record_at_any_moment(self, make):
        destination = Scripted()
        pipeline = make(destination)
        taken = []

        def handler(*_):
            pipeline.submit(Record("signal"))
            taken.append(1)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for _ in range(3000):
                pipeline.submit(Record("main"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert pipeline.flush(10).complete
        assert names(destination).count("signal") == len(taken) > 0
        assert names(destination).count("main") == 3000

    def test_a_record_is_never_left_without_a_wake_up(self, make):
        destination = Scripted()
        pipeline = make(destination, flush_interval=0.001, commit_interval=0.0001)
        for number in range(300):
            pipeline.submit(Record(str(number)))
            if number % 3 == 0:
                wait_for(lambda: len(destination.delivered) >= pipeline.stats().recorded, f"{number} sleeps", 10)

    def test_a_writer_that_fails_goes_on(self, make, monkeypatch):
        monkeypatch.setattr("agent_sdk.delivery.loops._PAUSE_AFTER_FAILURE", 0.01)
        destination = Scripted()
        pipeline = make(destination)

        class Broken:
            busy = True
            calls = 0

            def report(self, now):
                Broken.calls += 1
                raise RuntimeError("bug")

            def open_runs(self):
                return []

            def release_held(self):
                pass

        pipeline.add_reporter(Broken())
        pipeline.submit(Record("a"))
        wait_for(lambda: Broken.calls > 2, "it stopped")
        pipeline.remove_reporter(pipeline._writing.reporters[0])
        wait_for(lambda: names(destination) == ["a"], "it does not arrive")

    def test_heartbeats_tell_which_runs_are_alive(self, make):
        destination = Scripted()
        pipeline = make(destination, heartbeat_interval=0.02)

        class Reporter:
            busy = True

            def report(self, now):
                return []

            def open_runs(self):
                return ["run-1"]

            def release_held(self):
                pass

        pipeline.add_reporter(Reporter())
        pipeline.submit(Record())
        wait_for(lambda: sum(r["type"] == "heartbeat" for r in destination.records) > 2, "no heartbeat")
        beat = next(record for record in destination.records if record["type"] == "heartbeat")
        assert (beat["runs"], beat["interval"]) == (["run-1"], 0.02)
        assert beat["ledger"]["recorded"] >= 1


class TestSharing:
    def test_equal_settings_share_a_pipeline_and_its_last_user_ends_it(self, tmp_path):
        settings = Delivery(destination="memory://shared", home=str(tmp_path))
        first, second = registry.open_pipeline(settings), registry.open_pipeline(settings)
        assert first is second
        assert registry.open_pipeline(settings._replace(flush_interval=9.0)) is not first
        first.submit(Record())
        assert first.close().complete
        assert registry.open_pipeline(settings) is first
        first.close()
        second.close()
        assert registry.open_pipeline(settings) is not first

    def test_a_pipeline_that_is_released_delivers_and_ends_by_itself(self, tmp_path):
        before = len(sys._current_frames())
        destination = Scripted()
        pipeline = registry.open_pipeline(Delivery(home=str(tmp_path), flush_interval=0.01), destination)
        pipeline.submit(Record("last"))
        pipeline.release()
        wait_for(lambda: names(destination) == ["last"], "it does not arrive")
        wait_for(lambda: len(sys._current_frames()) <= before, "a thread is left")
        assert list((tmp_path / "journal").iterdir()) == []

    def test_a_thousand_trackers_leave_nothing_behind(self, tmp_path):
        import gc

        import agent_sdk

        before = len(sys._current_frames())
        for number in range(1000):
            tracker = agent_sdk.create_tracker(base_url=f"memory://t{number % 5}", home=str(tmp_path))
            tracker.track_run("a").end()
            if number % 2:
                tracker.close()
        del tracker
        gc.collect()
        wait_for(lambda: len(sys._current_frames()) <= before, "threads are left")
        assert not [pipeline for key, pipeline in registry._pipelines.items() if key[0].home == str(tmp_path)]
        assert list((tmp_path / "journal").iterdir()) == []

    def test_an_address_that_is_none_raises(self):
        with pytest.raises(ValueError, match="no destination is known"):
            registry.open_pipeline(Delivery(destination="ftp://x"))
