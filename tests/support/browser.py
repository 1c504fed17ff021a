"""A real Chromium, wherever this machine keeps one."""

from __future__ import annotations

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def launched(playwright):
    """A browser; skips the test where there is none, unless ``AGENT_SDK_REQUIRE_BROWSER`` is set."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    try:
        return playwright.chromium.launch(executable_path=path, args=_FLAGS)
    except Exception as error:
        if os.environ.get("AGENT_SDK_REQUIRE_BROWSER"):
            raise
        pytest.skip(f"no Chromium on this machine ({str(error).splitlines()[0]}): install one, or set CHROMIUM")
