"""The viewer in a real Chromium, before a real collector."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from tests.support.collector import wait_for

pytestmark = pytest.mark.browser


def rows(page):
    return page.locator(".waterfall .row:visible")


def row(page, name):
    return page.locator(".row", has=page.get_by_role("link", name=name, exact=True))


class TestTheDemosRun:
    @pytest.fixture(autouse=True)
    def opened(self, demo, page):
        page.goto(f"{demo.url}/runs")
        page.get_by_role("link", name="island researcher").first.click()
        expect(page.locator("h1")).to_contain_text("island researcher")

    def test_its_tree_folds_and_unfolds(self, page):
        everything = rows(page).count()
        assert everything > 10
        parent = page.locator(".row:not(.root):has(.fold)").first
        name = parent.get_by_role("link").inner_text()
        parent.locator(".fold").click()
        expect(parent.locator(".fold")).to_have_attribute("aria-expanded", "false")
        assert rows(page).count() < everything
        row(page, name).first.locator(".fold").click()
        assert rows(page).count() == everything

    def test_a_steps_output_can_be_read(self, demo, page):
        step = next(step for step in demo.steps(demo.run_id) if step["name"] == "write answer")
        row(page, "write answer").click()
        inspector = page.locator("#inspector")
        expect(inspector.locator("h2")).to_contain_text("write answer")
        output = demo.get(f"/api/v1/runs/{demo.run_id}/steps/{step['step_id']}")["output"]
        shown = inspector.get_by_label("Output")
        expect(shown).to_contain_text(output[:60] if isinstance(output, str) else "")
        assert page.url.endswith(f"?step={step['step_id']}")
        page.reload()
        expect(page.locator("#inspector h2")).to_contain_text("write answer")

    def test_the_keyboard_moves_through_it(self, page):
        page.locator(".row.root").click()
        page.keyboard.press("ArrowDown")
        expect(page.locator(".row").nth(1)).to_have_class(re.compile("chosen"))
        everything = rows(page).count()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowRight")
        assert rows(page).count() == everything
        page.keyboard.press("e")
        expect(page.locator(".row.chosen")).to_have_class(re.compile("failed"))
        expect(page.locator("#inspector .body.error")).to_be_visible()
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("b")
        page.wait_for_url("**/runs")

    def test_bars_lie_on_one_time_axis(self, page):
        boxes = page.evaluate(
            "[...document.querySelectorAll('.row')].map(row => [Number(row.dataset.depth),"
            " ...['left', 'right'].map(side => row.querySelector('.bar').getBoundingClientRect()[side])])"
        )
        run_left, run_right = boxes[0][1:]
        open_parents = []
        for depth, left, right in boxes:
            open_parents = open_parents[:depth]
            for parent_left, _ in open_parents[-1:]:
                assert left >= parent_left - 1
            assert run_left - 1 <= left <= right <= run_right + 3
            open_parents.append((left, right))

    def test_json_can_be_shown_and_copied(self, page):
        row(page, "write answer").click()
        expect(page.locator("#inspector h2")).to_contain_text("write answer")
        output = page.locator("#inspector").get_by_label("Output")
        output.get_by_role("button", name="JSON").click()
        raw = output.locator("pre.raw")
        expect(raw).to_be_visible()
        output.get_by_role("button", name="Copy").click()
        expect(output.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == raw.text_content()

    def test_in_the_dark_and_on_a_phone_nothing_is_cut_off(self, page):
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        page.set_viewport_size({"width": 360, "height": 740})
        for address in (page.url, page.url.rpartition("/")[0]):
            page.goto(address)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360


class TestLive:
    def test_a_running_run_becomes_finished_without_reload(self, collector, tracker, page):
        run = tracker.start_run("slow agent")
        first = run.child("first")
        tracker.flush()
        page.goto(f"{collector.url}/runs/{run}")
        page.evaluate("window.same = true")
        expect(page.locator(".run-head")).to_have_attribute("data-status", "running")
        expect(page.locator(".run-head")).to_contain_text("running")
        expect(row(page, "first")).to_have_class(re.compile("running"))
        first.end(output="done")
        run.child("second").end()
        expect(row(page, "second")).to_be_visible()
        tracker.end_run(output="all done")
        expect(page.locator(".run-head")).to_have_attribute("data-status", "completed")
        expect(page.locator("#inspector")).to_contain_text("all done")
        assert page.evaluate("window.same") is True

    def test_a_new_run_appears_in_the_list_by_itself(self, collector, tracker, page):
        page.goto(f"{collector.url}/runs")
        expect(page.get_by_text("No runs yet")).to_be_visible()
        expect(page.locator("pre.snippet")).to_contain_text("@agent_sdk.track")
        page.evaluate("window.same = true")
        with tracker.track_run("newcomer"):
            expect(page.locator("tr", has_text="newcomer")).to_contain_text("running")
        expect(page.locator("tr", has_text="newcomer")).to_contain_text("completed")
        assert page.evaluate("window.same") is True

    def test_a_run_whose_process_died_looks_lost(self, collector, page):
        body = [
            {"type": "run.start", "id": "00000000000000aa-1", "time": 1_000_000, "agent_name": "gone",
             "run_id": "0192f0c0-0000-7000-8000-00000000000a"},
            {"type": "heartbeat", "id": "00000000000000aa-2", "time": 2_000_000, "interval": 0.001,
             "runs": ["0192f0c0-0000-7000-8000-00000000000a"]},
        ]  # fmt: skip
        assert collector.post("\n".join(map(json.dumps, body)).encode()).status_code == 200
        wait_for(lambda: collector.runs()[0]["status"] == "lost", "it is not lost")
        page.goto(f"{collector.url}/runs")
        expect(page.locator("tr", has_text="gone")).to_contain_text("lost")
        page.get_by_role("link", name="gone").click()
        expect(page.locator(".notice.lost").first).to_contain_text("went silent")


class TestTheList:
    def test_it_is_searched_filtered_and_walked_by_keyboard(self, collector, tracker, page):
        for name in ("alpha", "beta", "gamma"):
            tracker.track_run(name).end("failed" if name == "beta" else "completed")
        tracker.flush()
        page.goto(f"{collector.url}/runs")
        assert page.locator("tr[data-run]").count() == 3
        page.get_by_label("Status").select_option("failed")
        page.wait_for_url("**status=failed**")
        expect(page.locator("tr[data-run]")).to_have_count(1)
        page.goto(f"{collector.url}/runs")
        page.keyboard.press("/")
        page.keyboard.type("gamma")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=gamma**")
        expect(page.locator("tr[data-run]")).to_have_count(1)
        page.goto(f"{collector.url}/runs?q=nothing-like-it")
        expect(page.get_by_text("No run matches")).to_be_visible()
        page.get_by_role("link", name="Show all runs").click()
        expect(page.locator("tr[data-run]")).to_have_count(3)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url("**/runs/*-*")


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "\u202eevil\u2066",
    "</pre></script><svg onload=alert(1)>",
    "'; DROP TABLE runs; --",
]


class TestHostileContent:
    def test_it_is_shown_as_text_and_runs_nothing(self, collector, tracker, page):
        text = " ".join(HOSTILE)
        with tracker.track_run(
            text, input_data={text: [text]}, session_id=text, user_id=text, tags=HOSTILE, metadata={text: {text: text}}
        ) as run:
            with run.child(text, text, {"messages": [{"role": text, "content": text}]}) as step:
                step.set_model(text).set_error({"type": text, "message": text, "stack": text}).set_output(text)
            run.child("long", input_data="word " * 20_000).end()
        tracker.flush()
        page.goto(f"{collector.url}/runs")
        expect(page.locator("tr[data-run]")).to_have_count(1)
        page.locator("td.agent a").first.click()
        expect(page.locator("h1")).to_contain_text("<script>alert(1)</script>")
        page.locator(".row").nth(1).click()
        expect(page.locator("#inspector .body.error")).to_contain_text("<svg onload=alert(1)>")
        page.locator(".row").nth(2).click()
        expect(page.locator("#inspector").get_by_label("Input")).to_contain_text("word word")
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        assert page.locator("img, script:not([src])").count() == page.locator("img[src^='/static']").count()
