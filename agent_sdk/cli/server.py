"""The collector as a process: its home, its key, its socket, and the journals of this machine that it takes over."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import click
import requests
import uvicorn

from agent_sdk.collector import Store, create_app, create_key, ensure_project
from agent_sdk.delivery import adoption, home_directory, local_keys

_ADOPT_EVERY = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class CannotServe(Exception):  # noqa: N818 - it is a fact about the machine
    """Why there can be no collector here, and what to do about it."""


class RunningCollector:
    """A collector in a thread of this process. ``stop`` ends it without losing what it has acknowledged."""

    def __init__(self, host: str, port: int, database: str | None) -> None:
        self._home = home_directory()
        Path(self._home).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listener = _listen(host, port)
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        self.database = Path(database) if database else Path(self._home) / "collector.db"
        self._store = Store(self.database)
        self._key = _local_key(self._store, self._home, self.url)
        config = uvicorn.Config(
            create_app(self._store), log_level="warning", lifespan="off", timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._stopping = threading.Event()
        self._adopting = threading.Thread(target=self._adopt_forever, name="adoption", daemon=True)

    def run(self) -> None:
        """Serve until a signal says stop."""
        self._adopting.start()
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._close()

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        self._adopting.start()

    def stop(self) -> None:
        """End what ``start`` began."""
        self._server.should_exit = True
        self._thread.join(5.0)
        self._close()

    def _close(self) -> None:
        self._stopping.set()
        self._adopting.join(5.0)
        self._store.close()
        self._listener.close()

    def _adopt_forever(self) -> None:
        while not self._stopping.wait(0.2 if not self._server.started else _ADOPT_EVERY):
            if self._server.started:
                self._adopt()

    def _adopt(self) -> None:
        report = adoption.push_orphans(
            self._home, to=self.url, api_key=self._key, which=adoption.is_local, timeout=_ADOPT_EVERY * 4
        )
        if report.delivered:
            click.echo(f"Took over {report.delivered:,} records of {report.journals} earlier processes.")


def serve_forever(host: str, port: int, database: str | None) -> None:
    """Serve until a signal; raises ``CannotServe``."""
    collector = RunningCollector(host, port, database)
    click.echo(f"The collector listens on {collector.url}")
    click.echo(f"  runs        {collector.url}/runs")
    click.echo(f"  data        {collector.database}")
    click.echo("  programs on this machine find it by themselves; press Ctrl-C to stop")
    collector.run()


def is_ours(url: str) -> bool:
    """Whether a collector of this library answers at ``url``."""
    try:
        answer = requests.get(url + "/health", timeout=2)
        return bool(answer.json().get("service") == "agent-sdk-collector")
    except (requests.RequestException, ValueError, AttributeError):
        return False


def _listen(host: str, port: int) -> socket.socket:
    if host not in _LOOPBACK:
        raise CannotServe(
            f"the collector listens on this machine only, not on {host}: it has no login yet. To reach it from "
            "elsewhere, put a reverse proxy with authentication before it, or use an SSH tunnel."
        )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise CannotServe(_why_taken(host, port, error)) from None
    return listener


def _why_taken(host: str, port: int, error: OSError) -> str:
    url = f"http://{host}:{port}"
    if is_ours(url):
        return f"a collector is running there already: open {url}/runs, or choose another --port"
    return f"port {port} cannot be used ({error.strerror}): choose another with --port, for instance --port {port + 1}"


def _local_key(store: Store, home: str, url: str) -> str:
    """The key of the default project, kept for the programs of this user. A new one each time the file is gone."""
    from agent_sdk.collector.keys import project_of

    known = local_keys.read(home, url)
    if known is not None and project_of(store, known) is not None:
        return known
    key = create_key(store, ensure_project(store), "local")
    local_keys.write(home, url, key)
    return key


def wait_until_ready(url: str, seconds: float = 20.0) -> None:
    """Return when the collector answers; raises ``CannotServe`` if it does not."""
    pause: Any = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if is_ours(url):
            return
        pause.wait(0.05)
    raise CannotServe(f"the collector at {url} does not answer")
