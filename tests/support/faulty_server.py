"""A collector that misbehaves on command: a small HTTP server on real sockets, for tests of what the network can do.

By default it answers ``POST /api/ingest/batch`` by the contract of ``docs/wire.md`` and remembers what it was sent::

    with FaultyServer() as server:
        server.behave(status(503, {"Retry-After": "1"}), reset())  # the first request, the second; then as before
        ...
        assert server.records == {"0123456789abcdef-1": 1}  # id -> how often it was received and remembered
        assert [request.path for request in server.requests] == ["/api/ingest/batch"] * 3

- ``behave(*behaviours)`` scripts the next requests, one behaviour each; ``always(behaviour)`` sets what follows them.
- ``chaos(seed, faults)`` draws a behaviour for each request from weighted faults, the same ones for the same seed.
- ``down()`` closes the port and all connections (connecting is refused), ``up()`` opens the same port again.
- ``drop_connections()`` closes all connections, as a server does with idle ones.
- ``FaultyServer(tls=True)`` speaks TLS; ``ca_file`` is what a client has to trust (needs ``trustme``).
- ``FaultyServer(key="k")`` answers 401 to other keys; ``max_batch_bytes`` and ``max_batch_records`` answer 413 above
  them; ``limits`` are advertised in each receipt; ``accept_delay`` seconds pass before a connection is looked at, its
  TLS handshake included.
- ``wait_until(condition)`` polls for up to 5 s, for tests with threads.
- ``unreachable()`` gives a URL to which no connection can be made: neither accepted nor refused.

A behaviour is any callable that takes an ``Exchange``; those below cover the usual faults. Everything that hangs ends
when the client leaves or the server stops. Safe for many clients at once, one thread each.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import select
import socket
import ssl
import struct
import tempfile
import threading
import time
import warnings
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence, Tuple

Headers = Mapping[str, str]
Behaviour = Callable[["Exchange"], None]
Faults = Sequence[Tuple[float, Behaviour]]

INGEST_PATH = "/api/ingest/batch"
_MAX_LINE = 65_536


class Request(NamedTuple):
    """What a client sent: header names are in lower case, the body is decompressed."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    wire_body: bytes
    connection: int  # counts the server's connections from 1

    @property
    def lines(self) -> list[bytes]:
        """The records of the body."""
        return [line for line in self.body.split(b"\n") if line.strip()]


class Hangup(Exception):
    """Raised by a behaviour that wants the connection closed."""


class Exchange:
    """One request and its answer, in the hands of a behaviour."""

    def __init__(self, server: FaultyServer, connection: socket.socket, number: int, file: Any) -> None:
        self.server = server
        self.connection = connection
        self._number = number
        self._file = file
        self._request: Request | None = None

    def read(self) -> Request:
        """The request; read from the socket, and noted in ``server.requests``, by the first call."""
        if self._request is None:
            method, path, headers = _read_head(self._file)
            wire_body = _read_body(self._file, headers)
            body = _decompressed(wire_body, headers)
            self._request = Request(method, path, headers, body, wire_body, self._number)
            self.server.requests.append(self._request)
        return self._request

    def send(self, data: bytes) -> None:
        """Raw bytes."""
        self.connection.sendall(data)

    def respond(self, code: int, body: Any = b"", headers: Headers | None = None) -> None:
        """A whole response. ``body`` is bytes, or sent as JSON."""
        self.send(response(code, body, headers))

    def pause(self, seconds: float) -> None:
        """Wait, unless the server stops meanwhile."""
        if self.server.stopping.wait(seconds):
            raise Hangup

    def hold(self) -> None:
        """Do nothing until the client leaves or the server stops, then hang up."""
        while not self.server.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable and not self.connection.recv(65_536):
                break
        raise Hangup


