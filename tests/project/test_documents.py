"""README, docs and docstrings: what they show works, and what they link exists."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import agent_sdk

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(program, home, *arguments):
    environment = {**os.environ, "AGENT_SDK_HOME": str(home)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


class TestFirstSnippet:
    def test_it_is_short_and_is_the_example(self):
        lines = [line for line in SNIPPETS[0].splitlines() if line.strip()]
        assert len(lines) <= 10
        shown = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
        assert lines == [line for line in shown.splitlines()[1:] if line.strip()]

    def test_pasted_it_runs_without_a_server_and_a_server_started_later_shows_the_run(self, tmp_path):
        from tests.support.collector import collector_process, wait_for

        ran = run(SNIPPETS[0], tmp_path)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "42, I believe\n", "")
        with collector_process(tmp_path) as collector:
            wait_for(lambda: collector.runs(), "the run does not arrive")
            (found,) = collector.runs()
            assert (found["agent_name"], found["status"]) == ("agent", "completed")
            (step,) = collector.steps(found["run_id"])
            assert (step["name"], step["step_type"], step["status"]) == ("look_up", "tool_call", "completed")


@pytest.mark.parametrize("number", range(1, len(SNIPPETS)))
def test_every_other_snippet_runs(number, tmp_path):
    ran = run(SNIPPETS[number], tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not link.startswith(("http:", "https:")):
            assert (document.parent / link).exists(), link


def test_commands_of_the_readme_exist():
    from agent_sdk.cli.commands import agent_sdk as group

    named = set(re.findall(r"`?agent-sdk ([a-z]+)", README))
    assert named <= set(group.commands)
    assert set(group.commands) <= named, "a command that nobody is told of"


def test_ci_calls_the_test_command_of_the_readme():
    assert "python3 scripts/dev.py test" in README
    assert "python3 scripts/dev.py test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def modules():
    for found in pkgutil.walk_packages(agent_sdk.__path__, "agent_sdk."):
        if "examples" not in found.name and not found.name.endswith("__main__"):
            yield found.name
    yield "agent_sdk"


@pytest.mark.parametrize("name", sorted(modules()))
def test_examples_in_docstrings_give_what_they_say(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_no_secret_no_host_and_no_path_of_a_machine_is_in_the_repository():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository here")
    bad = re.compile(r"/root/|/home/[a-z]+/(?!\.)|/work/|index-url|artifactory|[a-z]+\.internal\b")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".png", ".ico") or name.startswith("tests/") or not path.exists():
            continue
        found = bad.search(path.read_text(encoding="utf-8"))
        assert not found, f"{name}: {found[0]}"
