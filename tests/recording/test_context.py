"""The right parent, wherever code runs: tasks, threads, generators, hundreds of runs at once."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import agent_sdk
from agent_sdk.testing import recording


@pytest.fixture
def recorded():
    with recording() as recorded:
        yield recorded


@pytest.fixture
def tracker(recorded):
    return recorded.tracker


def names_by_parent(recorded):
    run = recorded.run
    return {
        step.name: run.steps[step.parent_step_id].name if step.parent_step_id else None for step in run.steps.values()
    }


def test_gather_and_create_task_inherit_the_step_that_started_them(recorded, tracker):
    async def work(name):
        async with tracker.track_step_context(name):
            await asyncio.sleep(0)
            tracker.track_step(f"{name}.1")

    async def main():
        async with tracker.track_run("a"), tracker.track_step_context("parent"):
            task = asyncio.create_task(work("task"))
            await asyncio.gather(*(work(f"g{number}") for number in range(5)))
            await task

    asyncio.run(main())
    parents = names_by_parent(recorded)
    assert {parents[f"g{number}"] for number in range(5)} == {"parent"}
    assert parents["task"] == "parent"
    assert all(parents[f"g{number}.1"] == f"g{number}" for number in range(5))


@pytest.mark.skipif(sys.version_info < (3, 9), reason="asyncio.to_thread is new in Python 3.9")
def test_to_thread_inherits_by_itself(recorded, tracker):
    async def main():
        async with tracker.track_run("a"), tracker.track_step_context("parent"):
            await asyncio.to_thread(tracker.track_step, "in thread")

    asyncio.run(main())
    assert names_by_parent(recorded)["in thread"] == "parent"


def test_bind_carries_the_context_into_a_pool(recorded, tracker):
    with ThreadPoolExecutor(3) as pool, tracker.track_run("a"), tracker.track_step_context("parent"):
        list(pool.map(agent_sdk.bind(tracker.track_step), [f"s{number}" for number in range(20)]))
    parents = names_by_parent(recorded)
    assert {parents[f"s{number}"] for number in range(20)} == {"parent"}


def test_bind_leaves_no_trace_in_the_thread_and_passes_results_and_errors(tracker):
    with tracker.track_run("a"):
        bound = agent_sdk.bind(lambda value: value / 0 if value else agent_sdk.current_run())
    assert bound(0) is not None
    with pytest.raises(ZeroDivisionError):
        bound(1)
    assert agent_sdk.current_run() is None


def test_without_bind_a_plain_thread_starts_outside(tracker):
    seen = []
    with tracker.track_run("a"):
        thread = threading.Thread(target=lambda: seen.append(agent_sdk.current_run()), args=())
        thread.start()
        thread.join()
    assert seen == [None] or sys.version_info >= (3, 14)  # threads of newer Pythons may inherit the context


def test_a_parent_given_by_hand_works_in_any_thread(recorded, tracker):
    with tracker.track_run("a"), tracker.track_step_context("parent") as parent, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: parent.child(name).end(), ["x", "y"]))
    parents = names_by_parent(recorded)
    assert (parents["x"], parents["y"]) == ("parent", "parent")


def test_hundreds_of_concurrent_runs_never_mix(recorded, tracker):
    async def agent(number):
        async with tracker.track_run(f"agent {number}") as run:
            for step in range(5):
                async with tracker.track_step_context(f"{number}/{step}"):
                    await asyncio.sleep(0)
                    assert agent_sdk.current_run() is run

    async def main():
        await asyncio.gather(*(agent(number) for number in range(300)))

    asyncio.run(main())
    runs = recorded.runs
    assert len(runs) == 300
    for run in runs:
        number = run.agent_name.split()[1]
        assert sorted(step.name for step in run.steps.values()) == [f"{number}/{step}" for step in range(5)]


def test_concurrent_runs_in_threads_never_mix(recorded, tracker):
    def agent(number):
        with tracker.track_run(f"agent {number}"):
            for step in range(20):
                tracker.track_step(f"{number}/{step}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(agent, range(100)))
    for run in recorded.runs:
        number = run.agent_name.split()[1]
        assert {step.name.split("/")[0] for step in run.steps.values()} == {number}
        assert len(run.steps) == 20


def test_blocks_that_end_out_of_order_disturb_nobody(tracker):
    outer = tracker.track_run("outer").__enter__()
    inner = tracker.track_step_context("inner").__enter__()
    outer.__exit__(None, None, None)
    assert agent_sdk.current_step() is inner
    inner.__exit__(None, None, None)
    assert agent_sdk.current_step() is None


def test_a_block_left_in_another_context_changes_nothing_there(tracker):
    step = tracker.track_run("a").__enter__()
    contextvars.Context().run(step.__exit__, None, None, None)
    assert step.ended


def test_two_trackers_never_mix():
    with recording() as first, recording() as second:
        with first.tracker.track_run("first"), second.tracker.track_run("second"):
            first.tracker.track_step("of first")
            second.tracker.track_step("of second")
        assert first.tree() == "first completed\n  of first completed"
        assert second.tree() == "second completed\n  of second completed"


def test_current_run_and_step(tracker):
    assert agent_sdk.current_run() is None
    assert agent_sdk.current_step() is None
    with tracker.track_run("a") as run:
        assert agent_sdk.current_run() is run
        assert agent_sdk.current_step() is None
        with tracker.track_step_context("s") as step:
            assert agent_sdk.current_run() is run
            assert agent_sdk.current_step() is step
            assert step.run_id == run.id
            assert str(step) == step.id == step.step_id
