"""Steps in a thread pool: `bind` carries the current run into other threads."""

from concurrent.futures import ThreadPoolExecutor

import agent_sdk

tracker = agent_sdk.create_tracker()


def fetch(page: int) -> str:
    with tracker.track_step_context("fetch", "tool_call", input_data={"page": page}) as step:
        step.set_output(f"page {page}")
        return f"page {page}"


with tracker.track_run("crawler", tags=["example"]) as run, ThreadPoolExecutor(4) as pool:
    pages = list(pool.map(agent_sdk.bind(fetch), range(8)))
    run.set_output({"pages": len(pages)})
    print(f"fetched {len(pages)} pages in run {run}")
