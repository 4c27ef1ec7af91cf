"""A real reverse proxy on loopback: what is below a path it asks another server for, without that path."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length"}


@contextmanager
def running_proxy(port: int, path: str) -> Iterator[str]:
    """Its address, for the length of a block; `Host` goes on as it came."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._ask(None)

        def do_POST(self) -> None:
            self._ask(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _ask(self, body: bytes | None) -> None:
            if not self.path.startswith(path):
                # A browser asks for the host's icon at its root, whatever page it shows.
                self.send_response(204 if self.path == "/favicon.ico" else 404)
                self.end_headers()
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
            upstream.request(self.command, self.path.removeprefix(path) or "/", body, headers)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            while piece := answer.read1(65_536):
                self.wfile.write(piece)
                self.wfile.flush()
            upstream.close()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{path}"
    finally:
        server.shutdown()
        server.server_close()
