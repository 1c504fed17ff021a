"""The collector: ingest API, SQLite and web viewer in one process. Needs ``pip install agent-sdk[server]``."""

from __future__ import annotations

from agent_sdk.collector.app import create_app
from agent_sdk.collector.keys import create_key, ensure_project
from agent_sdk.collector.queries import Queries
from agent_sdk.collector.store import Store

__all__ = ["Queries", "Store", "create_app", "create_key", "ensure_project"]