class FaultyServer:
    """See the module. ``url`` is its address, ``records`` what it has remembered, ``requests`` what it was sent."""

    def __init__(
        self,
        *,
        tls: bool = False,
        key: str | None = None,
        max_batch_bytes: int | None = None,
        max_batch_records: int | None = None,
        limits: Mapping[str, int] | None = None,
        accept_delay: float = 0.0,
    ) -> None:
        self.key = key
        self.max_batch_bytes = max_batch_bytes
        self.max_batch_records = max_batch_records
        self.limits = limits
        self.accept_delay = accept_delay
        self.records: dict[str, int] = {}
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []  # of behaviours, so that a test can see its own mistakes
        self.connections = 0  # so many were accepted
        self.stopping = threading.Event()
        self.ca_file = ""
        self._default: Behaviour = answer()
        self._script: list[Behaviour] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._folder = tempfile.TemporaryDirectory()
        self._tls = self._make_certificate() if tls else None
        self._listener: socket.socket | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    # -- what a test tells it ------------------------------------------------------------------------------------

    def behave(self, *behaviours: Behaviour) -> FaultyServer:
        """Treat the next requests so, one each."""
        with self._lock:
            self._script.extend(behaviours)
        return self

    def always(self, behaviour: Behaviour) -> FaultyServer:
        """Treat all requests so that nothing else is scripted for."""
        with self._lock:
            self._default = behaviour
        return self

    def chaos(self, seed: int, faults: Faults | None = None, well: float = 0.5) -> FaultyServer:
        """Answer a share ``well`` of the requests by the contract and treat the others to random ``faults``."""
        chance = random.Random(seed)
        weights, behaviours = zip(*(usual_faults() if faults is None else faults))
        by_contract = answer()

        def any_of_them(exchange: Exchange) -> None:
            with self._lock:
                drawn = chance.choices(behaviours, weights)[0] if chance.random() >= well else by_contract
            drawn(exchange)

        return self.always(any_of_them)

    def down(self) -> None:
        """Refuse connections from now on, and close those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # or a blocked accept would take one more
            listener.close()
        self.drop_connections()

    def up(self) -> None:
        """Listen, again at the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._in_thread(self._accept, listener)

    def drop_connections(self) -> None:
        """Close all connections."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which would go on in plain text.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def forget(self) -> None:
        """Empty ``records`` and ``requests``."""
        with self._lock:
            self.records.clear()
            self.requests.clear()

    def wait_until(self, condition: Callable[[], Any], timeout: float = 5.0) -> None:
        """Return when ``condition()`` is true; an ``AssertionError`` if it never is."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.005)

    def stop(self) -> None:
        """End all threads and close all sockets."""
        self.stopping.set()
        self.down()
        for thread in self._threads:
            thread.join(5.0)
        self._folder.cleanup()

    def __enter__(self) -> FaultyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- the collector's part ------------------------------------------------------------------------------------

    def receive(self, lines: Sequence[bytes], refuse: Callable[[Mapping[str, Any]], str | None]) -> dict[str, Any]:
        """Remember records and write the receipt of the contract; ``refuse`` may give a reason against a record."""
        accepted = duplicates = 0
        rejected = []
        with self._lock:
            for index, line in enumerate(lines):
                record = _parsed(line)
                reason = refuse(record) if "id" in record else "not a record"
                if reason:
                    rejected.append({"index": index, "id": record.get("id"), "reason": reason})
                    continue
                known = self.records.get(record["id"], 0)
                self.records[record["id"]] = known + 1
                accepted += not known
                duplicates += bool(known)
        receipt: dict[str, Any] = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}
        return receipt if self.limits is None else {**receipt, "limits": dict(self.limits)}

    def objection(self, request: Request) -> tuple[int, str] | None:
        """Status and detail for a request that the contract refuses as a whole."""
        bearer = request.headers.get("authorization", "").replace("Bearer ", "")
        if self.key is not None and self.key not in (request.headers.get("x-agentscope-key"), bearer):
            return 401, "the key is unknown"
        if not request.path.endswith(INGEST_PATH):
            return 404, "there is nothing here"
        if self.max_batch_bytes is not None and len(request.body) > self.max_batch_bytes:
            return 413, f"a batch may have {self.max_batch_bytes} bytes"
        if self.max_batch_records is not None and len(request.lines) > self.max_batch_records:
            return 413, f"a batch may have {self.max_batch_records} records"
        return None

    # -- threads -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            self._in_thread(self._serve, connection, self.connections)

    def _serve(self, raw: socket.socket, number: int) -> None:
        connection = raw
        try:
            if self.stopping.wait(self.accept_delay):
                return
            if self._tls is not None:
                connection = self._tls.wrap_socket(raw, server_side=True)
                with self._lock:
                    self._open.add(connection)
            with connection.makefile("rb") as file:
                while file.peek(1):
                    exchange = Exchange(self, connection, number, file)
                    self._next_behaviour()(exchange)
                    exchange.read()  # by a behaviour that did not care, too
        except (Hangup, OSError):
            pass  # the client has left, or the behaviour wants that
        except Exception as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self._open -= {raw, connection}
            connection.close()
            raw.close()

    def _next_behaviour(self) -> Behaviour:
        with self._lock:
            return self._script.pop(0) if self._script else self._default

    def _in_thread(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name="faulty server")
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _make_certificate(self) -> ssl.SSLContext:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its cryptography warns of old versions of Python
            import trustme

        authority = trustme.CA()
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost", "collector.test").configure_cert(context)
        return context


