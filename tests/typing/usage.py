"""Checked by mypy, never run: decorated functions keep the types of what they wrap."""

from __future__ import annotations

from typing import AsyncIterator, Awaitable, Callable, Iterator, List

from typing_extensions import assert_type

import agent_sdk
from agent_sdk import FlushResult, Run, Step, bind, create_tracker, track

tracker = create_tracker("key", "http://localhost:8790", durability="strict")


@track
def plain(a: int, *, b: str = "x") -> List[str]:
    return [b] * a


@track(name="n", step_type="tool_call", capture_input=True, capture_output=False, ignore=("b",))
async def coroutine(a: int) -> str:
    return str(a)


@tracker.track
def generator(a: int) -> Iterator[int]:
    yield a


@tracker.track(step_type="llm_call")
async def async_generator(a: int) -> AsyncIterator[bytes]:
    yield b""


class Agent:
    @track
    def method(self, a: int) -> float:
        return a / 2

    @classmethod
    @track
    def make(cls, a: int) -> Agent:
        return cls()

    @staticmethod
    @track
    def static(a: int) -> bool:
        return bool(a)


assert_type(plain(1, b="x"), List[str])
plain("wrong")  # type: ignore[arg-type]
awaitable: Awaitable[str] = coroutine(1)
assert_type(generator(1), Iterator[int])
assert_type(async_generator(1), AsyncIterator[bytes])
assert_type(Agent().method(1), float)
assert_type(Agent.make(1), Agent)
assert_type(Agent.static(1), bool)
callback: Callable[[int], List[str]] = bind(plain)

with tracker.track_run("a", input_data={"q": 1}, tags=["x"]) as run:
    assert_type(run, Run)
    with run.child("s") as step:
        assert_type(step, Step)
        assert_type(step.set_output(1).set_usage(input_tokens=1).set_model("m"), Step)
assert_type(run.set_metadata(a=1).add_tags("t"), Run)
assert_type(tracker.flush(), FlushResult)
assert_type(agent_sdk.flush(timeout=1.0), FlushResult)
