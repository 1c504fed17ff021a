"""``POST /api/ingest/batch`` and ``GET /health``: what senders talk to."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_sdk.collector import keys
from agent_sdk.collector.ingest import parse
from agent_sdk.collector.store import Overloaded, Store
from agent_sdk.wire.records import WIRE_VERSION
from agent_sdk.wire.version import __version__

LIMITS = {"max_batch_bytes": 8 * 1024 * 1024, "max_batch_records": 10_000, "max_record_bytes": 4 * 1024 * 1024}
_RETRY_AFTER = {"Retry-After": "1"}
_ZSTD_PIECE = 128


class _RefusalError(Exception):
    """An answer to a request that cannot be served."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.response = JSONResponse({"detail": detail}, status_code=status)


def ingest_routes(store: Store) -> list[Route]:
    """The routes for senders."""

    async def batch(request: Request) -> Response:
        try:
            return await _ingest(store, request)
        except _RefusalError as refusal:
            return refusal.response
        except Overloaded:
            text = "the collector is behind: try again in a second"
            return JSONResponse({"detail": text}, status_code=503, headers=_RETRY_AFTER)

    return [Route("/api/ingest/batch", batch, methods=["POST"]), Route("/health", _health, methods=["GET"])]


async def _health(_: Request) -> Response:
    known = {"status": "healthy", "service": "agent-sdk-collector", "version": __version__, "wire": WIRE_VERSION}
    return JSONResponse(known)


async def _ingest(store: Store, request: Request) -> Response:
    project_id = await _project(store, request)
    if request.headers.get("x-agent-sdk-wire", "1") not in map(str, range(1, WIRE_VERSION + 1)):
        raise _RefusalError(400, f"this collector knows the record format up to version {WIRE_VERSION}: upgrade it")
    body = await _body(request)
    if body.count(b"\n") + (not body.endswith(b"\n")) > LIMITS["max_batch_records"]:
        raise _RefusalError(413, f"more than {LIMITS['max_batch_records']} records: send less at once")
    parsed = await run_in_threadpool(parse, project_id, body, LIMITS["max_record_bytes"])
    answer = await asyncio.wrap_future(store.ingest(parsed))
    return JSONResponse({**answer._asdict(), "limits": LIMITS})


async def _project(store: Store, request: Request) -> int:
    key = request.headers.get("x-agentscope-key") or _bearer(request.headers.get("authorization", ""))
    if not key:
        raise _RefusalError(401, "a key is missing: send it as X-Agentscope-Key or as a bearer token")
    project_id = await run_in_threadpool(keys.project_of, store, key)
    if project_id is None:
        raise _RefusalError(401, "this key is wrong or revoked")
    return project_id


def _bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _body(request: Request) -> bytes:
    """The body, decompressed, no larger than the limit at any moment."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    decompress = _decompressor(encoding)
    body = bytearray()
    async for chunk in request.stream():
        try:
            body += decompress(chunk, LIMITS["max_batch_bytes"] + 1 - len(body))
        except (zlib.error, ValueError) as error:
            raise _RefusalError(400, f"the body is not {encoding}: {error}") from error
        if len(body) > LIMITS["max_batch_bytes"]:
            raise _RefusalError(413, f"more than {LIMITS['max_batch_bytes']} bytes: send less at once")
    if not decompress(b"", -1):
        raise _RefusalError(400, f"the {encoding} body ends too early")
    return bytes(body)


def _decompressor(encoding: str) -> Any:
    """A function (chunk, room) -> bytes; called with no room left to ask whether the stream is complete."""
    if encoding in ("identity", ""):
        return lambda chunk, room: chunk if room >= 0 else b"complete"
    if encoding == "gzip":
        return _Gzip()
    if encoding == "zstd":
        return _zstd()
    raise _RefusalError(415, f"the encoding {encoding!r} is not known here: use gzip or zstd")


class _Gzip:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def __call__(self, chunk: bytes, room: int) -> bytes:
        if room < 0:
            return b"complete" if self._decoder.eof else b""
        if chunk and self._decoder.eof:
            raise ValueError("something follows its end")
        # A bomb expands no further than there is room: the rest stays in the decoder.
        data = self._decoder.decompress(chunk, max(1, room))
        if self._decoder.unused_data:
            raise ValueError("something follows its end")
        return data


class _Zstd:
    def __init__(self, decoder: Any, broken: type[Exception]) -> None:
        self._decoder = decoder
        self._broken = broken

    def __call__(self, chunk: bytes, room: int) -> bytes:
        if room < 0:
            return b"complete" if self._decoder.eof else b""
        data = bytearray()
        # The decoder takes no limit, and a bomb expands four bytes to 128 KiB: it gets little at a time.
        for at in range(0, len(chunk), _ZSTD_PIECE):
            if self._decoder.eof:
                raise ValueError("something follows its end")
            try:
                data += self._decoder.decompress(chunk[at : at + _ZSTD_PIECE])
            except self._broken as error:
                raise ValueError(str(error)) from error
            if len(data) >= room:
                return bytes(data)
        if self._decoder.unused_data:
            raise ValueError("something follows its end")
        return bytes(data)


def _zstd() -> _Zstd:
    try:
        import zstandard
    except ImportError:
        raise _RefusalError(415, "zstd is not installed here: use gzip, or `pip install zstandard`") from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=LIMITS["max_batch_bytes"])
    return _Zstd(decompressor.decompressobj(), zstandard.ZstdError)
