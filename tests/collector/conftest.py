"""A collector on a real socket, and a store without one."""

from __future__ import annotations

import socket
import threading
from typing import Iterator

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_sdk.collector import Store, create_app, create_key, ensure_project
from tests.collector.making import PATIENCE, Shelf, Stream
from tests.support.collector import RunningCollector, wait_for


class Server:
    """One socket for many tests, as to open and close one takes longer than most of them; each has its own store."""

    def __init__(self) -> None:
        self.app: ASGIApp
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(self._serve, interface="asgi3", log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        run, sockets = self._server.run, [self._listener]
        self._thread = threading.Thread(target=run, kwargs={"sockets": sockets}, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started, "the collector does not start")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._listener.close()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def collector(tmp_path, server) -> Iterator[RunningCollector]:
    """A collector with an empty database, like ``running_collector``."""
    store = Store(tmp_path / "collector" / "collector.db")
    server.app = create_app(store)
    key = create_key(store, ensure_project(store), "test")
    yield RunningCollector(server.url, key, tmp_path / "collector")
    store.close()


@pytest.fixture
def shelf(tmp_path) -> Iterator[Shelf]:
    store = Store(tmp_path / "shelf" / "collector.db")
    yield Shelf(store)
    store.close()


@pytest.fixture
def stream() -> Stream:
    return Stream()
