"""What pages and the JSON API read: typed, by cursor, without bodies unless one step is asked for."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Callable, Iterable, TypedDict

from sqlalchemy import Connection, Row, Select, Text, and_, case, cast, func, or_, select

from agent_sdk.collector import bodies, schema
from agent_sdk.collector.rows import total_tokens
from agent_sdk.collector.store import Store
from agent_sdk.collector.validation import MAX_TIME
from agent_sdk.wire.records import FAILED, LOST, RUNNING

_MISSED_HEARTBEATS = 3
#: No page is longer.
MAX_PAGE = 1_000
runs, steps = schema.runs, schema.steps


class RunSummary(TypedDict):
    """A run as a line of a list. Times and durations are microseconds."""

    run_id: str
    agent_name: str
    status: str
    started_at: int
    ended_at: int | None
    duration: int | None
    step_count: int
    failed_steps: int
    open_steps: int
    total_tokens: int | None
    cost: float | None
    models: list[str]
    session_id: str | None
    user_id: str | None
    external_id: str | None
    parent_run_id: str | None
    tags: list[str]
    last_seen_at: int
    error: dict[str, Any] | None
    revision: int


class RunPage(TypedDict):
    """Some runs, newest first, and where the next ones begin."""

    runs: list[RunSummary]
    next_cursor: str | None


class StepSkeleton(TypedDict):
    """A step without its bodies."""

    step_id: str
    parent_step_id: str | None
    name: str
    step_type: str
    status: str
    started_at: int
    ended_at: int | None
    duration: int | None
    first_token_at: int | None
    model: str | None
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    tags: list[str]
    revision: int


class StepPage(TypedDict):
    """Some steps, by start time, and where the next ones begin."""

    steps: list[StepSkeleton]
    next_cursor: str | None


class RunFilter(TypedDict, total=False):
    """What runs must be like; times are microseconds. ``text`` is looked for in names, ids and errors."""

    status: str
    agent: str
    text: str
    since: int
    until: int
    session: str
    tag: str


class BadCursor(ValueError):  # noqa: N818 - named for what it is
    """A cursor that was not made here."""


class Queries:
    """Reads of one store. Each method opens its own connection; callers run them in a thread pool."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def revision(self) -> int:
        """Grows with every commit."""
        return self._store.revision

    def list_runs(self, wanted: RunFilter, cursor: str | None = None, limit: int = 50) -> RunPage:
        """Runs, newest first. Raises ``BadCursor``."""
        limit = max(1, min(limit, MAX_PAGE))
        query = _filtered(select(runs), wanted).order_by(runs.c.started_at.desc(), runs.c.run_id.desc())
        if cursor:
            started_at, run_id = _position(cursor)
            older = and_(runs.c.started_at == started_at, runs.c.run_id < run_id)
            query = query.where(or_(runs.c.started_at < started_at, older))
        with self._store.read() as connection:
            found = list(connection.execute(query.limit(limit + 1)))
            page = found[:limit]
            more = len(found) > limit
            last = _cursor(page[-1].started_at, page[-1].run_id) if more else None
            return {"runs": _summaries(connection, page), "next_cursor": last}

    def run(self, run_id: str) -> dict[str, Any] | None:
        """One run with its bodies, scores and losses; none if there is no such run."""
        with self._store.read() as connection:
            row = connection.execute(select(runs).where(runs.c.run_id == run_id)).first()
            if row is None:
                return None
            found = bodies.read(connection, (row.input, row.output, row.error, row.metadata))
            return {
                **_summaries(connection, [row])[0],
                "input": found.get(row.input),
                "output": found.get(row.output),
                "error": found.get(row.error),
                "metadata": found.get(row.metadata),
                "source": _loaded(row.source),
                "losses": _losses(connection, row.project_id, row.stream),
                "scores": _scores(connection, row.key),
            }

    def list_steps(self, run_id: str, cursor: str | None = None, limit: int = 500) -> StepPage:
        """Steps of a run by start time. Raises ``BadCursor``."""
        limit = max(1, min(limit, MAX_PAGE))
        query = _steps_of(run_id).order_by(steps.c.started_at, steps.c.step_id)
        if cursor:
            started_at, step_id = _position(cursor)
            later = and_(steps.c.started_at == started_at, steps.c.step_id > step_id)
            query = query.where(or_(steps.c.started_at > started_at, later))
        with self._store.read() as connection:
            found = list(connection.execute(query.limit(limit + 1)))
        page = found[:limit]
        last = _cursor(page[-1].started_at, page[-1].step_id) if len(found) > limit else None
        return {"steps": [_skeleton(row) for row in page], "next_cursor": last}

    def first_steps(self, run_id: str, most: int) -> list[StepSkeleton]:
        """The first steps of a run, by start time."""
        with self._store.read() as connection:
            query = _steps_of(run_id).order_by(steps.c.started_at, steps.c.step_id).limit(most)
            return [_skeleton(row) for row in connection.execute(query)]

    def step(self, run_id: str, step_id: str) -> dict[str, Any] | None:
        """One step with its bodies; none if there is no such step."""
        with self._store.read() as connection:
            row = connection.execute(_steps_of(run_id).where(steps.c.step_id == step_id)).first()
            if row is None:
                return None
            found = bodies.read(connection, (row.input, row.output, row.error, row.metadata))
        return {
            **_skeleton(row),
            "input": found.get(row.input),
            "output": found.get(row.output),
            "error": found.get(row.error),
            "metadata": found.get(row.metadata),
        }

    def agents(self) -> list[str]:
        """Names of all agents, for a filter."""
        with self._store.read() as connection:
            query = select(runs.c.agent_name).distinct().order_by(runs.c.agent_name).limit(MAX_PAGE)
            return [name for (name,) in connection.execute(query)]

    def losses(self) -> list[dict[str, Any]]:
        """What senders have said that will never come."""
        table = schema.losses
        with self._store.read() as connection:
            found = connection.execute(select(table).order_by(table.c.time.desc()).limit(MAX_PAGE))
            return [{name: row[name] for name in ("stream", "reason", "records", "time")} for row in found.mappings()]

    def changed_runs(self, after: int, run_id: str | None = None) -> list[RunSummary]:
        """Runs with a revision above ``after``, oldest change first: the next thousand, and no commit by half."""
        query = select(runs).where(runs.c.revision > after)
        if run_id is not None:
            query = query.where(runs.c.run_id == run_id)
        with self._store.read() as connection:
            found = _whole_commits(connection, query, runs.c.revision)
            pages = (found[start : start + MAX_PAGE] for start in range(0, len(found), MAX_PAGE))
            return [summary for page in pages for summary in _summaries(connection, page)]

    def changed_steps(self, run_id: str, after: int) -> list[StepSkeleton]:
        """Steps of a run with a revision above ``after``, like ``changed_runs``."""
        query = _steps_of(run_id).where(steps.c.revision > after)
        with self._store.read() as connection:
            return [_skeleton(row) for row in _whole_commits(connection, query, steps.c.revision)]

    def last_revision(self) -> int:
        """The revision of the newest change."""
        with self._store.read() as connection:
            return int(connection.execute(select(func.max(runs.c.revision))).scalar() or 0)


