from __future__ import annotations

import pytest

from agent_sdk import create_tracker
from tests.support.browser import launched
from tests.support.collector import running_collector


@pytest.fixture(scope="session")
def browser():
    # Read before the settings from outside are taken away for each test.
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that fails the test for whatever the browser complains of."""
    complaints = []
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("console", lambda line: complaints.append(f"console: {line.text}") if line.type == "error" else None)
    page.complaints = complaints
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def collector(tmp_path):
    with running_collector(tmp_path) as collector:
        yield collector


@pytest.fixture
def tracker(collector):
    tracker = create_tracker(collector.key, collector.url, flush_interval=0.05, commit_interval=0.01)
    yield tracker
    tracker.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A collector with one run of the demo agent; ``demo.run_id`` is its id."""
    from agent_sdk.examples.offline_model import OfflineModel
    from agent_sdk.examples.research_agent import QUESTION, ResearchAgent

    folder = tmp_path_factory.mktemp("demo")
    with running_collector(folder) as collector:
        tracker = create_tracker(collector.key, collector.url, home=str(folder))
        agent = ResearchAgent(tracker, OfflineModel(tokens_per_second=None))
        list(agent.answer(QUESTION))
        assert tracker.close(20).complete
        collector.run_id = agent.run_id
        yield collector
