from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from agent_sdk.integrations import concurrency

from agent_sdk import current_run, current_step
from agent_sdk.testing import recording


@pytest.fixture
def instrumented():
    concurrency.instrument()
    yield
    concurrency.uninstrument()


def test_a_thread_keeps_the_run_and_step_of_who_started_it(instrumented):
    with recording() as recorded, recorded.tracker.track_run("a") as run, run.child("outer") as outer:
        found = []
        thread = threading.Thread(target=lambda: found.append((current_run(), current_step())))
        thread.start()
        thread.join()
        assert found == [(run, outer)]


def test_a_subclass_of_thread_keeps_it_too(instrumented):
    class Worker(threading.Thread):
        def run(self):
            self.found = current_run()

    with recording() as recorded, recorded.tracker.track_run("a") as run:
        worker = Worker()
        worker.start()
        worker.join()
        assert worker.found is run


def test_steps_of_a_thread_pool_belong_to_the_run_that_submitted_them(instrumented):
    with recording() as recorded, ThreadPoolExecutor(4) as pool:
        for name in ("first", "second"):
            with recorded.tracker.track_run(name):
                list(pool.map(lambda n: recorded.tracker.track_step(f"{n}"), range(20)))
        assert pool.submit(current_run).result() is None
        assert [len(run.steps) for run in recorded.runs] == [20, 20]


def test_uninstrument_gives_back_the_very_same_functions():
    before = threading.Thread.start, ThreadPoolExecutor.submit
    concurrency.instrument()
    concurrency.instrument()
    assert threading.Thread.start is not before[0]
    concurrency.uninstrument()
    concurrency.uninstrument()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == before


def test_outside_of_a_run_nothing_is_wrapped(instrumented):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert "run" not in vars(thread)
