"""``agent-sdk demo``: a collector, a real agent recorded through the public API, and its run on the screen."""

from __future__ import annotations

import threading

from rich.console import Console

from agent_sdk import create_tracker
from agent_sdk.cli import terminal
from agent_sdk.cli.server import CannotServe, RunningCollector, is_ours, wait_until_ready
from agent_sdk.examples.offline_model import OfflineModel  # pyright: ignore[reportMissingImports]
from agent_sdk.examples.research_agent import (  # pyright: ignore[reportMissingImports]
    QUESTION,
    ResearchAgent,
)

_TOKENS_PER_SECOND = 90.0


def demonstrate(once: bool, port: int, fast: bool) -> None:
    """Run the demo; raises ``CannotServe`` if there can be no collector."""
    url = f"http://127.0.0.1:{port}"
    collector = None
    if port == 0 or not is_ours(url):
        collector = RunningCollector("127.0.0.1", port, None)
        collector.start()
        url = collector.url
        wait_until_ready(url)
    try:
        _record_and_show(url, fast)
        if collector is not None and not once:
            Console().print("\nThe collector goes on until you press Ctrl-C.")
            _wait_for_interrupt()
    finally:
        if collector is not None:
            collector.stop()


def _record_and_show(url: str, fast: bool) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]Question[/bold]  {QUESTION}")
    console.print("[bold]Answer[/bold]    ", end="")
    tracker = create_tracker(base_url=url)
    agent = ResearchAgent(tracker, OfflineModel(tokens_per_second=None if fast else _TOKENS_PER_SECOND))
    for piece in agent.answer(QUESTION):
        console.print(piece, end="", markup=False, soft_wrap=True)
    console.print("\n")
    result = tracker.close(timeout=10)
    if not result.complete:
        raise CannotServe(f"the run could not be delivered: {result}")
    run = terminal.run_of_collector(url, agent.run_id)
    console.print(terminal.tree_of(run))
    console.print(f"\nOpen the run: {url}/runs/{agent.run_id}")


def _wait_for_interrupt() -> None:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
