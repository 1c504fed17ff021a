"""``@track`` on everything that can be called: recorded, and otherwise the same."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest

import agent_sdk
from agent_sdk import current_run, current_step
from agent_sdk.testing import recording


@pytest.fixture
def recorded():
    with recording() as recorded:
        yield recorded


@pytest.fixture
def track(recorded):
    return recorded.tracker.track


def given(recorded, name):
    return recorded.step(name).fields.get("input")


class TestFunctions:
    def test_the_outermost_call_is_a_run_and_calls_inside_are_steps(self, recorded, track):
        @track
        def outer(question):
            return inner(question, n=2)

        @track(name="renamed", step_type="tool_call")
        def inner(text, n=1):
            assert current_step().name == "renamed"
            return text * n

        assert outer("ab") == "abab"
        assert current_run() is None
        assert recorded.tree() == "outer completed\n  renamed completed"
        assert recorded.run.fields["input"] == {"question": "ab"}
        assert recorded.run.fields["output"] == "abab"
        step = recorded.step("renamed").fields
        assert (step["step_type"], step["input"], step["output"]) == ("tool_call", {"text": "ab", "n": 2}, "abab")

    def test_arguments_are_recorded_by_name_as_they_were_given(self, recorded, track):
        @track
        def call(a, b=2, *rest, c, d=4, **more):
            return None

        with recorded.tracker.track_run("r"):
            call(1, c=3)
            call(1, 5, 6, 7, c=3, e=8)
        inputs = [step.fields["input"] for step in recorded.steps("call")]
        assert inputs == [{"a": 1, "c": 3}, {"a": 1, "b": 5, "rest": [6, 7], "c": 3, "e": 8}]

    def test_captures_can_be_switched_off_and_arguments_left_out(self, recorded, track):
        @track(ignore=("key",))
        def ignoring(key, text):
            return 1

        @track(capture_input=False, capture_output=False)
        def silent(text):
            return text

        with recorded.tracker.track_run("r"):
            ignoring("secret", text="t")
            silent("x")
        assert given(recorded, "ignoring") == {"text": "t"}
        assert not {"input", "output"} & set(recorded.step("silent").fields)

    def test_the_tracker_may_switch_captures_off_for_all(self):
        with recording(capture_input=False, capture_output=False) as recorded:
            recorded.tracker.track(lambda text: text)("x")
            with recorded.tracker.track_step_context("s", input_data=1) as step:
                step.set_input(2).set_output(3)
            recorded.tracker.track_run("r", input_data=1).end(output=2)
            assert not any({"input", "output"} & set(record) for record in recorded.records)

    def test_exceptions_pass_with_identity_and_traceback(self, recorded, track):
        error, cause = ValueError("no"), KeyError("why")

        @track
        def failing():
            raise error from cause

        with pytest.raises(ValueError, match="no") as caught:
            failing()
        assert caught.value is error
        assert error.__cause__ is cause
        assert [frame.name for frame in caught.traceback][-1] == "failing"
        assert recorded.run.status == "failed"
        assert recorded.run.fields["error"]["type"] == "ValueError"

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
    def test_what_ends_a_call_from_outside_cancels_it(self, recorded, track, error):
        @track
        def interrupted():
            raise error

        with pytest.raises(error):
            interrupted()
        assert recorded.run.status == "cancelled"

    def test_wrong_arguments_raise_what_they_always_raise(self, recorded, track):
        @track
        def call(a):
            return a

        with pytest.raises(TypeError, match="missing 1 required positional argument"):
            call()
        assert recorded.run.status == "failed"

    def test_it_stays_the_same_function_to_whoever_looks(self, track):
        def original(a: int, b: str = "x") -> bool:
            """Its docstring."""
            return True

        tracked = track(original)
        assert (tracked.__name__, tracked.__doc__, tracked.__module__) == ("original", "Its docstring.", __name__)
        assert inspect.signature(tracked) == inspect.signature(original)
        assert inspect.isfunction(tracked)
        assert tracked.__wrapped__ is original
        assert tracked == original

    def test_lambdas_partials_builtins_and_callable_objects(self, recorded, track):
        class Caller:
            def __call__(self, text):
                return text

        def two(a, b):
            return a + b

        with recorded.tracker.track_run("r"):
            assert track(lambda x: x)(1) == 1
            assert track(functools.partial(two, 1))(b=2) == 3
            assert track(len)([1, 2]) == 2
            assert track(Caller())("t") == "t"
        assert [step.name for step in recorded.steps()] == ["<lambda>", "two", "len", "Caller"]
        assert given(recorded, "len") == {"args": [[1, 2]]}
        assert given(recorded, "Caller") == {"text": "t"}

    def test_what_cannot_be_called_is_refused_where_it_is_decorated(self, track):
        with pytest.raises(TypeError, match=r"@track needs a function, not int"):
            track(5)

    def test_an_argument_that_cannot_be_recorded_costs_nothing_else(self, recorded, track):
        class Hostile:
            def __getattribute__(self, name):
                raise RuntimeError

        assert track(lambda a, b: b)(Hostile(), 2) == 2
        assert recorded.run.fields["input"]["b"] == 2

    def test_a_decorated_function_can_be_called_from_many_threads(self, recorded, track):
        @track
        def agent(n):
            return helper(n)

        @track
        def helper(n):
            return n

        threads = [threading.Thread(target=agent, args=(n,)) for n in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        runs = recorded.runs
        assert sorted(run.fields["output"] for run in runs) == list(range(30))
        for run in runs:
            (step,) = run.steps.values()
            assert step.fields["output"] == run.fields["output"]

    def test_recursion_nests(self, recorded, track):
        @track
        def count(n):
            return n if n == 0 else count(n - 1)

        count(3)
        depth, steps = 0, recorded.run.tree()
        while steps:
            depth, steps = depth + 1, steps[0].children
        assert depth == 3


class TestMethods:
    def test_methods_are_recorded_without_self_and_cls(self, recorded, track):
        class Agent:
            @track
            def method(self, a):
                return self

            @classmethod
            @track
            def inner_class(cls, a):
                return cls

            @track
            @classmethod
            def outer_class(cls, a):
                return cls

            @staticmethod
            @track
            def inner_static(a):
                return a

            @track
            @staticmethod
            def outer_static(a):
                return a

        agent = Agent()
        with recorded.tracker.track_run("r"):
            assert agent.method(1) is agent
            assert agent.inner_class(a=1) is Agent.outer_class(1) is Agent
            assert agent.inner_static(1) == Agent.outer_static(1) == 1
            assert Agent.method(agent, 1) is agent
        assert [step.name for step in recorded.steps()] == [
            *("method", "inner_class", "outer_class", "inner_static", "outer_static", "method")
        ]
        assert all(step.fields["input"] == {"a": 1} for step in recorded.steps())

    def test_inheritance_and_super_work(self, recorded, track):
        class Base:
            @track
            def act(self):
                return "base"

        class Child(Base):
            @track
            def act(self):
                return super().act() + "child"

        assert Child().act() == "basechild"
        assert recorded.tree() == "act completed\n  act completed"

    def test_a_bound_method_may_be_decorated(self, recorded, track):
        class Agent:
            def act(self, a):
                return a

        assert track(Agent().act)(5) == 5
        assert recorded.run.fields["input"]["a"] == 5

    def test_an_instance_is_not_kept_alive(self, recorded, track):
        import weakref

        class Agent:
            @track
            def act(self):
                return 1

        agent = Agent()
        agent.act()
        seen = weakref.ref(agent)
        recorded.tracker.flush()
        del agent
        gc.collect()
        assert seen() is None


class TestCoroutines:
    def test_a_coroutine_is_recorded_when_it_is_awaited(self, recorded, track):
        @track
        async def agent(n):
            return await asyncio.gather(*(step(i) for i in range(n)))

        @track
        async def step(i):
            await asyncio.sleep(0)
            return i

        async def main():
            never = agent(1)
            never.close()
            return await agent(3)

        assert asyncio.run(main()) == [0, 1, 2]
        assert recorded.run.fields["output"] == [0, 1, 2]
        assert sorted(step.fields["output"] for step in recorded.steps()) == [0, 1, 2]
        assert inspect.iscoroutinefunction(agent)

    def test_a_failure_and_a_cancellation(self, recorded, track):
        @track
        async def failing():
            raise ValueError("no")

        @track
        async def hanging():
            await asyncio.Event().wait()

        async def main():
            with pytest.raises(ValueError, match="no"):
                await failing()
            task = asyncio.ensure_future(hanging())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert recorded.tree() == "failing failed\nhanging cancelled"

    def test_a_function_that_returns_a_coroutine_lasts_until_that_is_done(self, recorded, track):
        async def inner():
            recorded.tracker.track_step("inside")
            return 7

        @track
        def outer():
            return inner()

        assert asyncio.run(outer()) == 7
        assert recorded.run.fields["output"] == 7
        assert recorded.tree() == "outer completed\n  inside completed"

    def test_async_methods(self, recorded, track):
        class Agent:
            @track
            async def act(self, a):
                return a

        assert asyncio.run(Agent().act(3)) == 3
        assert recorded.run.fields["input"] == {"a": 3}

    def test_many_at_once_never_mix(self, recorded, track):
        @track
        async def agent(n):
            await asyncio.sleep(0)
            return await helper(n)

        @track
        async def helper(n):
            await asyncio.sleep(0)
            return n

        async def main():
            await asyncio.gather(*(agent(n) for n in range(300)))

        asyncio.run(main())
        runs = recorded.runs
        assert len(runs) == 300
        for run in runs:
            (step,) = run.steps.values()
            assert step.fields["output"] == run.fields["output"] == run.fields["input"]["n"]


class TestGenerators:
    def test_it_is_recorded_when_it_ends_joined_and_with_the_time_to_its_first_item(self, recorded, track):
        @track
        def stream():
            yield "a"
            recorded.tracker.track_step("between")
            yield "b"
            return "done"

        generator = stream()
        assert recorded.runs == []
        items = []
        while True:
            try:
                items.append(next(generator))
            except StopIteration as stop:
                assert stop.value == "done"
                break
            assert current_run() is None
        assert items == ["a", "b"]
        assert recorded.run.fields["output"] == "ab"
        assert recorded.tree() == "stream completed\n  between completed"

    def test_the_first_item_has_its_time(self, recorded, track):
        @track
        def stream():
            yield 1
            yield {"a": 2}

        with recorded.tracker.track_run("r"):
            list(stream())
        fields = recorded.step("stream").fields
        assert fields["output"] == [1, {"a": 2}]
        assert fields["started_at"] <= fields["first_token_at"] <= fields["ended_at"]

    def test_items_are_recorded_as_they_were_when_they_came(self, recorded, track):
        @track
        def stream():
            item = {"n": 1}
            yield item
            item["n"] = 2
            yield item

        list(stream())
        assert recorded.run.fields["output"] == [{"n": 1}, {"n": 2}]

    @pytest.mark.parametrize("how", ["break", "close", "forget", "throw"])
    def test_a_stream_that_is_left_is_recorded_once_and_cancelled(self, recorded, track, how):
        closed = []

        @track
        def stream():
            try:
                yield "a"
                yield "b"
            finally:
                closed.append(True)

        generator = stream()
        if how == "break":
            for _ in generator:
                break
        else:
            next(generator)
        if how == "close":
            generator.close()
            generator.close()
        if how == "throw":
            with pytest.raises(KeyError):
                generator.throw(KeyError("k"))
        del generator
        gc.collect()
        assert closed == [True]
        assert recorded.run.status == ("failed" if how == "throw" else "cancelled")
        assert recorded.run.fields["output"] == "a"
        assert sum(record["type"] == "run.end" for record in recorded.records) == 1

    def test_a_failure_inside_passes(self, recorded, track):
        error = ValueError("no")

        @track
        def stream():
            yield 1
            raise error

        with pytest.raises(ValueError, match="no") as caught:
            list(stream())
        assert caught.value is error
        assert error.__context__ is None
        assert recorded.run.status == "failed"

    def test_send_throw_and_return_reach_the_generator(self, recorded, track):
        @track
        def echo():
            got = yield "ready"
            while True:
                try:
                    got = yield got
                except KeyError as error:
                    assert error.__context__ is None
                    return "end"

        generator = echo()
        assert next(generator) == "ready"
        assert generator.send(5) == 5
        with pytest.raises(StopIteration) as stopped:
            generator.throw(KeyError("k"))
        assert stopped.value.value == "end"
        assert recorded.run.status == "completed"

    def test_one_that_refuses_to_close_raises_what_it_always_raises(self, recorded, track):
        @track
        def stubborn():
            while True:
                try:
                    yield 1
                except GeneratorExit:
                    yield 2

        generator = stubborn()
        next(generator)
        with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
            generator.close()
        assert recorded.run.status == "failed"

    def test_one_that_was_never_started_is_no_run(self, recorded, track):
        @track
        def stream():
            yield 1

        stream().close()
        assert recorded.runs == []

    def test_a_long_stream_is_bounded(self, recorded, track):
        @track(name="numbers")
        def numbers():
            yield from range(5000)

        @track(name="text")
        def text():
            for _ in range(5000):
                yield "x" * 100

        with recorded.tracker.track_run("r"):
            assert sum(1 for _ in numbers()) == 5000
            assert sum(1 for _ in text()) == 5000
        found = recorded.step("numbers").fields["output"]
        assert len(found) == 1001
        assert found[-1] == {"$cut": "items", "length": 4000}
        assert recorded.step("text").fields["output"].endswith("…[cut 4350 items]")

    def test_small_pieces_of_text_are_all_kept(self, recorded, track):
        @track
        def text():
            for _ in range(5000):
                yield "ab"

        list(text())
        assert recorded.run.fields["output"] == "ab" * 5000

    def test_a_generator_may_be_consumed_in_another_thread(self, recorded, track):
        @track
        def stream():
            yield 1
            recorded.tracker.track_step("inside")
            yield 2

        generator = stream()
        next(generator)
        thread = threading.Thread(target=lambda: list(generator))
        thread.start()
        thread.join()
        assert recorded.tree() == "stream completed\n  inside completed"

    def test_steps_of_the_consumer_are_not_inside_the_stream(self, recorded, track):
        @track
        def stream():
            with recorded.tracker.track_step_context("open while it waits"):
                yield 1
                yield 2

        with recorded.tracker.track_run("r"):
            for _ in stream():
                recorded.tracker.track_step("consumer")
        parents = {step.name: step.parent_step_id for step in recorded.steps()}
        assert parents["consumer"] is None
        assert parents["open while it waits"] == recorded.step("stream").step_id


class TestAsyncGenerators:
    def test_it_is_recorded_when_it_ends(self, recorded, track):
        @track
        async def stream():
            yield "a"
            await asyncio.sleep(0)
            recorded.tracker.track_step("inside")
            yield "b"

        async def main():
            return [item async for item in stream()]

        assert asyncio.run(main()) == ["a", "b"]
        assert recorded.run.fields["output"] == "ab"
        assert recorded.tree() == "stream completed\n  inside completed"
        assert inspect.isasyncgenfunction(stream)

    @pytest.mark.parametrize("how", ["aclose", "break", "throw", "raise"])
    def test_a_stream_that_is_left_is_recorded_once(self, recorded, track, how):
        @track
        async def stream():
            yield "a"
            if how == "raise":
                raise ValueError("no")
            yield "b"

        async def main():
            generator = stream()
            assert await generator.__anext__() == "a"
            if how == "aclose":
                await generator.aclose()
            elif how == "throw":
                with pytest.raises(KeyError):
                    await generator.athrow(KeyError("k"))
            elif how == "raise":
                with pytest.raises(ValueError, match="no"):
                    await generator.__anext__()

        asyncio.run(main())
        gc.collect()
        assert recorded.run.status == ("cancelled" if how in ("aclose", "break") else "failed")
        assert sum(record["type"] == "run.end" for record in recorded.records) == 1

    def test_asend_and_athrow_reach_the_generator(self, recorded, track):
        @track
        async def echo():
            got = yield "ready"
            try:
                yield got
            except KeyError:
                yield "caught"

        async def main():
            generator = echo()
            assert await generator.__anext__() == "ready"
            assert await generator.asend(5) == 5
            assert await generator.athrow(KeyError("k")) == "caught"
            with pytest.raises(StopAsyncIteration):
                await generator.__anext__()

        asyncio.run(main())
        assert recorded.run.status == "completed"

    def test_cancelling_the_consumer_cancels_the_stream(self, recorded, track):
        @track
        async def stream():
            yield 1
            await asyncio.Event().wait()

        async def consume():
            async for _ in stream():
                pass

        async def main():
            task = asyncio.ensure_future(consume())
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert recorded.run.status == "cancelled"


def module_level(x):
    return x


@agent_sdk.track
def decorated(x):
    return x


class Picklable:
    @agent_sdk.track
    def act(self, x=4):
        return 4

    @agent_sdk.track
    @staticmethod
    def make(x):
        return x


def test_a_disabled_tracker_runs_the_function_alone():
    with recording(disabled=True) as recorded:
        assert recorded.tracker.track(module_level)(4) == 4
        assert list(recorded.tracker.track(lambda: (n for n in range(2)))()) == [0, 1]


def test_a_failing_recorder_never_reaches_the_caller(recorded, monkeypatch):
    def broken(*_):
        raise RuntimeError("sprung")

    tracked = recorded.tracker.track(module_level)
    monkeypatch.setattr(type(recorded.tracker), "_node", broken)
    assert tracked(5) == 5


def test_decorated_functions_and_methods_are_copied_and_pickled_by_name():
    for known in (decorated, Picklable.act, Picklable().act, Picklable.make):
        assert copy.copy(known) is copy.deepcopy(known) is known
        assert pickle.loads(pickle.dumps(known))(4) == 4


def test_a_pool_of_processes_can_run_a_decorated_function(monkeypatch):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(decorated, [1, 2])) == [1, 2]
