"""What every test may rely on: a home of its own, no settings from outside, nothing said before, no run around it."""

from __future__ import annotations

import os

import pytest

from agent_sdk.delivery import log
from agent_sdk.recording.context import current


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AGENT_SDK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGENT_SDK_HOME", str(tmp_path / "home"))
    log.forget()
    current.set(None)