# -- behaviours: by the contract ---------------------------------------------------------------------------------


def answer(refuse: Callable[[Mapping[str, Any]], str | None] = lambda record: None) -> Behaviour:
    """By the contract. ``refuse`` may give a reason to reject a record."""

    def behaviour(exchange: Exchange) -> None:
        request = exchange.read()
        objection = exchange.server.objection(request)
        if objection is not None:
            exchange.respond(objection[0], {"detail": objection[1]})
        else:
            exchange.respond(200, exchange.server.receive(request.lines, refuse))

    return behaviour


def reject(*ids: str, reason: str = "not wanted") -> Behaviour:
    """By the contract, but these records are rejected."""
    return answer(lambda record: reason if record["id"] in ids else None)


def refuse_batches_with(*ids: str, code: int = 400) -> Behaviour:
    """By the contract, but a batch that holds one of these records is refused as a whole."""

    def behaviour(exchange: Exchange) -> None:
        if any(_parsed(line).get("id") in ids for line in exchange.read().lines):
            exchange.respond(code, {"detail": "one of the records cannot be read"})
        else:
            answer()(exchange)

    return behaviour


# -- behaviours: answers that are no receipt -----------------------------------------------------------------------


def status(code: int, headers: Headers | None = None, body: Any = None) -> Behaviour:
    """Read the request, answer with this status. ``body`` is bytes, or sent as JSON; ``{"detail": ...}`` by default."""

    def behaviour(exchange: Exchange) -> None:
        exchange.read()
        exchange.respond(code, {"detail": f"told to answer {code}"} if body is None else body, headers)

    return behaviour


def html(code: int = 200) -> Behaviour:
    """A page, as captive portals and proxies send."""
    return status(code, {"Content-Type": "text/html"}, b"<!doctype html><title>Welcome</title><h1>Sign in</h1>")


def redirect(to: str, code: int = 307) -> Behaviour:
    """Send the client elsewhere."""
    return status(code, {"Location": to}, b"")


def garbage(data: bytes = b"\x00\xff\x15SSH-2.0-nothing you know\r\n\r\n") -> Behaviour:
    """Bytes that are not HTTP, then close."""

    def behaviour(exchange: Exchange) -> None:
        exchange.read()
        exchange.send(data)

    return then_close(behaviour)


def huge(size: int = 4 * 1024 * 1024, code: int = 200, headers: Headers | None = None) -> Behaviour:
    """A body of ``size`` bytes that nobody asked for."""
    return status(code, headers, b'{"accepted": 1, "noise": "' + b"x" * size + b'"}')


