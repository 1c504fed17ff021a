"""The collector as an ASGI application: its routes, and the checks that come before all of them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_sdk.collector.api import api_routes
from agent_sdk.collector.pages import page_routes
from agent_sdk.collector.queries import Queries
from agent_sdk.collector.receive import ingest_routes
from agent_sdk.collector.store import Store

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def create_app(store: Store) -> ASGIApp:
    """The application over ``store``, which the caller closes. It answers on loopback addresses only."""
    queries = Queries(store)
    app = Starlette(routes=[*ingest_routes(store), *api_routes(queries), *page_routes(queries)])
    return OnlyLoopback(app)


class OnlyLoopback:
    """Refuses requests for other host names: a page of a stranger may point a name of its own at this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 421."""
        if scope["type"] == "http" and not _is_loopback(scope):
            text = "This collector answers on this machine only: open it as http://127.0.0.1 or http://localhost."
            await JSONResponse({"detail": text}, status_code=421)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_loopback(scope: Scope) -> bool:
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.lower() in _LOOPBACK
