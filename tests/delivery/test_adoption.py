"""What dead processes left: taken over once, accounted for, trimmed, pushed."""

from __future__ import annotations

import json
import os
import time

import pytest

from agent_sdk.delivery import adoption, local_keys, tally
from agent_sdk.delivery.adoption import adopt, everything, fingerprint, is_local, push_orphans, trim
from agent_sdk.delivery.journal import Journal, Manifest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="journals need file locks")


@pytest.fixture
def home(tmp_path):
    return str(tmp_path / "home")


def leave(home, stream="aa", count=3, destination="memory://left", key=None, age_days=0.0):
    journal = Journal.create(home, Manifest(stream, destination, fingerprint(key), 1, time.time()), 10_000)
    journal.append([b'{"type":"step.end","id":"%b-%d"}\n' % (stream.encode(), n + 1) for n in range(count)])
    journal.close()
    old = time.time() - age_days * 86_400
    os.utime(journal.folder, (old, old))
    return journal.folder


def drained(queue):
    lines = []
    while len(queue.journal):
        page = queue.journal.peek(1 << 20, 1000)
        lines += [json.loads(line) for line in page]
        queue.journal.advance(len(page))
    queue.journal.remove()
    return lines


class TestAdoption:
    def test_only_what_is_wanted_is_taken(self, home):
        leave(home, "aa", destination="memory://a")
        leave(home, "bb", destination="memory://b")
        (queue,) = adopt(home, lambda manifest: manifest.destination == "memory://b")
        assert queue.stream == "bb"
        assert len(drained(queue)) == 3

    def test_not_too_many_at_once(self, home):
        for number in range(5):
            leave(home, f"s{number}")
        queues = list(adopt(home, everything, at_once=2))
        assert len(queues) == 2
        for queue in queues:
            queue.journal.close()

    def test_rubbish_is_left_alone(self, home):
        folder = leave(home)
        with open(os.path.join(folder, "manifest.json"), "w") as file:
            file.write("rubbish")
        os.makedirs(os.path.join(home, "journal", "empty"))
        assert list(adopt(home, everything)) == []
        assert list(adopt(home + "-none", everything)) == []

    def test_what_a_killed_process_had_accepted_but_not_written_is_told_once(self, home):
        leave(home, "cafe", count=3)
        shared = tally.Tally.create("cafe")
        if shared is None:
            pytest.skip("no shared memory here")
        shared.view[0] = 10
        (queue,) = adopt(home, everything)
        lines = drained(queue)
        assert lines[-1]["type"] == "loss"
        assert (lines[-1]["id"], lines[-1]["records"], lines[-1]["reason"]) == ("cafe-10", 7, "process died")
        assert tally.read("cafe") is None

    def test_a_process_that_died_with_everything_written_lost_nothing(self, home):
        leave(home, "beef", count=3)
        shared = tally.Tally.create("beef")
        if shared is None:
            pytest.skip("no shared memory here")
        shared.view[0] = 3
        (queue,) = adopt(home, everything)
        assert [line["type"] for line in drained(queue)] == ["step.end"] * 3

    def test_where_the_account_cannot_be_written_it_is_left_for_later(self, home, monkeypatch):
        leave(home)

        def full(*_):
            raise OSError("full")

        monkeypatch.setattr(adoption, "_account_for_the_crash", full)
        assert list(adopt(home, everything)) == []
        monkeypatch.undo()
        (queue,) = adopt(home, everything)
        queue.journal.close()


