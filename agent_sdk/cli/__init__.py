"""The ``agent-sdk`` command. Each subcommand is a module of this folder."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or say which extra it needs."""
    try:
        from agent_sdk.cli.commands import agent_sdk
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit("The agent-sdk command needs two more packages: pip install 'agent-sdk[cli,server]'")
    agent_sdk(prog_name="agent-sdk")
