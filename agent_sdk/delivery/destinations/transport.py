"""One HTTP request at a time, over by its deadline whatever the other side does: the sender's only way to the network.

``requests`` bounds every read for itself, so a server that drips a byte a second holds a request for ever. Here every
connect, send and read gets the time that is left. Name resolution alone is the operating system's: it can only be
waited for.

Importing this module loads ``requests``. So it is imported by the first delivery, never at the top of a module.
"""

from __future__ import annotations

import http.client
import http.cookiejar
import io
import os
import queue
import socket
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple

import requests
import requests.adapters
import requests.utils
import urllib3.exceptions as urllib3_errors

from agent_sdk.delivery.destinations.failures import Progress, explain

if TYPE_CHECKING:
    from urllib3.connection import HTTPSConnection as _Connection
else:
    _Connection = object

#: So much of an answer is read: ours are short, and a stranger's may be endless.
MAX_ANSWER_BYTES = 65_536
#: Servers drop idle connections, uvicorn after 5 s; we drop them before.
IDLE_SECONDS = 4.0
_MAX_ADDRESSES = 8
_SEND_BYTES = 65_536


class Answer(NamedTuple):
    """A response: header names are in lower case, the body is decompressed and cut after ``MAX_ANSWER_BYTES``.

    Where the status is not 200, the body may be cut short: the status counts, even if the rest never came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """One keep-alive connection. Used by one thread; ``abort`` by any. A forked child never uses its parent's."""

    def __init__(self, connect_timeout: float = 3.0) -> None:
        self._connect_timeout = connect_timeout
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._watch = _Watch(self._connect_timeout)
        self._session: _Session | None = None
        self._used_at = 0.0

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], deadline: float, use_proxies: bool = True
    ) -> Answer:
        """The answer to a POST, before ``deadline`` (``time.monotonic()``); raises ``NoAnswer`` and nothing else.

        A connection that the server has closed meanwhile is replaced once: the body may arrive twice, never the answer.
        Proxies come from the environment, as ``requests`` reads them; redirects are not followed.
        """
        if self._pid != os.getpid():
            self._begin()
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self.close()
        self._watch.begin(deadline)
        try:
            return self._post_again_if_stale(url, body, headers, use_proxies)
        except Exception as error:
            failure = explain(error, self._watch.progress)
        self.close()
        raise failure

    def _post_again_if_stale(self, url: str, body: bytes, headers: Mapping[str, str], use_proxies: bool) -> Answer:
        try:
            return self._post(url, body, headers, use_proxies)
        except Exception:
            if not self._watch.found_stale_connection:
                raise
        self.close()
        return self._post(url, body, headers, use_proxies)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], use_proxies: bool) -> Answer:
        session = self._session = self._session or _Session(self._watch)
        response = session.post(
            url,
            data=body,
            headers=headers,
            timeout=self._watch.time_left(),
            allow_redirects=False,
            stream=True,
            proxies=requests.utils.get_environ_proxies(url) if use_proxies else {},
            verify=os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
        )
        try:
            content = _read(response)
        finally:
            response.raw.close()  # ends the connection, unless all was read and the pool has it back
        self._used_at = time.monotonic()
        return Answer(response.status_code, {name.lower(): text for name, text in response.headers.items()}, content)

    def abort(self) -> None:
        """Make a request in progress fail now."""
        self._watch.abort()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._watch.let_go(self._watch.handle)


def _read(response: requests.Response) -> bytes:
    content = b""
    try:
        while len(content) <= MAX_ANSWER_BYTES:
            piece = response.raw.read(MAX_ANSWER_BYTES + 1 - len(content), decode_content=False)
            if not piece:
                break
            content += piece
    except Exception:
        if response.status_code == 200:
            raise
    content = content[:MAX_ANSWER_BYTES]
    if response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
        return _decompress(content)
    return content


