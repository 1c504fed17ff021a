"""The tables: narrow ones for what is listed and filtered, one for bodies, each body once however often it was sent."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

#: Which records of a stream have been taken, as ranges of numbers: ``[[1, 48211], [48213, 48300]]``.
streams = Table(
    "streams",
    metadata,
    Column("project_id", Integer, primary_key=True),
    Column("stream", String(16), primary_key=True),
    Column("ranges", Text, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

#: Inputs, outputs, errors and metadata by the hash of their JSON. ``encoding`` is ``zlib`` or empty.
bodies = Table(
    "bodies",
    metadata,
    Column("hash", LargeBinary(16), primary_key=True),
    Column("size", Integer, nullable=False),
    Column("encoding", String(8), nullable=False),
    Column("data", LargeBinary, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("run_id", String(36), nullable=False),
    Column("agent_name", Text, nullable=False, default=""),
    Column("status", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("seen_at", BigInteger, nullable=False),
    Column("heartbeat_seconds", Float, nullable=False),
    Column("session_id", Text),
    Column("user_id", Text),
    Column("external_id", Text),
    Column("parent_run_id", String(36)),
    Column("stream", String(16)),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("tags", Text),
    Column("usage", Text),
    Column("input", LargeBinary(16)),
    Column("output", LargeBinary(16)),
    Column("error", LargeBinary(16)),
    Column("metadata", LargeBinary(16)),
    Column("source", Text),
    Column("more", Text),
    Column("versions", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("project_id", "run_id"),
    Index("runs_by_time", "project_id", "started_at", "run_id"),
    Index("runs_by_revision", "project_id", "revision"),
    Index("runs_by_session", "project_id", "session_id"),
)

steps = Table(
    "steps",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("run_key", Integer, nullable=False),
    Column("step_id", String(16), nullable=False),
    Column("parent_step_id", String(16)),
    Column("name", Text, nullable=False, default=""),
    Column("step_type", String(64), nullable=False, default="other"),
    Column("status", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("first_token_at", BigInteger),
    Column("model", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("tags", Text),
    Column("usage", Text),
    Column("total_tokens", BigInteger),
    Column("cost", Float),
    Column("input", LargeBinary(16)),
    Column("output", LargeBinary(16)),
    Column("error", LargeBinary(16)),
    Column("metadata", LargeBinary(16)),
    Column("more", Text),
    Column("versions", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("run_key", "step_id"),
    Index("steps_by_time", "run_key", "started_at", "step_id"),
    Index("steps_by_revision", "run_key", "revision"),
)

scores = Table(
    "scores",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("run_key", Integer, nullable=False, index=True),
    Column("step_id", String(16)),
    Column("name", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("comment", Text),
    Column("time", BigInteger, nullable=False),
)

losses = Table(
    "losses",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("project_id", Integer, nullable=False),
    Column("stream", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("records", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("losses_by_stream", "project_id", "stream"),
)