def _whole_commits(connection: Connection, query: Select[Any], revision: Any) -> list[Row[Any]]:
    """What changed first: a thousand rows, and the rest of the commit in which they end."""
    query = query.order_by(revision)
    last = connection.execute(query.with_only_columns(revision).offset(MAX_PAGE - 1).limit(1)).scalar()
    return list(connection.execute(query if last is None else query.where(revision <= last)))


def _is_lost(now: int) -> Any:
    silence = runs.c.heartbeat_seconds * (_MISSED_HEARTBEATS * 1_000_000)
    return and_(runs.c.status == RUNNING, runs.c.seen_at + silence < now)


def _filtered(query: Select[Any], wanted: RunFilter) -> Select[Any]:
    status = wanted.get("status")
    if status == LOST:
        query = query.where(_is_lost(_now()))
    elif status == RUNNING:
        query = query.where(runs.c.status == RUNNING, ~_is_lost(_now()))
    elif status:
        query = query.where(runs.c.status == status)
    agent = wanted.get("agent")
    if agent:
        query = query.where(runs.c.agent_name == agent)
    session = wanted.get("session")
    if session:
        query = query.where(runs.c.session_id == session)
    tag = wanted.get("tag")
    if tag:
        query = query.where(_has_tag(lambda value: value == tag))
    since = wanted.get("since")
    if since:
        query = query.where(runs.c.started_at >= since)
    until = wanted.get("until")
    if until:
        query = query.where(runs.c.started_at < until)
    text = wanted.get("text")
    if text:
        query = query.where(_mentions(text))
    return query


def _has_tag(is_it: Callable[[Any], Any]) -> Any:
    each = func.json_each(runs.c.tags).table_valued("value")
    return select(each.c.value).where(is_it(each.c.value)).exists()


def _mentions(text: str) -> Any:
    columns = (runs.c.agent_name, runs.c.run_id, runs.c.external_id, runs.c.session_id, runs.c.user_id)
    in_run = [column.icontains(text, autoescape=True) for column in (*columns, runs.c.error_message)]
    in_steps = select(steps.c.run_key).where(
        or_(*(column.icontains(text, autoescape=True) for column in (steps.c.name, steps.c.error_message)))
    )
    in_tags = _has_tag(lambda value: cast(value, Text).icontains(text, autoescape=True))
    return or_(*in_run, in_tags, runs.c.key.in_(in_steps))


