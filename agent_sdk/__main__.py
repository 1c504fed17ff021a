"""``python -m agent_sdk``: the same as the command ``agent-sdk``."""

from __future__ import annotations

from agent_sdk.cli import main

if __name__ == "__main__":
    main()
