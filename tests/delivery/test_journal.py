"""The journal on a real disk: whole records, in order, once; torn, deleted, locked, linked, full."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_sdk.delivery import journal as journals
from agent_sdk.delivery.journal import Journal, Manifest, quarantine, read_manifest
from agent_sdk.delivery.memory_journal import MemoryJournal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="journals need file locks")


def manifest(stream="abc", **changes):
    return Manifest(stream, "http://127.0.0.1:1", "", os.getpid(), time.time())._replace(**changes)


def line(number):
    return b'{"type":"step.end","id":"abc-%d"}\n' % number


@pytest.fixture
def journal(tmp_path):
    made = Journal.create(str(tmp_path), manifest(), 1000)
    yield made
    made.close()


class TestQueue:
    def test_records_come_back_in_order_until_they_are_acknowledged(self, journal):
        journal.append([line(1), line(2)])
        journal.append([line(3)])
        assert journal.peek(10_000, 2) == [line(1), line(2)]
        assert journal.peek(10_000, 10) == [line(1), line(2), line(3)]
        journal.advance(2)
        assert journal.peek(10_000, 10) == [line(3)]
        assert (len(journal), journal.waiting_bytes) == (1, len(line(3)))

    def test_a_page_has_at_least_one_record_however_large(self, journal):
        large = b'{"a":"' + b"x" * 5000 + b'"}\n'
        journal.append([large, line(1)])
        assert journal.peek(10, 10) == [large]

    def test_segments_roll_over_and_go_when_they_are_acknowledged(self, journal):
        for number in range(200):
            journal.append([line(number)])
        files = [name for name in os.listdir(journal.folder) if name.endswith(".ndjson")]
        assert len(files) > 4
        seen = []
        while len(journal):
            page = journal.peek(10_000, 7)
            seen += page
            journal.advance(len(page))
        assert seen == [line(number) for number in range(200)]
        assert len([name for name in os.listdir(journal.folder) if name.endswith(".ndjson")]) == 1

    def test_the_oldest_segment_that_is_not_being_read_can_be_given_up(self, journal):
        for number in range(200):
            journal.append([line(number)])
        journal.peek(10_000, 3)
        before, size = len(journal), journal.size
        dropped = journal.drop_oldest()
        assert dropped > 0
        assert len(journal) == before - dropped
        assert journal.size < size
        assert journal.peek(10_000, 1) == [line(0)]

    def test_a_journal_of_two_segments_gives_up_nothing(self, journal):
        journal.append([line(1)])
        assert journal.drop_oldest() == 0


class TestOwners:
    def test_files_are_private(self, journal):
        journal.append([line(1)])
        journal.peek(100, 1)
        journal.advance(1)
        assert stat.S_IMODE(os.stat(journal.folder).st_mode) == 0o700
        assert stat.S_IMODE(os.stat(os.path.dirname(journal.folder)).st_mode) == 0o700
        for name in os.listdir(journal.folder):
            assert stat.S_IMODE(os.stat(os.path.join(journal.folder, name)).st_mode) == 0o600, name

    def test_a_living_owner_keeps_its_journal(self, journal):
        assert Journal.adopt(journal.folder) is None

    def test_a_journal_that_was_left_is_adopted_where_it_stood(self, journal):
        journal.append([line(number) for number in range(10)])
        journal.peek(10_000, 4)
        journal.advance(4)
        journal.close()
        adopted = Journal.adopt(journal.folder)
        assert adopted.peek(10_000, 100) == [line(number) for number in range(4, 10)]
        assert (len(adopted), adopted.last_number()) == (6, 9)
        adopted.remove()
        assert not os.path.exists(journal.folder)
        assert Journal.adopt(journal.folder) is None

    def test_a_torn_last_line_is_cut(self, journal):
        journal.append([line(1), line(2)])
        journal.close()
        with open(os.path.join(journal.folder, "000001.ndjson"), "ab") as file:
            file.write(b'{"type":"step.end","id":"ab')
        adopted = Journal.adopt(journal.folder)
        assert adopted.peek(10_000, 10) == [line(1), line(2)]
        adopted.append([line(3)])
        adopted.advance(2)
        assert adopted.peek(10_000, 10) == [line(3)]
        adopted.close()

    @pytest.mark.parametrize("cursor", [b"", b"x y", b"000009 000000000000", b"000001 999999999999", b"garbage" * 20])
    def test_a_corrupted_cursor_costs_duplicates_at_most(self, journal, cursor):
        journal.append([line(1), line(2)])
        journal.close()
        with open(os.path.join(journal.folder, "cursor"), "wb") as file:
            file.write(cursor)
        adopted = Journal.adopt(journal.folder)
        assert set(adopted.peek(10_000, 10)) <= {line(1), line(2)}
        adopted.close()

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 99}', '{"stream": 1}', "null"])
    def test_a_manifest_that_cannot_be_read_leaves_the_journal_alone(self, journal, content):
        journal.close()
        with open(os.path.join(journal.folder, "manifest.json"), "w") as file:
            file.write(content)
        assert Journal.adopt(journal.folder) is None
        with pytest.raises((ValueError, TypeError)):
            read_manifest(journal.folder)
        assert os.path.exists(journal.folder)

    def test_unknown_fields_of_a_manifest_are_left_out(self, journal):
        path = os.path.join(journal.folder, "manifest.json")
        with open(path) as file:
            found = json.load(file)
        with open(path, "w") as file:
            json.dump({**found, "new": 1}, file)
        assert read_manifest(journal.folder).stream == "abc"

    def test_only_one_of_two_processes_adopts(self, journal):
        journal.append([line(1)])
        journal.close()
        program = (
            "import sys; from agent_sdk.delivery.journal import Journal\n"
            "found = Journal.adopt(sys.argv[1]); print(found is not None, flush=True); sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", program, journal.folder]
        both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        answers = [process.stdout.readline().strip() for process in both]
        for process in both:
            process.communicate("")
        assert sorted(answers) == ["False", "True"]

    def test_a_link_in_the_place_of_the_folder_is_refused(self, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / "journal").symlink_to(elsewhere)
        with pytest.raises(OSError, match="not a folder of its own"):
            Journal.create(str(tmp_path), manifest(), 1000)

    def test_a_link_in_the_place_of_a_file_is_refused(self, journal, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("precious")
        (tmp_path / "journal" / "abc" / "cursor").symlink_to(victim)
        journal.append([line(1)])
        journal.peek(100, 1)
        journal.advance(1)
        assert victim.read_text() == "precious"

    def test_somebody_elses_folder_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(OSError, match="belongs to another user"):
            Journal.create(str(tmp_path), manifest(), 1000)

    def test_without_file_locks_there_is_no_journal(self, tmp_path, monkeypatch):
        monkeypatch.setattr(journals, "fcntl", None)
        with pytest.raises(OSError, match="file locks"):
            Journal.create(str(tmp_path), manifest(), 1000)

    def test_a_child_closes_its_copies_and_the_parent_keeps_the_lock(self, journal):
        journal.append([line(1)])
        pid = os.fork()
        if pid == 0:
            journal.abandon_in_child()
            os._exit(0)
        os.waitpid(pid, 0)
        assert Journal.adopt(journal.folder) is None
        journal.append([line(2)])
        assert len(journal) == 2


class TestAccidents:
    def test_a_journal_that_is_deleted_under_us_is_written_again(self, journal):
        import shutil

        journal.append([line(1), line(2)])
        journal.peek(1000, 1)
        journal.advance(1)
        shutil.rmtree(journal.folder)
        journal.append([line(3)])
        assert journal.peek(10_000, 10) == [line(2), line(3)]
        assert Journal.adopt(journal.folder) is None, "it is ours still"
        journal.close()
        adopted = Journal.adopt(journal.folder)
        assert line(3) in adopted.peek(10_000, 10)
        adopted.close()

    def test_a_disk_that_is_full_takes_all_of_a_commit_or_nothing(self, journal, monkeypatch):
        journal.append([line(1)])
        real = os.pwrite

        def full(descriptor, data, position):
            if position > len(line(1)):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data[:10], position)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                journal.append([line(2), line(3)])
        assert journal.peek(10_000, 10) == [line(1)]
        assert os.path.getsize(os.path.join(journal.folder, "000001.ndjson")) == len(line(1))
        journal.append([line(4)])
        assert journal.peek(10_000, 10) == [line(1), line(4)]

    def test_short_writes_are_completed(self, journal, monkeypatch):
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: real(descriptor, data[:5], at))
        journal.append([line(1), line(2)])
        assert journal.peek(10_000, 10) == [line(1), line(2)]

    def test_a_file_that_was_cut_by_somebody_is_unreadable_and_counted(self, journal):
        journal.append([line(1)])
        os.truncate(os.path.join(journal.folder, "000001.ndjson"), 5)
        with pytest.raises(OSError, match="middle of a record"):
            journal.peek(10_000, 10)
        assert journal.forget_unreadable() == 1
        assert len(journal) == 0

    def test_a_cursor_that_cannot_be_written_costs_duplicates_only(self, journal, monkeypatch):
        journal.append([line(1), line(2)])
        journal.peek(1000, 2)
        real = os.open

        def refuse(path, *rest):
            if str(path).endswith("cursor"):
                raise OSError(errno.EACCES, "no")
            return real(path, *rest)

        monkeypatch.setattr(os, "open", refuse)
        journal.advance(2)
        assert len(journal) == 0

    def test_the_last_number_of_a_foreign_line_is_unknown(self, journal):
        journal.append([b'{"no":"id"}\n'])
        assert journal.last_number() == 0

    def test_the_last_number_of_a_huge_last_record(self, journal):
        journal.append([line(1), b'{"id":"abc-7","a":"' + b"x" * 200_000 + b'"}\n'])
        assert journal.last_number() == 7


class TestQuarantine:
    def test_it_is_private_bounded_and_readable(self, tmp_path, monkeypatch):
        quarantine(str(tmp_path), "s", line(1), 'says "no"')
        quarantine(str(tmp_path), "s", line(2), "no")
        path = tmp_path / "quarantine" / "s.ndjson"
        kept = [json.loads(text) for text in path.read_text().splitlines()]
        assert [item["record"]["id"] for item in kept] == ["abc-1", "abc-2"]
        assert kept[0]["reason"] == 'says "no"'
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        monkeypatch.setattr(journals, "_QUARANTINE_BYTES", 10)
        quarantine(str(tmp_path), "s", line(3), "no")
        assert len(path.read_text().splitlines()) == 2


class JournalMachine(RuleBasedStateMachine):
    """Any sequence of appends, reads, acknowledgements, leavings and adoptions is a first-in-first-out queue."""

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.journal = Journal.create(self.folder.name, manifest(), 300)
        self.expected = []
        self.number = 0

    @rule(count=st.integers(1, 12), pad=st.integers(0, 120))
    def append(self, count, pad):
        lines = [b'{"id":"abc-%d","p":"%b"}\n' % (self.number + n, b"x" * pad) for n in range(count)]
        self.number += count
        self.journal.append(lines)
        self.expected += lines

    @rule(size=st.integers(1, 600), records=st.integers(1, 20), keep=st.integers(0, 3))
    def read(self, size, records, keep):
        page = self.journal.peek(size, records)
        assert page == self.expected[: len(page)]
        assert bool(page) == bool(self.expected)
        count = max(0, len(page) - keep)
        self.journal.advance(count)
        del self.expected[:count]

    @rule()
    def change_hands(self):
        self.journal.close()
        self.journal = Journal.adopt(self.journal.folder)
        self.journal._segment_bytes = 300

    @invariant()
    def counts_agree(self):
        assert len(self.journal) == len(self.expected)

    def teardown(self):
        self.journal.close()
        self.folder.cleanup()


TestAnySequence = JournalMachine.TestCase
TestAnySequence.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(1, 200), st.integers(1, 10))
def test_memory_takes_the_place_of_a_journal(pieces, size, records):
    memory = MemoryJournal(200)
    lines = [piece.replace(b"\n", b"") + b"\n" for piece in pieces]
    refused = memory.append(lines)
    taken = lines[: len(lines) - refused]
    assert memory.size == sum(map(len, taken)) <= 200
    seen = []
    while len(memory):
        page = memory.peek(size, records)
        assert page
        seen += page
        memory.advance(len(page))
    assert seen == taken
    assert memory.waiting_bytes == 0
