"""Pictures of the viewer for the documentation: `python scripts/screenshots.py` writes them into docs/images.

Starts a collector of its own, lets the demo agent and some made-up colleagues record, and drives a real Chromium.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
IMAGES = ROOT / "docs" / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    """Take all pictures."""
    os.environ["AGENT_SDK_HOME"] = tempfile.mkdtemp()
    from tests.support.collector import running_collector

    with tempfile.TemporaryDirectory() as folder, running_collector(Path(folder)) as collector:  # noqa: SIM117
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 760})
            take(page, collector.url + "/runs", "empty")
            run_id = record(collector)
            take(page, collector.url + "/runs", "runs")
            step = next(step for step in collector.steps(run_id) if step["name"] == "write answer")
            take(page, f"{collector.url}/runs/{run_id}?step={step['step_id']}", "run")
            failed = next(step for step in collector.steps(run_id) if step["status"] == "failed")
            page.emulate_media(color_scheme="dark")
            take(page, f"{collector.url}/runs/{run_id}?step={failed['step_id']}", "run-dark")
            page.set_viewport_size({"width": 390, "height": 780})
            page.emulate_media(color_scheme="light")
            take(page, f"{collector.url}/runs/{run_id}", "run-phone")
            take(page, f"{collector.url}/runs", "runs-phone")
            browser.close()


def take(page: Page, url: str, name: str) -> None:
    """One picture."""
    page.goto(url)
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"{name}.png")
    print(f"docs/images/{name}.png")


def record(collector) -> str:
    """Runs of all kinds; returns the id of the demo agent's."""
    from agent_sdk.examples.offline_model import OfflineModel
    from agent_sdk.examples.research_agent import QUESTION, ResearchAgent

    import agent_sdk

    tracker = agent_sdk.create_tracker(collector.key, collector.url)
    for number, name in enumerate(("invoice reader", "support triage", "invoice reader", "nightly report")):
        with tracker.track_run(name, session_id=f"ticket-{40 + number}", tags=["production"]) as run:
            for page in range(3 + number):
                with tracker.track_step_context("extract", "llm_call", {"page": page}) as step:
                    step.set_model("offline-1").set_usage(input_tokens=900 + page, output_tokens=120, cost=0.0031)
    try:
        with tracker.track_run("support triage", session_id="ticket-44", tags=["production"]) as run:
            tracker.track_step("look up customer", "tool_call", error=KeyError("customer 1204"))
            raise LookupError("customer 1204 is unknown")
    except LookupError:
        pass
    agent = ResearchAgent(tracker, OfflineModel(tokens_per_second=90))
    list(agent.answer(QUESTION))
    waiting = tracker.track_run("nightly report", session_id="night", tags=["production"])
    waiting.child("summarise", "llm_call", {"documents": 120})
    run = tracker.track_run("approval", tags=["production"])
    run.end("interrupted")
    tracker.flush()
    return agent.run_id


if __name__ == "__main__":
    main()