class TestTrim:
    def test_the_oldest_go_until_the_rest_fits(self, home):
        for number in range(4):
            leave(home, f"s{number}", count=10, age_days=4 - number)
        size = sum(adoption.journals.folder_size(folder) for folder in adoption.journals.journal_folders(home))
        assert trim(home, size // 2 + 10, 99, "none") == 20
        assert sorted(os.listdir(os.path.join(home, "journal"))) == ["s2", "s3"]

    def test_what_is_too_old_goes_however_small(self, home):
        leave(home, "old", age_days=20)
        leave(home, "new", age_days=1)
        assert trim(home, 1 << 40, 14, "none") == 3
        assert os.listdir(os.path.join(home, "journal")) == ["new"]

    def test_ones_own_and_those_of_living_processes_stay(self, home):
        leave(home, "own", age_days=20)
        living = Journal.create(home, Manifest("living", "memory://x", "", 1, 0.0), 1000)
        os.utime(living.folder, (0, 0))
        assert trim(home, 0, 1, "own") == 0
        assert sorted(os.listdir(os.path.join(home, "journal"))) == ["living", "own"]
        living.close()


class TestPush:
    def test_everything_is_delivered_to_where_it_was_meant_to_go(self, home, tmp_path):
        target = tmp_path / "pushed.ndjson"
        leave(home, "aa", destination=f"file://{target}")
        leave(home, "bb", destination=f"file://{target}")
        told = []
        report = push_orphans(home, on_progress=told.append)
        assert report == (2, 6, 0, 0, [])
        assert len(target.read_text().splitlines()) == 6
        assert told[-1] == (6, 0)
        assert os.listdir(os.path.join(home, "journal")) == []

    def test_it_can_be_sent_elsewhere(self, home, tmp_path):
        target = tmp_path / "pushed.ndjson"
        leave(home, destination="http://127.0.0.1:1", key="k")
        assert push_orphans(home, to=f"file://{target}").delivered == 3

    def test_what_cannot_be_delivered_stays_and_says_why(self, home, tmp_path):
        (tmp_path / "file").write_text("")
        leave(home, destination=f"file://{tmp_path}/file/x")
        report = push_orphans(home)
        assert (report.delivered, report.remaining) == (0, 3)
        assert "cannot write" in report.errors[0]
        assert os.listdir(os.path.join(home, "journal")) == ["aa"]

    def test_records_of_another_key_need_that_key(self, home):
        leave(home, destination="http://127.0.0.1:1", key="first")
        report = push_orphans(home)
        assert "give it with --api-key" in report.errors[0]
        assert report.remaining == 3

    def test_an_address_that_is_none_is_said(self, home):
        leave(home, destination="ftp://x")
        assert "no destination is known" in push_orphans(home).errors[0]

    def test_no_time_means_no_delivery_and_no_loss(self, home):
        leave(home)
        assert push_orphans(home, timeout=0.0).remaining == 3

    def test_local_ones_are_told_by_their_address(self):
        assert is_local(Manifest("s", "http://localhost:1", "", 1, 0.0))
        assert not is_local(Manifest("s", "https://example.org", "", 1, 0.0))
        assert not local_keys.is_loopback("http://[bad")


class TestLocalKeys:
    def test_a_key_opens_every_name_of_this_machine_and_no_other_port(self, home):
        local_keys.write(home, "http://127.0.0.1:8790", "k1")
        local_keys.write(home, "http://127.0.0.1:8791", "k2")
        assert local_keys.read(home, "http://localhost:8790/") == "k1"
        assert local_keys.read(home, "http://[::1]:8791") == "k2"
        assert local_keys.read(home, "http://127.0.0.1:1") is None
        assert local_keys.read(home, "http://example.org:8790") is None

    def test_the_file_is_private(self, home):
        local_keys.write(home, "http://127.0.0.1:1", "k")
        assert os.stat(os.path.join(home, "keys.json")).st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("content", ["", "[]", "{", "5"])
    def test_a_broken_file_holds_no_keys_and_is_replaced(self, home, content):
        os.makedirs(home)
        with open(os.path.join(home, "keys.json"), "w") as file:
            file.write(content)
        assert local_keys.read(home, "http://127.0.0.1:1") is None
        local_keys.write(home, "http://127.0.0.1:1", "k")
        assert local_keys.read(home, "http://127.0.0.1:1") == "k"