def _decompress(content: bytes) -> bytes:
    """What can be decompressed, within the bound: ``urllib3`` would unpack a bomb."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(content, MAX_ANSWER_BYTES)
    except zlib.error:
        return b""


# -- the time that is left ---------------------------------------------------------------------------------------


class _Watch:
    """What a session's request in progress may still use, and a handle of its connection to break it off with."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._lock = threading.RLock()  # a signal handler may abort while its own thread aborts
        # A duplicate, because TLS takes the socket itself over: this one is ours from the first packet to the last.
        self.handle: socket.socket | None = None
        self.begin(0.0)

    def begin(self, deadline: float) -> None:
        """A new request."""
        self.deadline = deadline
        self.aborted = False
        self.dialled = False
        self.connected = False
        self.received = 0

    def time_left(self) -> float:
        """Seconds, always positive; raises ``socket.timeout`` when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 0 or self.aborted:
            raise socket.timeout("the time for the request is over")
        return left

    @property
    def found_stale_connection(self) -> bool:
        """The request failed on a connection of an earlier one, before a byte came back, with time left."""
        fresh = self.dialled or self.received or self.aborted
        return not fresh and time.monotonic() < self.deadline

    @property
    def progress(self) -> Progress:
        """How far the request has come, for the words about its failure."""
        return Progress(self.aborted, connecting=self.dialled and not self.connected, answered=self.received > 0)

    def abort(self) -> None:
        """End the request in progress, from any thread."""
        self.aborted = True
        with self._lock:
            if self.handle is not None:
                try:
                    self.handle.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # not connected (any more)

    def hold(self, connection: socket.socket) -> None:
        """Be able to abort ``connection`` from now on, instead of the one before."""
        with self._lock:
            self.let_go(self.handle)
            self.handle = connection.dup()

    def let_go(self, handle: socket.socket | None) -> None:
        """Close ``handle``: a connection only ends when its handle is closed, too."""
        with self._lock:
            if handle is not None:
                handle.close()
            if handle is self.handle:
                self.handle = None

    def connect(self, host: str, port: int) -> _TimedSocket:
        """A connection to the first address that takes one; each has an equal share of the time."""
        self.dialled = True
        addresses = socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM)[:_MAX_ADDRESSES]
        until = time.monotonic() + min(self.time_left(), self._connect_timeout)
        failure: OSError = OSError(f"no address for {host}")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            share = (until - time.monotonic()) / (len(addresses) - tried)
            try:
                return self._dial(socket.socket(family, kind, protocol), address, share)
            except OSError as error:
                failure = error
        raise failure

    def _dial(self, connection: socket.socket, address: Any, seconds: float) -> _TimedSocket:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.hold(connection)
            connection.settimeout(min(max(seconds, 0.001), self.time_left()))
            connection.connect(address)
        except BaseException:
            connection.close()
            self.let_go(self.handle)
            raise
        self.connected = True
        return _TimedSocket(connection, self)


class _TimedSocket:
    """A connection, plain or TLS, in which every operation ends in time. It stands wherever a socket is expected."""

    def __init__(self, connection: Any, watch: _Watch) -> None:
        self._connection = connection
        self._watch = watch
        self._handle = watch.handle
        self._readers = 0
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def gettimeout(self) -> float:
        """What TLS takes over for its handshake."""
        return self._watch.time_left()

    def recv(self, *args: Any) -> bytes:
        self._connection.settimeout(self._watch.time_left())
        data: bytes = self._connection.recv(*args)
        self._watch.received += len(data)
        return data

    def recv_into(self, *args: Any) -> int:
        self._connection.settimeout(self._watch.time_left())
        size: int = self._connection.recv_into(*args)
        self._watch.received += size
        return size

    def send(self, data: Any) -> int:
        self._connection.settimeout(self._watch.time_left())
        sent: int = self._connection.send(data)
        return sent

    def sendall(self, data: Any) -> None:
        # Not the socket's own: that of TLS gives the whole time to each of its parts.
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self.send(view[sent : sent + _SEND_BYTES])

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """What ``http.client`` reads an answer from. It outlives ``close``, as a socket's own file does."""
        self._readers += 1
        return io.BufferedReader(_Reader(self))

    def reader_closed(self) -> None:
        self._readers -= 1
        self._close_if_unused()

    def close(self) -> None:
        self._is_closing = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._is_closing and self._readers <= 0:
            self.end()

    def end(self) -> None:
        """Close at once, whoever still reads."""
        self._connection.close()
        self._watch.let_go(self._handle)


class _Reader(io.RawIOBase):
    def __init__(self, connection: _TimedSocket) -> None:
        super().__init__()
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._connection.reader_closed()


# -- requests, with such connections -----------------------------------------------------------------------------


class _TimedConnection(_Connection):
    """Stands before urllib3's classes, so that whatever they connect is timed."""

    watch: _Watch

    def _new_conn(self) -> Any:
        if not hasattr(self, "_socks_options"):
            return self.watch.connect(self._dns_host, self.port or self.default_port)
        self.watch.dialled = True
        try:
            connection = super()._new_conn()  # PySocks talks to its proxy with a timeout for each step
        except (OSError, urllib3_errors.HTTPError) as error:
            raise urllib3_errors.ProxyError("no connection", error) from error
        self.watch.hold(connection)
        self.watch.connected = True
        return _TimedSocket(connection, self.watch)

    def _connect_tls_proxy(self, hostname: str, sock: Any) -> Any:
        return _TimedSocket(super()._connect_tls_proxy(hostname, sock), self.watch)

    def _tunnel(self) -> None:
        connection: Any = self.sock
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            connection.end()  # which http.client leaves open, with the proxy's answer half read
            raise urllib3_errors.ProxyError("no tunnel", error) from error

    def connect(self) -> None:
        super().connect()
        if not isinstance(self.sock, _TimedSocket):
            self.sock = _TimedSocket(self.sock, self.watch)


class _Shelf:
    """Where a pool keeps its idle connection. It is used by one thread, so that nobody ever waits for it.

    urllib3's own is a queue with locks, which gevent replaces by its own, and those fail when the interpreter ends.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._held: list[Any] = []
        self._maxsize = maxsize

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self._held:
            raise queue.Empty
        return self._held.pop()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if len(self._held) >= self._maxsize:
            raise queue.Full
        self._held.append(item)

    def qsize(self) -> int:
        return len(self._held)


class _QuietResponse(http.client.HTTPResponse):
    """Forgets what is odd about a stranger's headers, of which urllib3 would log a traceback at each attempt."""

    def begin(self) -> None:
        super().begin()
        self.msg.defects = []
        self.msg.set_payload("")


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_timed_connections(self.poolmanager, self._watch)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if is_new:
            _use_timed_connections(manager, self._watch)
        return manager


def _use_timed_connections(manager: Any, watch: _Watch) -> None:
    def timed(pool: Any) -> Any:
        attributes = {"watch": watch, "response_class": _QuietResponse}
        connection = type("TimedConnection", (_TimedConnection, pool.ConnectionCls), attributes)
        return type("TimedPool", (pool,), {"ConnectionCls": connection, "QueueCls": _Shelf})

    manager.pool_classes_by_scheme = {scheme: timed(pool) for scheme, pool in manager.pool_classes_by_scheme.items()}


class _Session(requests.Session):
    """Asks nothing and remembers nothing that is not in the request: no ``.netrc``, no cookies, no default headers."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.clear()
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter(watch)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: Any) -> None:
        """None, or ``requests`` would read the whole body of a redirect, however long."""
