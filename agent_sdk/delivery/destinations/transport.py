"""HTTP requests that end by a deadline, whatever the other side does: the sender's only way to the network.

``requests`` bounds the time of each read, so a server that drips a byte a second holds a request for ever. Here every
send and every read gets the time that is left, down to the socket. (Name resolution is the operating system's: it can
only be waited for.)
"""

from __future__ import annotations

import io
import os
import socket
import time
from typing import Any, Mapping, NamedTuple

from agent_sdk.delivery.local_keys import is_loopback

#: How much of an answer is read: ours are short, and a stranger's may echo megabytes.
MAX_ANSWER = 65_536
#: A server may close an idle connection after 5 s; we leave it before.
_IDLE_SECONDS = 4.0


class Answer(NamedTuple):
    """A response: header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """One keep-alive connection to one address. Used by one thread; ``abort`` by any."""

    def __init__(self, connect_timeout: float = 3.0) -> None:
        self._connect_timeout = connect_timeout
        self._watch = _Watch()
        self._session: Any = None
        self._used_at = 0.0

    def post(self, url: str, body: bytes, headers: Mapping[str, str], deadline: float) -> Answer:
        """Send and return the answer before ``deadline`` (``time.monotonic()``). Raises what ``requests`` raises."""
        import requests

        if time.monotonic() - self._used_at > _IDLE_SECONDS:
            self.close()
        reused = self._session is not None
        try:
            return self._post(url, body, headers, deadline)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            self.close()
            if not reused or self._watch.aborted or time.monotonic() >= deadline:
                raise
            # The server had closed the idle connection. Records have ids: sending them twice changes nothing.
            return self._post(url, body, headers, deadline)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], deadline: float) -> Answer:
        if self._session is None:
            self._session = _new_session(self._watch)
        self._watch.deadline = deadline
        left = max(0.05, deadline - time.monotonic())
        with self._session.post(
            url,
            data=body,
            headers=headers,
            timeout=(min(self._connect_timeout, left), left),
            allow_redirects=False,
            stream=True,
            proxies={} if is_loopback(url) else _proxies(url),
            verify=os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
        ) as response:
            content = response.raw.read(MAX_ANSWER, decode_content=True)
            if len(content) == MAX_ANSWER:
                self.close()  # whatever else comes is not worth reading to keep the connection
            self._used_at = time.monotonic()
            return Answer(
                response.status_code, {name.lower(): value for name, value in response.headers.items()}, content
            )

    def abort(self) -> None:
        """Make a request in progress fail now. Safe from any thread."""
        self._watch.abort()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class _Watch:
    """The deadline of the request in progress, and its socket."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self.aborted = False
        self.socket: Any = None

    def arm(self, connected: Any) -> float:
        """Give ``connected`` the time that is left, at least a moment; raises ``TimeoutError`` when there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0 or self.aborted:
            raise socket.timeout("the deadline of the request has passed")
        connected.settimeout(left)
        return left

    def abort(self) -> None:
        self.aborted = True
        connected = self.socket
        if connected is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more


class _WatchedSocket:
    """A socket whose every send and read ends by the deadline."""

    def __init__(self, connected: Any, watch: _Watch) -> None:
        self._connected = connected
        self._watch = watch
        watch.socket = connected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected, name)

    def sendall(self, data: Any, *flags: int) -> None:
        self._watch.arm(self._connected)
        self._connected.sendall(data, *flags)

    def makefile(self, mode: str = "rb", buffering: int = -1, **_: Any) -> Any:
        # The raw file counts as a user of the socket, so that a socket closed early stays readable to its end.
        return io.BufferedReader(_WatchedFile(self._connected, self._watch))


class _WatchedFile(io.RawIOBase):
    def __init__(self, connected: Any, watch: _Watch) -> None:
        super().__init__()
        self._connected = connected
        self._raw = connected.makefile("rb", buffering=0)
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._watch.arm(self._connected)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _new_session(watch: _Watch) -> Any:
    """A session without retries, redirects, cookies or ``.netrc``, whose sockets are watched."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import connection, connectionpool

    class Connection(connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _WatchedSocket(self.sock, watch)

    class SecureConnection(connection.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = _WatchedSocket(self.sock, watch)

    class Pool(connectionpool.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(connectionpool.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **kwargs)
            manager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
            return manager

    session = requests.Session()
    session.trust_env = False  # it would also read ~/.netrc and replace our key by what stands there
    session.headers.clear()
    adapter = Adapter(pool_connections=1, pool_maxsize=1, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    watch.aborted = False
    return session


def _proxies(url: str) -> Any:
    from requests.utils import get_environ_proxies

    return get_environ_proxies(url)
