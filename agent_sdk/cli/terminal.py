"""Runs in the terminal: one as a tree, or all as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote

import requests
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from agent_sdk.wire.fold import RunState, StepState, fold

_SHAPES = {
    "running": ("●", "blue"),
    "completed": ("✓", "green"),
    "failed": ("✕", "red"),
    "cancelled": ("⊘", "dim"),
    "interrupted": ("‖", "yellow"),
    "lost": ("◌", "red"),
}
_TIMEOUT = 10.0


class NothingToShow(Exception):  # noqa: N818 - it is an answer
    """Why there is nothing to show, and what to do."""


def show(run_id: str, url: str, path: str | None, as_json: bool) -> None:
    """Print a run of a collector, or all runs of an NDJSON file."""
    if path is not None:
        runs = [_of_state(run) for run in _runs_in(path).values()]
        if run_id != "latest":
            runs = [run for run in runs if run["run_id"] == run_id]
        if not runs:
            raise NothingToShow(f"{path} holds no such run")
    else:
        runs = [run_of_collector(url, run_id)]
    for run in runs:
        if as_json:
            print(json.dumps(run))
        else:
            Console(highlight=False).print(tree_of(run))


def tail(url: str, as_json: bool, count: int | None) -> None:
    """Print runs as they begin and end, until interrupted or ``count`` have ended."""
    console = Console(highlight=False)
    ended: set[str] = set()
    told: dict[str, str] = {}
    for run in _changes(url):
        if told.get(run["run_id"]) == run["status"]:
            continue
        told[run["run_id"]] = run["status"]
        if as_json:
            print(json.dumps(run), flush=True)
        else:
            console.print(_run_line(run), run["run_id"], style=None)
        if run["status"] != "running":
            ended.add(run["run_id"])
        if count is not None and len(ended) >= count:
            return


def tree_of(run: dict[str, Any]) -> Tree:
    """A run with its steps as a tree for the terminal."""
    tree = Tree(_run_line(run), guide_style="dim")
    for step in run["tree"]:
        _add(tree, step)
    return tree


def _add(tree: Tree, step: dict[str, Any]) -> None:
    branch = tree.add(_step_line(step))
    for child in step["children"]:
        _add(branch, child)


def _run_line(run: dict[str, Any]) -> Text:
    line = _status(run)
    line.append(run["agent_name"] or "unnamed", style="bold")
    _details(line, run, (f"{run['step_count']} steps", _tokens(run.get("total_tokens")), _cost(run.get("cost"))))
    return line


def _step_line(step: dict[str, Any]) -> Text:
    line = _status(step)
    line.append(step["name"] or "unnamed")
    usage = step.get("usage") or {}
    total = sum(v for k, v in usage.items() if k.endswith("_tokens") and k != "total_tokens") or None
    details = (step["step_type"].replace("_", " "), step.get("model"), _tokens(total or usage.get("total_tokens")))
    _details(line, step, details)
    return line


def _status(item: dict[str, Any]) -> Text:
    shape, style = _SHAPES.get(item["status"], ("·", ""))
    return Text(f"{shape} ", style=style)


def _details(line: Text, item: dict[str, Any], known: tuple[str | None, ...]) -> None:
    took = item.get("duration")
    parts = [_duration(took) if took is not None else item["status"], *(part for part in known if part)]
    line.append("  " + " · ".join(parts), style="dim")
    error = item.get("error")
    if error and item["status"] != "completed":
        line.append(f"  {error.get('type') or 'error'}: {(error.get('message') or '')[:100]}", style="red")


def _duration(microseconds: int) -> str:
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.3g} ms"
    return f"{microseconds / 1_000_000:.3g} s"


def _tokens(number: int | None) -> str | None:
    return None if number is None else f"{number:,} tokens"


def _cost(amount: float | None) -> str | None:
    return None if amount is None else f"${amount:.4g}"


# -- where runs come from ----------------------------------------------------------------------------------------------


def _runs_in(path: str) -> dict[str, RunState]:
    with Path(path).open(encoding="utf-8") as file:
        return fold(json.loads(line) for line in file if line.strip())


def _of_state(run: RunState) -> dict[str, Any]:
    fields = {"started_at": None, "ended_at": None, **run.fields}
    return {
        "run_id": run.run_id,
        "agent_name": run.agent_name,
        "status": run.status,
        "duration": _taken(fields),
        "step_count": len(run.steps),
        "error": fields.get("error"),
        "tree": [_of_step_state(step) for step in run.tree()],
    }


def _of_step_state(step: StepState) -> dict[str, Any]:
    return {
        "step_id": step.step_id,
        "name": step.name,
        "step_type": step.fields.get("step_type", "other"),
        "status": step.status,
        "duration": _taken(step.fields),
        "model": step.fields.get("model"),
        "usage": step.fields.get("usage"),
        "error": step.fields.get("error"),
        "children": [_of_step_state(child) for child in step.children],
    }


def _taken(fields: dict[str, Any]) -> int | None:
    if fields.get("started_at") is None or fields.get("ended_at") is None:
        return None
    return int(fields["ended_at"] - fields["started_at"])


def run_of_collector(url: str, run_id: str) -> dict[str, Any]:
    """A run of a collector, with its steps as a tree."""
    if run_id == "latest":
        newest = _get(url, "/api/v1/runs?limit=1")["runs"]
        if not newest:
            raise NothingToShow(f"the collector at {url} has no runs yet: record one, or try `agent-sdk demo`")
        run_id = newest[0]["run_id"]
    run: dict[str, Any] = _get(url, f"/api/v1/runs/{quote(run_id, safe='')}")
    run["tree"] = _nested(list(_steps(url, run["run_id"])))
    return run


def _steps(url: str, run_id: str) -> Iterator[dict[str, Any]]:
    cursor = ""
    while cursor is not None:
        page = _get(url, f"/api/v1/runs/{run_id}/steps?limit=1000&cursor={cursor}")
        yield from page["steps"]
        cursor = page["next_cursor"]


def _nested(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = {step["step_id"]: {**step, "children": []} for step in steps}
    roots: list[dict[str, Any]] = []
    for step in known.values():
        parent = known.get(step["parent_step_id"])
        (roots if parent is None else parent["children"]).append(step)
    return roots


def _get(url: str, path: str) -> Any:
    try:
        answer = requests.get(url + path, timeout=_TIMEOUT)
        found = answer.json()
    except (requests.RequestException, ValueError):
        raise NothingToShow(f"there is no collector at {url}: start one with `agent-sdk serve`") from None
    if answer.status_code != 200:
        raise NothingToShow(f"{url}: {found.get('detail', answer.status_code)}")
    return found


def _changes(url: str) -> Iterator[dict[str, Any]]:
    """Summaries of runs as they change, by the collector's server-sent events."""
    try:
        with requests.get(url + "/api/v1/live", stream=True, timeout=(3, 60)) as answer:
            event = ""
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith("event: "):
                    event = line[7:]
                elif line.startswith("data: ") and event == "run":
                    yield json.loads(line[6:])
    except requests.RequestException:
        raise NothingToShow(f"there is no collector at {url}: start one with `agent-sdk serve`") from None
