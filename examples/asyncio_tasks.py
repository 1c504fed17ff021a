"""Steps in tasks: the current run follows into `gather` and `create_task` by itself."""

import asyncio
from typing import AsyncIterator

import agent_sdk

tracker = agent_sdk.create_tracker()


@tracker.track(step_type="llm_call")
async def ask(question: str) -> str:
    await asyncio.sleep(0.01)
    return question.upper()


@tracker.track(step_type="llm_call")
async def stream(question: str) -> AsyncIterator[str]:
    for word in question.split():
        await asyncio.sleep(0.01)
        yield word


async def main() -> None:
    async with tracker.track_run("debate") as run:
        opinions = await asyncio.gather(*(ask(f"opinion {number}") for number in range(3)))
        words = [word async for word in stream("that is all there is to say")]
        run.set_output({"opinions": opinions, "words": len(words)})
        print(f"{len(opinions)} opinions and {len(words)} words in run {run}")


asyncio.run(main())
