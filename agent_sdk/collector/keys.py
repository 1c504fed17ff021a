"""Projects and their API keys. Only a digest of a key is stored; the key itself is shown once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from sqlalchemy import insert, select, update

from agent_sdk.collector import schema
from agent_sdk.collector.store import Store

DEFAULT_PROJECT = "default"
_PREFIX = "ask_"


def _digest(key: str) -> bytes:
    # A key has 256 random bits, so a fast hash is as good as a slow one, and does not slow down ingest.
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def ensure_project(store: Store, name: str = DEFAULT_PROJECT) -> int:
    """The id of a project, which is made if there is none of this name."""
    table = schema.projects
    with store.write() as connection:
        found = connection.execute(select(table.c.id).where(table.c.name == name)).scalar()
        if found is not None:
            return int(found)
        made = connection.execute(insert(table).values(name=name, created_at=time.time_ns() // 1000))
        (key,) = made.inserted_primary_key or (0,)  # None for a statement that inserts several rows
        return int(key)


def create_key(store: Store, project_id: int, name: str) -> str:
    """A new key, to be shown once."""
    key = _PREFIX + secrets.token_urlsafe(32)
    with store.write() as connection:
        connection.execute(
            insert(schema.keys).values(
                project_id=project_id,
                name=name,
                prefix=key[:8],
                digest=_digest(key),
                created_at=time.time_ns() // 1000,
            )
        )
    return key


def revoke_key(store: Store, key: str) -> None:
    """Make a key worthless, now."""
    with store.write() as connection:
        statement = update(schema.keys).where(schema.keys.c.digest == _digest(key))
        connection.execute(statement.values(revoked_at=time.time_ns() // 1000))


def project_of(store: Store, key: str) -> int | None:
    """The project that a valid key belongs to."""
    digest = _digest(key)
    table = schema.keys
    with store.read() as connection:
        row = connection.execute(
            select(table.c.project_id, table.c.digest).where(table.c.digest == digest, table.c.revoked_at.is_(None))
        ).first()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    return int(row.project_id)
