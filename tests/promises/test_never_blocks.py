"""Promise 2: the caller takes a bounded copy and appends it: no I/O and no wait for a lock, whatever is broken."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time

import pytest

import agent_sdk
from tests.promises.hostile import VALUES
from tests.support import faulty_server
from tests.support.faulty_server import FaultyServer

#: Built-in functions and methods that may wait for somebody else, or touch a disk or a socket.
WAITING = frozenset(
    (
        *("acquire", "wait", "sleep", "select", "poll", "connect", "send", "sendall", "recv", "recv_into", "open"),
        *("write", "read", "pwrite", "pread", "fsync", "flush", "getaddrinfo", "unlink", "mkdir", "rename", "stat"),
    )
)

DESTINATIONS = {
    "answers": None,
    "hangs": faulty_server.hang(),
    "drips": faulty_server.drip(1.0),
    "says 500": faulty_server.status(500),
    "says 429": faulty_server.status(429, {"Retry-After": "5"}),
    "says 413": faulty_server.status(413),
    "says 401": faulty_server.status(401),
    "speaks no HTTP": faulty_server.garbage(),
    "redirects": faulty_server.redirect("http://127.0.0.1:9/"),
    "closes mid-body": faulty_server.close_mid_body(),
    "refuses": "http://127.0.0.1:9",
    "has no name": "http://collector.invalid",
    "speaks no TLS": "https",
}


@pytest.fixture(params=DESTINATIONS)
def tracker(request, tmp_path):
    behaviour = DESTINATIONS[request.param]
    with FaultyServer() as server:
        url = server.url
        if callable(behaviour):
            server.always(behaviour)
        elif behaviour is not None:
            url = behaviour if ":" in behaviour else server.url.replace("http:", "https:")
        settings = {"request_timeout": 2.0, "flush_interval": 0.01, "commit_interval": 0.005}
        tracker = agent_sdk.create_tracker("key", url, home=str(tmp_path / "home"), **settings)
        yield tracker
        tracker.close(0.1)


def step(tracker, number):
    with tracker.track_step_context(f"{number}", "tool_call", {"number": number}) as step:
        step.set_output("x" * 100).set_usage(input_tokens=1)


class TestTheCaller:
    def test_it_calls_nothing_that_could_wait(self, tracker, request):
        """A proof by looking at every call into C that this thread makes while it records, not by a stopwatch."""
        called = set()

        def watch(frame, event, function):
            if event == "c_call":
                called.add((function.__name__, frame.f_code.co_filename))

        gc.collect()
        gc.disable()  # or finalizers of whatever else is in this process would be seen, too
        request.addfinalizer(gc.enable)
        with tracker.track_run("a"):
            step(tracker, 0)  # starts the threads
            for number in range(300):
                sys.setprofile(watch)
                step(tracker, number)
                sys.setprofile(None)
        assert called, "nothing was seen"
        assert not {call for call in called if call[0] in WAITING}

    def test_while_requests_fail_all_around_an_event_loop_keeps_turning(self, tracker):
        async def turn():
            longest, last = 0.0, time.perf_counter()
            async with tracker.track_run("a"):
                for number in range(400):
                    step(tracker, number)
                    await asyncio.sleep(0.001)
                    now = time.perf_counter()
                    longest, last = max(longest, now - last), now
            return longest

        # A request may take two seconds here: if it blocked the loop, that would show.
        assert asyncio.run(turn()) < 1.5


class TestBoundedWork:
    def test_a_huge_value_costs_its_caller_a_bounded_number_of_calls(self):
        """Counted in function calls, so that a busy machine changes nothing."""
        from agent_sdk.encoding import snapshot

        def calls(value):
            count = [0]

            def watch(frame, event, function):
                count[0] += 1

            sys.setprofile(watch)
            snapshot(value)
            sys.setprofile(None)
            return count[0]

        large = calls({"text": ["x" * 65_536] * 4})
        huge = "x" * 200_000_000
        for value in (huge, {"a": huge}, [huge] * 10, {huge: huge}, {"a": {"b": [huge]}}, huge.encode()):
            assert calls(value) < 10 * large
        assert calls(list(range(3_000_000))) < 500_000
        assert calls([[n] for n in range(1_000_000)]) < 500_000

    @pytest.mark.parametrize("name", ["deep", "cycle", "endless", "huge number", "lazy"])
    def test_so_does_an_odd_one(self, name):
        from agent_sdk.encoding import snapshot

        count = [0]
        value = VALUES[name]()
        sys.setprofile(lambda *_: count.__setitem__(0, count[0] + 1))
        snapshot(value)
        sys.setprofile(None)
        assert count[0] < 50_000


def test_no_thread_waits_for_another_thread_that_records(tmp_path):
    """One thread stands still in the middle of recording, as if it were stopped by a debugger: the others go on."""
    tracker = agent_sdk.create_tracker(base_url="memory://stands-still", home=str(tmp_path), durability="memory")
    inside, let_go = threading.Event(), threading.Event()

    class Stuck:
        def __init__(self):
            self.__dict__["me"] = self

    def stand_still(frame, event, argument):
        if event == "call" and frame.f_code.co_name == "append" and "buffer.py" in frame.f_code.co_filename:
            inside.set()
            let_go.wait(30)

    def stuck():
        sys.setprofile(stand_still)
        step(tracker, 0)

    thread = threading.Thread(target=stuck, daemon=True)
    thread.start()
    assert inside.wait(20)
    done = threading.Event()
    other = threading.Thread(target=lambda: ([step(tracker, number) for number in range(100)], done.set()), daemon=True)
    other.start()
    assert done.wait(20), "one recording thread stops all"
    let_go.set()
    thread.join(20)
    assert tracker.flush().recorded > 300
    tracker.close()
