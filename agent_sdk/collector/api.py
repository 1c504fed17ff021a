"""The read API under ``/api/v1``: JSON of everything that the pages show, and changes as they happen."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, AsyncIterator

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent_sdk.collector.queries import MAX_PAGE, BadCursor, Queries, RunFilter
from agent_sdk.collector.validation import MAX_TIME

_LIVE_EVERY = 0.25
_KEEP_ALIVE_EVERY = 15.0
_TIME_FILTERS = ("since", "until")
_TEXT_FILTERS = {"status": "status", "agent": "agent", "q": "text", "session": "session", "tag": "tag"}
#: Parameters that choose runs, for the API and the pages.
FILTER_PARAMETERS = (*_TEXT_FILTERS, *_TIME_FILTERS)


class BadParameter(ValueError):  # noqa: N818 - named for what it is
    """A query parameter that cannot be used."""


def run_filter(request: Request) -> RunFilter:
    """The filter that a request's parameters ask for. Raises ``BadParameter``."""
    wanted: dict[str, Any] = {}
    for parameter, name in _TEXT_FILTERS.items():
        value = request.query_params.get(parameter)
        if value:
            wanted[name] = value
    for name in _TIME_FILTERS:
        if request.query_params.get(name):
            wanted[name] = _integer(request, name, 0)
    return wanted  # type: ignore[return-value]


def _integer(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if not text:
        return default
    try:
        return max(-MAX_TIME, min(int(text), MAX_TIME))
    except ValueError:
        raise BadParameter(f"{name}: must be a whole number") from None


def api_routes(queries: Queries) -> list[Route]:
    """The routes of the read API."""

    async def answer(question: Any, *arguments: Any) -> Response:
        found = await run_in_threadpool(question, *arguments)
        if found is None:
            return JSONResponse({"detail": "there is no such run or step"}, status_code=404)
        return JSONResponse(found)

    async def list_runs(request: Request) -> Response:
        try:
            limit = _integer(request, "limit", 50)
            return await answer(queries.list_runs, run_filter(request), request.query_params.get("cursor"), limit)
        except (BadParameter, BadCursor) as error:
            return JSONResponse({"detail": str(error)}, status_code=400)

    async def run(request: Request) -> Response:
        return await answer(queries.run, request.path_params["run_id"])

    async def list_steps(request: Request) -> Response:
        try:
            limit = _integer(request, "limit", 500)
            cursor = request.query_params.get("cursor")
            return await answer(queries.list_steps, request.path_params["run_id"], cursor, limit)
        except (BadParameter, BadCursor) as error:
            return JSONResponse({"detail": str(error)}, status_code=400)

    async def step(request: Request) -> Response:
        return await answer(queries.step, request.path_params["run_id"], request.path_params["step_id"])

    async def agents(_: Request) -> Response:
        return JSONResponse({"agents": await run_in_threadpool(queries.agents)})

    async def losses(_: Request) -> Response:
        return JSONResponse({"losses": await run_in_threadpool(queries.losses)})

    async def live(request: Request) -> Response:
        try:
            after = _integer(request, "after", -1)
            last_seen = request.headers.get("last-event-id", "")
            after = min(int(last_seen), MAX_TIME) if re.fullmatch("[0-9]{1,18}", last_seen) else after
        except BadParameter as error:
            return JSONResponse({"detail": str(error)}, status_code=400)
        events = _changes(queries, request.query_params.get("run_id"), after)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return [
        Route("/api/v1/runs", list_runs),
        Route("/api/v1/runs/{run_id}", run),
        Route("/api/v1/runs/{run_id}/steps", list_steps),
        Route("/api/v1/runs/{run_id}/steps/{step_id}", step),
        Route("/api/v1/agents", agents),
        Route("/api/v1/losses", losses),
        Route("/api/v1/live", live),
    ]


async def _changes(queries: Queries, run_id: str | None, after: int) -> AsyncIterator[str]:
    """Server-sent events: everything that has changed after revision ``after``, then what changes from now on.

    The id of an event is a revision. All changes of one commit share it, and the id is sent with the last of them, so
    that a reader who comes back misses none.
    """
    if after < 0:
        after = await run_in_threadpool(queries.last_revision)
    quiet_since = time.monotonic()
    yield "retry: 1000\n\n"
    while True:
        events, reached = await run_in_threadpool(_events_after, queries, run_id, after)
        for kind, data in events:
            yield f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
        if events:
            after = reached
            quiet_since = time.monotonic()
            yield f"id: {after}\nevent: revision\ndata: {after}\n\n"
        elif time.monotonic() - quiet_since > _KEEP_ALIVE_EVERY:
            quiet_since = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(_LIVE_EVERY)


def _events_after(queries: Queries, run_id: str | None, after: int) -> tuple[list[tuple[str, Any]], int]:
    """Changes, and the revision up to which they are complete."""
    changed = queries.changed_runs(after, run_id)
    if not changed:
        return [], after
    # Steps are read later than their run, and may be newer or not all: what is told twice does no harm.
    reached = changed[-1]["revision"]
    events: list[tuple[str, Any]] = []
    if run_id is not None:
        steps = queries.changed_steps(run_id, after)
        events += [("step", {**step, "run_id": run_id}) for step in steps]
        if len(steps) >= MAX_PAGE:
            reached = min(reached, steps[-1]["revision"])
    return events + [("run", summary) for summary in changed], reached
