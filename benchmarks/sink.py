"""A collector that takes everything at once, in a process of its own: what is measured is the client."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import zlib
from typing import Any


class _Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = b"{}"
        if self.path == "/api/ingest/batch":
            lines = zlib.decompress(body, 31) if self.headers.get("Content-Encoding") == "gzip" else body
            receipt = {"accepted": lines.count(b"\n"), "duplicates": 0, "rejected": []}
            answer = json.dumps(receipt).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


def _serve(ports: Any) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    ports.put(server.server_address[1])
    server.serve_forever()


def start_sink() -> str:
    """Start it and return its address; it ends with this process."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    context.Process(target=_serve, args=(ports,), daemon=True).start()
    return f"http://127.0.0.1:{ports.get()}"
