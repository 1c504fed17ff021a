"""A TCP proxy before a real collector, that fails as networks and servers do."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

#: What can happen to a connection.
PASS, REFUSE, HANG, CUT_REQUEST, CUT_ANSWER, DRIP, GARBAGE, ERROR_500, BUSY_429 = (
    *("pass", "refuse", "hang", "cut request", "cut answer", "drip", "garbage", "500", "429"),
)
FAULTS = (REFUSE, HANG, CUT_REQUEST, CUT_ANSWER, DRIP, GARBAGE, ERROR_500, BUSY_429)
_CANNED = {
    GARBAGE: b"\x00\xffthis is not HTTP\r\n\r\n",
    ERROR_500: b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    BUSY_429: b"HTTP/1.1 429 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
}


class FaultyProxy:
    """Forwards to ``port`` of this machine, until it is told to fail. A change also breaks open connections."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self._target = port
        self._random = random.Random(seed)
        self._fault = PASS
        self._share = 1.0
        self._open: set[socket.socket] = set()
        self.connections: dict[str, int] = {}
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fail(self, fault: str, share: float = 1.0) -> None:
        """Let ``fault`` strike new connections with the probability ``share``; the others pass."""
        self._fault, self._share = fault, share
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stopping.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fault = self._fault if self._random.random() < self._share else PASS
            self.connections[fault] = self.connections.get(fault, 0) + 1
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        self._open.add(client)
        with client:
            client.settimeout(60)
            with contextlib.suppress(OSError):
                if fault == REFUSE:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                elif fault == HANG:
                    self._stopping.wait(30)
                elif fault in _CANNED:
                    client.recv(65_536)
                    client.sendall(_CANNED[fault])
                else:
                    self._forward(client, fault)
        self._open.discard(client)

    def _forward(self, client: socket.socket, fault: str) -> None:
        with socket.create_connection(("127.0.0.1", self._target), 5) as server:
            server.settimeout(60)
            answers = threading.Thread(target=self._answers, args=(server, client, fault), daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                while True:
                    data = client.recv(65_536)
                    if not data:
                        break
                    if fault == CUT_REQUEST:
                        server.sendall(data[: len(data) // 2])
                        return
                    server.sendall(data)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            answers.join(60)

    def _answers(self, server: socket.socket, client: socket.socket, fault: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = server.recv(65_536)
                if not data:
                    break
                if fault == CUT_ANSWER:  # the collector has stored it, and the sender never learns
                    break
                if fault == DRIP:
                    for byte in data:
                        client.sendall(bytes([byte]))
                        if self._stopping.wait(0.2):
                            return
                client.sendall(b"" if fault == DRIP else data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens at port {port}"
            time.sleep(0.02)
