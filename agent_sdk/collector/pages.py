"""The viewer: pages rendered on the server, each with a machine twin under ``/api/v1``.

A page can be asked for one of its parts (``?part=``), which is how it renews itself while it is open: how a thing
looks is decided here and nowhere else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Awaitable, Callable
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from agent_sdk.collector.api import FILTER_PARAMETERS, BadParameter, run_filter
from agent_sdk.collector.presentation import FILTERS, STATUS_SHAPES, TESTS
from agent_sdk.collector.queries import BadCursor, Queries
from agent_sdk.collector.timeline import timeline

_HERE = Path(__file__).parent
_MOST_STEPS = 2_000
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Page = Callable[[Request], Awaitable[Response]]


def page_routes(queries: Queries) -> list[BaseRoute]:
    """The routes of all pages."""
    pages = _Pages(queries)
    return [
        Route("/", lambda request: RedirectResponse("/runs")),
        Route("/runs", pages.runs),
        Route("/runs/{run_id}", pages.run),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]


class _Pages:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)
        self._templates.tests.update(TESTS)
        self._templates.globals.update(shapes=STATUS_SHAPES, dumped=_dumped)

    def _render(self, template: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(values), status, headers=_SECURITY)

    async def runs(self, request: Request) -> Response:
        """The list of runs, newest first."""
        try:
            wanted = run_filter(request)
            page = await run_in_threadpool(self._queries.list_runs, wanted, request.query_params.get("cursor"), 50)
        except (BadParameter, BadCursor) as error:
            return self._render("message.html", 400, title="That address cannot be read", text=str(error))
        chosen = {name: request.query_params.get(name, "") for name in FILTER_PARAMETERS}
        asked = {name: value for name, value in chosen.items() if value}
        older = urlencode({**asked, "cursor": page["next_cursor"]}) if page["next_cursor"] else None
        return self._render(
            "runs_part.html" if request.query_params.get("part") == "rows" else "runs.html",
            runs=page["runs"],
            older=older,
            newest=not request.query_params.get("cursor"),
            chosen=chosen,
            agents=await run_in_threadpool(self._queries.agents),
            revision=await run_in_threadpool(self._queries.last_revision),
        )

    async def run(self, request: Request) -> Response:
        """One run: its tree on a time axis, and what is known about the chosen step."""
        return await run_in_threadpool(
            self._run,
            request.path_params["run_id"],
            request.query_params.get("step"),
            request.query_params.get("part", "page"),
        )

    def _run(self, run_id: str, step_id: str | None, part: str) -> Response:
        run = self._queries.run(run_id)
        if run is None:
            text = f"There is no run {run_id} here. Was it recorded into another collector?"
            return self._render("message.html", 404, title="No such run", text=text)
        chosen = self._queries.step(run_id, step_id) if step_id else None
        if part == "inspector":
            return self._render("inspector.html", run=run, chosen=chosen)
        steps = self._queries.first_steps(run_id, _MOST_STEPS)
        return self._render(
            "run_part.html" if part == "tree" else "run.html",
            run=run,
            chosen=chosen,
            timeline=timeline(run, steps),
            left_out=max(0, run["step_count"] - len(steps)),
        )


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