def gzip_bomb(size: int = 64 * 1024 * 1024) -> Behaviour:
    """A small compressed body that unpacks to ``size`` bytes."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * 1024 * 1024
    body = b"".join(compressor.compress(block) for _ in range(size // len(block))) + compressor.flush()
    return status(200, {"Content-Encoding": "gzip"}, body)


def truncated_gzip() -> Behaviour:
    """Remember the records and send a compressed receipt that ends in its middle."""

    def behaviour(exchange: Exchange) -> None:
        receipt = json.dumps(exchange.server.receive(exchange.read().lines, lambda record: None)).encode()
        exchange.respond(200, gzip.compress(receipt)[:-12], {"Content-Encoding": "gzip"})

    return behaviour


# -- behaviours: no answer, or half of one -------------------------------------------------------------------------


def hang(where: str = "headers") -> Behaviour:
    """Fall silent ``where``: before the ``request`` is read, before the ``headers``, within them (``half``), or in the
    ``body`` of the answer."""
    said = {"request": b"", "headers": b"", "half": b"HTTP/1.1 200 OK\r\nContent-Ty"}
    said["body"] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{"

    def behaviour(exchange: Exchange) -> None:
        if where != "request":
            exchange.read()
        exchange.send(said[where])
        exchange.hold()

    return behaviour


def drip(interval: float = 1.0, data: bytes | None = None) -> Behaviour:
    """Answer by the contract (or with ``data``), one byte each ``interval`` seconds."""

    def behaviour(exchange: Exchange) -> None:
        lines = exchange.read().lines
        told = data or response(200, exchange.server.receive(lines, lambda record: None))
        for position in range(len(told)):
            exchange.send(told[position : position + 1])
            exchange.pause(interval)

    return behaviour


def slow_read(interval: float = 1.0, size: int = 1) -> Behaviour:
    """Take the request ``size`` bytes each ``interval`` seconds."""

    def behaviour(exchange: Exchange) -> None:
        while exchange.connection.recv(size):
            exchange.pause(interval)
        raise Hangup

    return behaviour


def endless(part: bytes = b"X-More: and more\r\n", start: bytes = b"HTTP/1.1 200 OK\r\n") -> Behaviour:
    """``start``, then ``part`` for ever: headers by default."""

    def behaviour(exchange: Exchange) -> None:
        exchange.read()
        exchange.send(start)
        while not exchange.server.stopping.is_set():
            exchange.send(part)

    return behaviour


def lose_answer() -> Behaviour:
    """Remember the records, then close without an answer."""

    def behaviour(exchange: Exchange) -> None:
        exchange.server.receive(exchange.read().lines, lambda record: None)

    return then_close(behaviour)


def close_mid_body(remember: bool = True) -> Behaviour:
    """Send a receipt up to its middle, then close."""

    def behaviour(exchange: Exchange) -> None:
        lines = exchange.read().lines
        receipt = exchange.server.receive(lines if remember else [], lambda record: None)
        exchange.send(response(200, receipt)[:-15])

    return then_close(behaviour)


def close_at_once() -> Behaviour:
    """Close before the request is read."""
    return then_close(lambda exchange: None)


def reset(after_reading: bool = True) -> Behaviour:
    """Break the connection off with a TCP reset."""

    def behaviour(exchange: Exchange) -> None:
        if after_reading:
            exchange.read()
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return then_close(behaviour)


def after(seconds: float, behaviour: Behaviour) -> Behaviour:
    """Read the request, wait, then behave."""

    def later(exchange: Exchange) -> None:
        exchange.read()
        exchange.pause(seconds)
        behaviour(exchange)

    return later


def then_close(behaviour: Callable[[Exchange], Any]) -> Behaviour:
    """Behave, then close the connection."""

    def closing(exchange: Exchange) -> None:
        behaviour(exchange)
        raise Hangup

    return closing


def tunnel(host: str, port: int) -> Behaviour:
    """Act as a proxy: answer CONNECT and pass all bytes on to this address, whatever the client asked for."""

    def behaviour(exchange: Exchange) -> None:
        exchange.read()
        with socket.create_connection((host, port)) as target:
            exchange.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while not exchange.server.stopping.is_set():
                for readable in select.select([exchange.connection, target], [], [], 0.05)[0]:
                    other = target if readable is exchange.connection else exchange.connection
                    data = readable.recv(65_536)
                    if not data:
                        raise Hangup
                    other.sendall(data)

    return behaviour


def usual_faults(interval: float = 0.2) -> Faults:
    """What a network does on a bad day, each fault as likely as the others. ``interval`` paces the slow ones."""
    return [
        (1.0, behaviour)
        for behaviour in (
            status(500),
            status(503, {"Retry-After": "0"}),
            status(429, {"Retry-After": "0"}),
            html(502),
            html(200),
            garbage(),
            reset(),
            reset(after_reading=False),
            close_at_once(),
            lose_answer(),
            close_mid_body(),
            truncated_gzip(),
            drip(interval),
            after(interval, answer()),
        )
    ]


# -- without a server --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unreachable() -> Iterator[str]:
    """A URL to which connecting hangs: a port whose queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def refused() -> Iterator[str]:
    """A URL whose port nobody listens at (it is bound, so that nobody else takes it)."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# -- HTTP --------------------------------------------------------------------------------------------------------


def response(code: int, body: Any = b"", headers: Headers | None = None) -> bytes:
    """The bytes of a response. ``body`` is bytes, or sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {code} Told\r\n{head}\r\n".encode("latin-1") + data


def _read_head(file: Any) -> tuple[str, str, dict[str, str]]:
    method, path, _ = _read_line(file).split(" ", 2)
    headers: dict[str, str] = {}
    while True:
        line = _read_line(file)
        if not line:
            return method, path, headers
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()


def _read_line(file: Any) -> str:
    line = file.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        raise Hangup  # the client left in the middle of it
    return str(line.rstrip(b"\r\n"), "latin-1")


def _read_body(file: Any, headers: Headers) -> bytes:
    size = int(headers.get("content-length", 0))
    body: bytes = file.read(size)
    if len(body) < size:
        raise Hangup
    return body


def _decompressed(body: bytes, headers: Headers) -> bytes:
    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
