"""Buffer, journal, sender, destinations: how records get from the caller to where they are kept."""

from __future__ import annotations

from agent_sdk.delivery.ledger import FlushResult
from agent_sdk.delivery.pipeline import Pipeline
from agent_sdk.delivery.registry import open_pipeline
from agent_sdk.delivery.settings import DEFAULT_URL, DURABILITIES, Delivery, home_directory, without_login

__all__ = [
    "DEFAULT_URL",
    "DURABILITIES",
    "Delivery",
    "FlushResult",
    "Pipeline",
    "home_directory",
    "open_pipeline",
    "without_login",
]
