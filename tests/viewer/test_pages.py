"""Pages as HTTP answers: headers, mistakes, links."""

from __future__ import annotations

import re

import requests


def get(collector, path):
    return requests.get(collector.url + path, timeout=20)


def test_pages_allow_no_foreign_code_and_are_not_kept(demo):
    for path in ("/runs", f"/runs/{demo.run_id}", "/runs/none"):
        headers = get(demo, path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_no_page_asks_another_host_for_anything(demo):
    for path in ("/runs", f"/runs/{demo.run_id}"):
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', get(demo, path).text)


def test_the_first_page_leads_to_the_runs(demo):
    assert get(demo, "/").url.endswith("/runs")


def test_a_run_that_is_not_there_says_so(demo):
    answer = get(demo, "/runs/0192f0c0-0000-7000-8000-000000000000")
    assert answer.status_code == 404
    assert "Was it recorded into another collector?" in answer.text


def test_an_address_that_cannot_be_read_says_what_is_wrong(demo):
    answer = get(demo, "/runs?cursor=nonsense")
    assert answer.status_code == 400
    assert "cannot be read" in answer.text


def test_parts_are_the_same_html_as_in_the_page(demo):
    whole = get(demo, f"/runs/{demo.run_id}").text
    part = get(demo, f"/runs/{demo.run_id}?part=tree").text
    strip = re.compile(r"\s+")
    assert strip.sub("", part.split("<time")[0]) in strip.sub("", whole)


def test_older_runs_are_linked_until_there_are_none(collector, tracker):
    for number in range(120):
        tracker.track_run(f"agent {number:03}").end()
    tracker.flush(20)
    path, seen = "/runs", []
    while path:
        text = get(collector, path).text
        seen += re.findall(r">(agent \d{3})<", text.split("<tbody>")[1])
        found = re.search(r'href="(/runs\?[^"]*)" rel="next"', text)
        path = found[1].replace("&amp;", "&") if found else None
    assert seen == [f"agent {number:03}" for number in reversed(range(120))]
