"""What the sender does with each answer: batches, splits, bisection, backoff. No thread, no time, no network."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_sdk.delivery.destinations.base import (
    DELIVERED,
    REFUSED,
    RETRY,
    TOO_LARGE,
    UNAUTHORIZED,
    BatchLimits,
    Outcome,
    Rejection,
)
from agent_sdk.delivery.ledger import Ledger
from agent_sdk.delivery.memory_journal import MemoryJournal
from agent_sdk.delivery.sender import READY_BYTES, Queue, Sender

from .scripted import Clock, Scripted


def line(number, size=0):
    return b'{"type":"step.end","id":"s-%d","pad":"%b"}\n' % (number, b"x" * size)


def queue_of(count, size=0):
    journal = MemoryJournal(1 << 40)
    journal.append([line(number, size) for number in range(count)])
    return Queue(journal, Ledger(), "s")


class Bench:
    """A sender with one queue, a scripted destination, and a clock that stands still."""

    def __init__(self, tmp_path, *answers, count=10, size=0):
        self.clock = Clock()
        self.destination = Scripted(*answers)
        self.home = str(tmp_path / "home")
        self.queue = queue_of(count, size)
        self.sender = Sender(self.destination, self.home, 0.5, 10.0, self.clock, lambda low, high: high)

    def turn(self, eager=True, **options):
        return self.sender.turn([self.queue], eager, **options)

    def drain(self):
        for _ in range(1000):
            if self.turn() is None:
                return
        raise AssertionError("it never ends")

    @property
    def ledger(self):
        return self.queue.ledger


class TestBatches:
    def test_everything_goes_in_one_batch(self, tmp_path):
        bench = Bench(tmp_path)
        bench.drain()
        assert bench.destination.batches == [[line(number) for number in range(10)]]
        assert (bench.ledger.delivered, len(bench.queue.journal)) == (10, 0)
        assert bench.sender.has_delivered

    def test_nothing_waits_means_no_turn(self, tmp_path):
        assert Bench(tmp_path, count=0).turn() is None

    def test_a_batch_lingers_for_company_unless_it_is_eager_or_large(self, tmp_path):
        bench = Bench(tmp_path)
        assert bench.turn(eager=False) == 0.5
        bench.clock.now += 0.3
        assert bench.turn(eager=False) == pytest.approx(0.2)
        assert bench.destination.batches == []
        bench.clock.now += 0.2
        bench.turn(eager=False)
        assert len(bench.destination.batches) == 1
        large = Bench(tmp_path, count=2, size=READY_BYTES)
        large.turn(eager=False)
        assert len(large.destination.batches) == 1

    def test_a_page_stays_within_the_limits_of_the_destination(self, tmp_path):
        bench = Bench(tmp_path, Outcome(DELIVERED, limits=BatchLimits(10_000, 3, 5_000)))
        bench.sender._records_at_once = 2
        bench.drain()
        assert [len(batch) for batch in bench.destination.batches] == [2, 3, 3, 2]

    def test_the_first_queue_with_records_goes_first(self, tmp_path):
        bench = Bench(tmp_path, count=0)
        second = queue_of(2)
        bench.sender.turn([bench.queue, second], True)
        assert second.ledger.delivered == 2

    def test_a_request_gets_the_nearer_deadline(self, tmp_path):
        bench = Bench(tmp_path, Outcome(RETRY))
        bench.turn(deadline=1003.0)
        bench.sender.forgive()
        bench.turn(deadline=2000.0)
        assert bench.destination.deadlines == [1003.0, 1010.0]

    def test_without_time_no_request_is_made(self, tmp_path):
        bench = Bench(tmp_path)
        bench.turn(deadline=1000.0)
        assert bench.destination.batches == []
        assert "no time left" in bench.sender.trouble
        assert len(bench.queue.journal) == 10


class TestRejections:
    def test_a_rejected_record_is_kept_aside_and_counted_once(self, tmp_path):
        bench = Bench(tmp_path, Outcome(DELIVERED, rejected=(Rejection(3, "no name"),)))
        bench.drain()
        assert bench.ledger.delivered == 9
        assert bench.ledger.dropped() == {"rejected by the destination": 1}
        assert not bench.ledger.has_unreported, "the destination knows already"
        (name,) = os.listdir(tmp_path / "home" / "quarantine")
        kept = (tmp_path / "home" / "quarantine" / name).read_bytes()
        assert b'"reason": "no name"' in kept
        assert b'"id":"s-3"' in kept

    @given(st.sets(st.integers(0, 29), max_size=6), st.sampled_from([REFUSED, TOO_LARGE]))
    def test_bisection_finds_exactly_the_bad_records(self, bad, kind):
        import tempfile
        from pathlib import Path

        def judge(lines):
            hit = any(line(number) in lines for number in bad)
            return Outcome(kind, "bad") if hit else Outcome(DELIVERED)

        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), *[judge] * 500, count=30)
            bench.drain()
            assert bench.destination.delivered == [line(number) for number in range(30) if number not in bad]
            assert bench.ledger.delivered == 30 - len(bad)
            assert sum(bench.ledger.dropped().values()) == len(bad)

    def test_a_loss_record_that_is_refused_is_not_told_again(self, tmp_path):
        bench = Bench(tmp_path, Outcome(REFUSED, "no"), count=0)
        bench.queue.journal.append([b'{"type":"loss","records":3,"id":"s-1"}\n'])
        bench.drain()
        assert not bench.ledger.has_unreported

    def test_a_destination_that_refuses_everything_is_to_blame_itself(self, tmp_path):
        bench = Bench(tmp_path, *[Outcome(REFUSED, "no")] * 500, count=100)
        for _ in range(200):
            if bench.sender.trouble:
                break
            bench.turn()
        assert bench.sender.trouble == "no"
        assert len(bench.queue.journal) >= 80, "at most twenty records are given up on its word"

    def test_too_large_pages_make_the_next_ones_smaller_and_success_lets_them_grow(self, tmp_path):
        bench = Bench(tmp_path, Outcome(TOO_LARGE), count=10_000)
        bench.turn()
        bench.drain()
        sizes = [len(batch) for batch in bench.destination.batches]
        assert sizes[:3] == [5000, 2500, 2500]
        assert sizes[3] < 5000
        assert bench.ledger.delivered == 10_000

    def test_a_full_disk_does_not_stop_a_rejection(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("agent_sdk.delivery.journal.quarantine", full)
        bench = Bench(tmp_path, Outcome(DELIVERED, rejected=(Rejection(0, "no"),)))
        bench.drain()
        assert sum(bench.ledger.dropped().values()) == 1


class TestBackoff:
    def test_it_doubles_up_to_half_a_minute_and_ends_with_success(self, tmp_path):
        bench = Bench(tmp_path, *[Outcome(RETRY, "down")] * 10)
        waits = []
        for _ in range(10):
            waits.append(bench.turn())
            bench.clock.now += waits[-1]
        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]
        assert bench.sender.trouble == "down"
        assert bench.sender.failed_attempts == 10
        bench.drain()
        assert bench.sender.trouble == ""
        assert bench.ledger.delivered == 10

    def test_the_wait_is_a_random_share_of_its_bound(self, tmp_path):
        bench = Bench(tmp_path, *[Outcome(RETRY)] * 2)
        drawn = []
        bench.sender._uniform = lambda low, high: drawn.append((low, high)) or high / 4
        assert bench.turn() == 0.25
        assert drawn == [(0.0, 1.0)]

    def test_nothing_is_sent_while_it_waits_even_eagerly(self, tmp_path):
        bench = Bench(tmp_path, Outcome(RETRY))
        bench.turn()
        bench.turn()
        assert len(bench.destination.batches) == 1

    def test_a_flush_is_forgiven_the_backoff_but_not_what_the_server_asked_for(self, tmp_path):
        bench = Bench(tmp_path, Outcome(RETRY), Outcome(RETRY, retry_after=60.0))
        bench.turn()
        bench.sender.forgive()
        assert bench.turn() == 60.0
        bench.sender.forgive()
        assert bench.turn() == 60.0
        assert len(bench.destination.batches) == 2
        bench.clock.now += 60
        bench.drain()
        assert bench.ledger.delivered == 10

    def test_a_wrong_key_is_tried_rarely(self, tmp_path):
        bench = Bench(tmp_path, *[Outcome(UNAUTHORIZED, "key")] * 10)
        waits = []
        for _ in range(7):
            waits.append(bench.turn())
            bench.clock.now += waits[-1]
        assert waits == [20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
        assert len(bench.queue.journal) == 10

    def test_a_destination_that_raises_counts_as_down(self, tmp_path):
        bench = Bench(tmp_path, RuntimeError("bug"))
        bench.turn()
        assert bench.sender.trouble == "the destination failed: RuntimeError: bug"
        assert len(bench.queue.journal) == 10

    def test_trouble_is_said_once_and_its_end_too(self, tmp_path, caplog):
        bench = Bench(tmp_path, *[Outcome(RETRY, "no collector: start one")] * 5)
        for _ in range(5):
            bench.clock.now += bench.turn()
        bench.drain()
        said = [record.getMessage() for record in caplog.records]
        assert said == [
            "agent-sdk: no collector: start one",
            "agent-sdk: records are being delivered again (it had failed 5 times)",
        ]


def test_what_cannot_be_read_is_given_up_and_counted(tmp_path):
    class Torn(MemoryJournal):
        def peek(self, *_):
            raise OSError("torn")

        def forget_unreadable(self):
            lost = len(self)
            self.advance(lost)
            return lost

    journal = Torn(1 << 20)
    journal.append([line(1), line(2)])
    bench = Bench(tmp_path)
    queue = Queue(journal, Ledger(), "s")
    bench.sender.turn([queue], True)
    assert bench.sender.turn([queue], True) is None
    assert queue.ledger.dropped() == {"journal lost": 2}
    assert queue.ledger.take_unreported() == {"journal lost": 2}


@given(
    st.lists(
        st.sampled_from(
            [
                Outcome(RETRY, "down"),
                Outcome(RETRY, "busy", retry_after=7.0),
                Outcome(UNAUTHORIZED, "key"),
                Outcome(TOO_LARGE, "big"),
                Outcome(REFUSED, "no"),
                Outcome(DELIVERED, rejected=(Rejection(0, "bad"),)),
                Outcome(DELIVERED),
                RuntimeError("bug"),
            ]
        ),
        max_size=60,
    ),
    st.integers(0, 60),
)
def test_whatever_it_answers_every_record_is_accounted_for_once(answers, count):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), *answers, count=count)
        for _ in range(500):
            wait = bench.turn()
            dropped = sum(bench.ledger.dropped().values())
            assert bench.ledger.delivered + dropped + len(bench.queue.journal) == count
            if wait is None:
                break
            bench.clock.now += wait
        assert len(bench.queue.journal) == 0
        assert len(bench.destination.delivered) == len(set(bench.destination.delivered)) == bench.ledger.delivered