def _summaries(connection: Connection, found: Iterable[Row[Any]]) -> list[RunSummary]:
    found = list(found)
    totals = _totals(connection, [row.key for row in found])
    models = _models(connection, [row.key for row in found])
    now = _now()
    return [_summary(row, totals.get(row.key), models.get(row.key, []), now) for row in found]


def _totals(connection: Connection, keys: list[int]) -> dict[int, Any]:
    query = (
        select(
            steps.c.run_key,
            func.count().label("step_count"),
            func.sum(case((steps.c.status == FAILED, 1), else_=0)).label("failed_steps"),
            func.sum(case((steps.c.status == RUNNING, 1), else_=0)).label("open_steps"),
            func.sum(steps.c.total_tokens).label("total_tokens"),
            func.sum(steps.c.cost).label("cost"),
        )
        .where(steps.c.run_key.in_(keys))
        .group_by(steps.c.run_key)
    )
    return {row.run_key: row for row in connection.execute(query)}


def _models(connection: Connection, keys: list[int]) -> dict[int, list[str]]:
    query = select(steps.c.run_key, steps.c.model).where(steps.c.run_key.in_(keys), steps.c.model.is_not(None))
    models: dict[int, list[str]] = {}
    for key, model in connection.execute(query.distinct().order_by(steps.c.model)):
        models.setdefault(key, []).append(model)
    return models


def _summary(row: Row[Any], totals: Any, models: list[str], now: int) -> RunSummary:
    silence = int(row.heartbeat_seconds * _MISSED_HEARTBEATS * 1_000_000)
    lost = row.status == RUNNING and row.seen_at + silence < now
    usage = _loaded(row.usage) or {}
    stated = total_tokens(usage)
    return {
        "run_id": row.run_id,
        "agent_name": row.agent_name,
        "status": LOST if lost else row.status,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "duration": _duration(row),
        "step_count": totals.step_count if totals else 0,
        "failed_steps": totals.failed_steps if totals else 0,
        "open_steps": totals.open_steps if totals else 0,
        "total_tokens": stated if stated is not None else totals.total_tokens if totals else None,
        "cost": usage.get("cost", totals.cost if totals else None),
        "models": models,
        "session_id": row.session_id,
        "user_id": row.user_id,
        "external_id": row.external_id,
        "parent_run_id": row.parent_run_id,
        "tags": _loaded(row.tags) or [],
        "last_seen_at": row.seen_at,
        "error": _error(row),
        "revision": row.revision,
    }


def _skeleton(row: Row[Any]) -> StepSkeleton:
    return {
        "step_id": row.step_id,
        "parent_step_id": row.parent_step_id,
        "name": row.name,
        "step_type": row.step_type,
        "status": row.status,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "duration": _duration(row),
        "first_token_at": row.first_token_at,
        "model": row.model,
        "usage": _loaded(row.usage),
        "error": _error(row),
        "tags": _loaded(row.tags) or [],
        "revision": row.revision,
    }


def _steps_of(run_id: str) -> Select[Any]:
    run_key = select(runs.c.key).where(runs.c.run_id == run_id).scalar_subquery()
    return select(steps).where(steps.c.run_key == run_key)


def _losses(connection: Connection, project_id: int, stream: str | None) -> list[dict[str, Any]]:
    table = schema.losses
    query = (
        select(table.c.reason, func.sum(table.c.records))
        .where(table.c.project_id == project_id, table.c.stream == stream)
        .group_by(table.c.reason)
    )
    return [{"reason": reason, "records": records} for reason, records in connection.execute(query)]


def _scores(connection: Connection, run_key: int) -> list[dict[str, Any]]:
    table = schema.scores
    found = connection.execute(select(table).where(table.c.run_key == run_key).order_by(table.c.time))
    return [
        {"step_id": row.step_id, "name": row.name, "value": json.loads(row.value), "comment": row.comment}
        for row in found
    ]


def _error(row: Row[Any]) -> dict[str, Any] | None:
    if row.error is None:
        return None
    return {"type": row.error_type, "message": row.error_message}


def _duration(row: Row[Any]) -> int | None:
    return None if row.ended_at is None else max(0, row.ended_at - row.started_at)


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _now() -> int:
    return time.time_ns() // 1000


def _cursor(started_at: int, identity: str) -> str:
    return base64.urlsafe_b64encode(f"{started_at}:{identity}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        started_at, identity = text.split(":")
        if abs(int(started_at)) > MAX_TIME:
            raise ValueError("there is no such time")
        return int(started_at), identity
    except ValueError as error:
        raise BadCursor("this cursor was not made by this collector: begin without one") from error
