"""``agent-sdk push``: deliver leftover journals, with progress, and say what remains."""

from __future__ import annotations

import json

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from agent_sdk.delivery import adoption, home_directory


def push_leftovers(to: str | None, api_key: str | None, timeout: float, as_json: bool) -> int:
    """Push; returns the exit code: 1 if something remains."""
    console = Console(stderr=True)
    columns = (TextColumn("delivering"), BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"))
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("", total=1)

        def on_progress(progress: adoption.Progress) -> None:
            bar.update(task, completed=progress.delivered, total=progress.delivered + progress.waiting)

        report = adoption.push_orphans(
            home_directory(), to=to, api_key=api_key, timeout=timeout, on_progress=on_progress
        )
    if as_json:
        print(json.dumps(report._asdict()))
    else:
        _tell(report)
    return 1 if report.remaining or report.errors else 0


def _tell(report: adoption.PushReport) -> None:
    console = Console(highlight=False)
    if not report.journals and not report.errors:
        console.print("Nothing was left behind on this machine.")
        return
    console.print(f"{report.delivered:,} records of {report.journals} journals delivered.")
    if report.quarantined:
        console.print(f"{report.quarantined:,} were refused and are kept in {home_directory()}/quarantine.")
    if report.remaining:
        console.print(f"{report.remaining:,} remain on the disk for the next try.")
    for error in report.errors:
        console.print(f"[red]✕[/red] {error}", markup=True)
