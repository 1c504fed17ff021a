"""Destinations that need no network, the log, the ledger, threads and the tally."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import types

import pytest

from agent_sdk.delivery import log, settings, tally, threads
from agent_sdk.delivery.destinations import MemoryDestination, open_destination
from agent_sdk.delivery.destinations.base import DELIVERED, RETRY, Destination
from agent_sdk.delivery.ledger import FlushResult, Ledger


def no_key():
    return None


class TestFileDestination:
    def test_batches_are_appended_to_a_private_file(self, tmp_path):
        path = tmp_path / "new folder" / "records.ndjson"
        destination = open_destination(f"file://{str(path).replace(' ', '%20')}", no_key)
        assert destination.deliver([b"1\n", b"2\n"], 0.0).kind == DELIVERED
        assert destination.deliver([b"3\n"], 0.0).kind == DELIVERED
        destination.abort()
        destination.close()
        assert path.read_bytes() == b"1\n2\n3\n"
        assert path.stat().st_mode & 0o777 == 0o600

    def test_a_folder_that_cannot_be_made_is_said(self, tmp_path):
        (tmp_path / "file").write_text("")
        outcome = open_destination(f"file://{tmp_path}/file/records.ndjson", no_key).deliver([b"1\n"], 0.0)
        assert (outcome.kind, "cannot write to" in outcome.reason) == (RETRY, True)

    def test_a_torn_write_is_cut_off(self, tmp_path, monkeypatch):
        path = tmp_path / "records.ndjson"
        destination = open_destination(f"file://{path}", no_key)
        destination.deliver([b"1\n"], 0.0)
        real = os.write
        calls = []

        def full(descriptor, data):
            calls.append(1)
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data[:1])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert "No space left" in destination.deliver([b"2\n"], 0.0).reason
        assert path.read_bytes() == b"1\n"


class TestMemoryDestination:
    def test_one_address_is_one_memory(self):
        first = open_destination("memory://one", no_key)
        assert first is open_destination("memory://one", no_key)
        assert first is not open_destination("memory://two", no_key)
        first.deliver([b'{"a":1}\n'], 0.0)
        assert isinstance(first, MemoryDestination)
        assert first.records == [{"a": 1}]

    def test_addresses_that_are_none(self):
        with pytest.raises(ValueError, match="use http"):
            open_destination("gopher://x", no_key)

    def test_a_destination_must_say_how_it_delivers(self):
        with pytest.raises(NotImplementedError):
            Destination().deliver([], 0.0)


class TestLog:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(log, "_now", lambda: now[0])
        return now

    def lines(self, caplog):
        return [record.getMessage() for record in caplog.records]

    def test_a_cause_is_said_once_and_its_end_with_a_count(self, caplog):
        log.settle("cause", "it never failed")
        for _ in range(5):
            log.say("cause", "it broke")
        log.settle("cause", "it works again")
        log.settle("cause", "it works again")
        assert self.lines(caplog) == ["agent-sdk: it broke", "agent-sdk: it works again (it had failed 5 times)"]

    def test_what_goes_on_is_summed_up_at_growing_intervals(self, caplog, clock):
        for _ in range(7200):
            log.say("cause", "it broke")
            clock[0] += 1
        assert self.lines(caplog) == [
            "agent-sdk: it broke",
            "agent-sdk: it broke (59 more times since this was last said)",
            "agent-sdk: it broke (299 more times since this was last said)",
            "agent-sdk: it broke (1499 more times since this was last said)",
            "agent-sdk: it broke (3599 more times since this was last said)",
        ]

    def test_what_comes_and_goes_does_not_fill_the_log(self, caplog, clock):
        for _ in range(3600):
            log.say("cause", "it broke")
            log.settle("cause", "it works again")
            clock[0] += 1
        assert len(caplog.records) == 8

    def test_the_number_of_causes_is_bounded(self, caplog):
        for number in range(500):
            log.say(f"cause {number}", "x")
        assert len(caplog.records) == 64

    def test_a_handler_that_raises_is_survived(self):
        class Broken(logging.Handler):
            def emit(self, record):
                raise RuntimeError("sprung")

        logger = logging.getLogger("agent_sdk")
        handler = Broken()
        logger.addHandler(handler)
        try:
            log.say("cause", "x")
            log.settle("cause", "y")
        finally:
            logger.removeHandler(handler)

    def test_it_is_silent_where_nobody_listens(self, capfd):
        log.say("quiet", "x")
        assert capfd.readouterr() == ("", "")


class TestLedger:
    def test_the_conservation_law(self):
        assert FlushResult(10, 4, 3, 2, {"x": 1}).balanced
        assert not FlushResult(10, 4, 3, 2, {}).balanced
        assert FlushResult(5, 4, 0, 0, {"x": 1}).complete
        assert not FlushResult(5, 4, 1, 0, {}).complete

    def test_drops_are_told_once(self):
        ledger = Ledger()
        ledger.drop("a", 2)
        ledger.drop("a")
        ledger.drop("b", report=False)
        ledger.tell("c", 5)
        assert ledger.take_unreported() == {"a": 3, "c": 5}
        assert not ledger.has_unreported
        assert ledger.dropped() == {"a": 3, "b": 1}


class TestThreads:
    def test_a_signal_set_before_the_wait_ends_it_at_once(self):
        signal = threads.Signal()
        signal.set()
        signal.set()
        assert signal.wait(30.0)
        assert not signal.wait(0.0)
        assert not signal.wait(-5.0)

    def test_threads_are_daemons_with_a_name(self):
        seen, done = [], threading.Event()

        def target():
            seen.append((threading.current_thread().name, threading.current_thread().daemon))
            done.set()

        threads.start_thread(target, "agent-sdk test")
        assert done.wait(20)
        assert seen == [("agent-sdk test", True)]

    def test_under_gevent_the_real_thing_is_used(self, monkeypatch):
        asked = []

        def get_original(module, name):
            asked.append((module, name))
            return getattr(__import__(module), name)

        monkeypatch.setitem(threads.sys.modules, "gevent.monkey", types.SimpleNamespace(get_original=get_original))
        threads.new_lock()
        assert asked == [("_thread", "allocate_lock")]


class TestTally:
    def test_it_outlives_its_process(self):
        import subprocess
        import sys

        program = (
            "import os, signal; from agent_sdk.delivery.tally import Tally\n"
            "made = Tally.create('outlives')\n"
            "if made: made.view[0] = 41; made.view[0] += 1\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        subprocess.run([sys.executable, "-c", program], check=False)
        if not os.path.isdir("/dev/shm"):
            pytest.skip("no shared memory here")
        assert tally.read("outlives") == 42
        assert tally.Tally.create("outlives") is None
        tally.remove("outlives")
        tally.remove("outlives")
        assert tally.read("outlives") is None

    def test_without_shared_memory_there_is_none(self, monkeypatch):
        monkeypatch.setattr(tally, "_DIRECTORY", "/nowhere")
        assert tally.Tally.create("x") is None
        assert tally.read("x") is None

    def test_a_full_shared_memory_gives_none(self, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "full")

        if not os.path.isdir("/dev/shm"):
            pytest.skip("no shared memory here")
        monkeypatch.setattr(os, "posix_fallocate", full)
        assert tally.Tally.create("full") is None
        assert not os.path.exists("/dev/shm/agent-sdk-full")


def test_the_home_is_told_by_the_environment_or_is_in_the_users_own(monkeypatch):
    monkeypatch.setenv("AGENT_SDK_HOME", "/some/where")
    assert settings.home_directory() == "/some/where"
    monkeypatch.delenv("AGENT_SDK_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert settings.home_directory() == "/home/ada/.agent-sdk"


def test_settings_never_show_the_key():
    assert "canary" not in repr(settings.Delivery(api_key="canary"))


def test_records_in_memory_are_json(tmp_path):
    destination = MemoryDestination()
    destination.deliver([json.dumps({"n": n}).encode() + b"\n" for n in range(3)], 0.0)
    assert [record["n"] for record in destination.records] == [0, 1, 2]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:canary@host:1/a@b", "https://host:1/a@b"),
        ("https://host/a", "https://host/a"),
        ("file:///a/b", "file:///a/b"),
        ("me:canary@host", "me:canary@host"),
        ("memory://x", "memory://x"),
    ],
)
def test_addresses_are_shown_without_their_login(url, shown):
    assert settings.without_login(url) == shown
    assert shown in repr(settings.Delivery(url))
