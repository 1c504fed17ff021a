"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

import sys
from typing import Any

import click

from agent_sdk.delivery import DEFAULT_URL
from agent_sdk.wire.version import __version__

_PORT = 8790


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="agent-sdk")
def agent_sdk() -> None:
    """The flight recorder for AI agents: collect runs, look at them, deliver what was left behind."""


def _needs_server() -> None:
    try:
        import sqlalchemy  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise click.ClickException("this command needs the collector: pip install 'agent-sdk[cli,server]'") from None


@agent_sdk.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on (this machine only).")
@click.option("--port", default=_PORT, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--database", type=click.Path(dir_okay=False), help="SQLite file [default: collector.db in the home].")
def serve(host: str, port: int, database: str | None) -> None:
    """Start the collector and its web viewer.

    Takes over what programs on this machine recorded while no collector was running. Data lives in AGENT_SDK_HOME
    (default ~/.agent-sdk).

    \b
    Example:
      agent-sdk serve --port 8791
    """
    _needs_server()
    from agent_sdk.cli.server import CannotServe, serve_forever

    try:
        serve_forever(host, port, database)
    except CannotServe as error:
        raise click.ClickException(str(error)) from None


@agent_sdk.command()
@click.option("--once", is_flag=True, help="Exit when the run is stored.")
@click.option("--port", default=_PORT, show_default=True, help="Port of the collector; one that runs there is used.")
@click.option("--fast", is_flag=True, help="Answer without the pauses of a real model.")
def demo(once: bool, port: int, fast: bool) -> None:
    """Record a research agent at work and show the run.

    The agent plans, reads files, retries a tool that fails, asks two sub-agents in parallel and streams an answer. Its
    model is a small program, so nothing leaves this machine.

    \b
    Example:
      agent-sdk demo --once
    """
    _needs_server()
    from agent_sdk.cli.demonstration import demonstrate
    from agent_sdk.cli.server import CannotServe

    try:
        demonstrate(once, port, fast)
    except CannotServe as error:
        raise click.ClickException(str(error)) from None


@agent_sdk.command()
@click.option("--to", metavar="URL", help="Deliver to this collector [default: where each journal was meant to go].")
@click.option("--api-key", envvar="AGENT_SDK_API_KEY", help="Key to deliver with.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to try for.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def push(to: str | None, api_key: str | None, timeout: float, as_json: bool) -> None:
    """Deliver what programs that have ended left on this machine.

    Exits with 1 if something could not be delivered; it stays on the disk for the next try.

    \b
    Example:
      agent-sdk push --timeout 5
    """
    from agent_sdk.cli.pushing import push_leftovers

    sys.exit(push_leftovers(to, api_key, timeout, as_json))


@agent_sdk.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Say why traces do not show up, and what to do about it.

    Looks at the settings, the key, the journal, the network and the collector as a tracker in this shell would use
    them, sends a test run, and reads it back. Exits with 1 if something is wrong.

    \b
    Example:
      agent-sdk doctor
    """
    from agent_sdk.cli.doctor import examine

    sys.exit(examine(as_json))


_URL = click.option("--url", default=DEFAULT_URL, show_default=True, envvar="AGENT_SDK_BASE_URL", help="Collector.")


@agent_sdk.command()
@click.argument("run_id", default="latest")
@_URL
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False), help="Read an NDJSON file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run_id: str, url: str, path: str | None, as_json: bool) -> None:
    """Show a run as a tree: its id, or `latest`.

    \b
    Examples:
      agent-sdk show latest
      agent-sdk show --file records.ndjson
    """
    _shown(lambda terminal: terminal.show(run_id, url, path, as_json))


@agent_sdk.command()
@_URL
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--count", type=int, help="Stop after so many runs.")
def tail(url: str, as_json: bool, count: int | None) -> None:
    """Follow runs as they begin and end.

    \b
    Example:
      agent-sdk tail --count 1
    """
    _shown(lambda terminal: terminal.tail(url, as_json, count))


def _shown(action: Any) -> None:
    from agent_sdk.cli import terminal

    try:
        action(terminal)
    except terminal.NothingToShow as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        pass
