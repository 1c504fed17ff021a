"""A real collector for tests: uvicorn on a real socket, in a thread of this process or in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import requests

PATIENCE = 20.0


class RunningCollector:
    """Where a collector listens, and short ways to ask it."""

    def __init__(self, url: str, key: str, home: Path) -> None:
        self.url = url
        self.key = key
        self.home = home

    def get(self, path: str, **parameters: object) -> dict:
        answer = requests.get(self.url + path, params=parameters, timeout=PATIENCE)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"
        return answer.json()

    def runs(self, **parameters: object) -> list[dict]:
        return self._pages("/api/v1/runs", "runs", parameters)

    def steps(self, run_id: str) -> list[dict]:
        return self._pages(f"/api/v1/runs/{run_id}/steps", "steps", {})

    def losses(self) -> dict[str, int]:
        told: dict[str, int] = {}
        for loss in self.get("/api/v1/losses")["losses"]:
            told[loss["reason"]] = told.get(loss["reason"], 0) + loss["records"]
        return told

    def post(self, body: bytes, key: str | None = None, **headers: str) -> requests.Response:
        known = {"X-Agentscope-Key": self.key if key is None else key, "Content-Type": "application/x-ndjson"}
        return requests.post(self.url + "/api/ingest/batch", body, headers={**known, **headers}, timeout=PATIENCE)

    def _pages(self, path: str, name: str, parameters: dict) -> list[dict]:
        found: list[dict] = []
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, **parameters)
            found += page[name]
            cursor = page["next_cursor"]
            if cursor is None:
                return found


@contextmanager
def running_collector(folder: Path) -> Iterator[RunningCollector]:
    """A collector with an empty database under ``folder``, in a thread of this process."""
    import uvicorn

    from agent_sdk.collector import Store, create_app, create_key, ensure_project

    store = Store(folder / "collector.db")
    key = create_key(store, ensure_project(store), "test")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(store), log_level="error", timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, "the collector does not start")
        yield RunningCollector(f"http://127.0.0.1:{listener.getsockname()[1]}", key, folder)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        store.close()
        listener.close()


class CollectorProcess(RunningCollector):
    """A collector that was started as a user starts it, and may be killed."""

    def __init__(self, home: Path, port: int = 0) -> None:
        environment = {**os.environ, "AGENT_SDK_HOME": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent_sdk", "serve", "--port", str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        super().__init__(self._address(), "", home)
        from agent_sdk.delivery import local_keys

        self.key = local_keys.read(str(home), self.url) or ""

    def _address(self) -> str:
        said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said += line
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                return found[0]
        raise AssertionError(f"the collector did not start: {said}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


@contextmanager
def collector_process(home: Path, port: int = 0) -> Iterator[CollectorProcess]:
    """A collector in a process of its own, by the command line."""
    collector = CollectorProcess(home, port)
    try:
        yield collector
    finally:
        if collector.process.poll() is None:
            collector.kill()


def wait_for(condition, complaint: str, seconds: float = PATIENCE):
    """Poll until ``condition()`` is true; returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, complaint
        time.sleep(0.01)
