"""A small server on loopback that speaks OpenAI's protocol, and fails as it is told to.

It writes a prompt's words in reverse. Each request is asked `fails`: which failure it meets, if any.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fails:
    """An answer with a status and a message; or one that is cut, or none at all, or one whose body is as given."""

    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "it failed"
    how: str = "status"
    body: object = None


CUT, RESET = Fails(how="cut"), Fails(how="reset")


@dataclass(frozen=True)
class Asked:
    """A request: `prompt` is the text, or that of the last message; `times` counts how often it was asked for."""

    method: str
    path: str
    prompt: str = ""
    times: int = 1
    body: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    at: float = 0.0
    """By the server's clock, when it came."""


def never(_: Asked) -> Fails | None:
    return None


class ChatServer:
    """At `url`, without `/v1`. `asked` are the requests so far, in the order in which they came."""

    def __init__(
        self,
        *,
        models: tuple[str, ...] = ("tiny",),
        key: str | None = None,
        fails: Callable[[Asked], Fails | None] = never,
        answer: Callable[[Asked], Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.models, self.key, self.fails, self.clock = models, key, fails, clock
        self.answer = answer or _reversed
        self.asked: list[Asked] = []
        self.most_at_once = self._num_now = 0
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.chat = self
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}"

    @property
    def prompts(self) -> list[str]:
        return [asked.prompt for asked in self.asked if asked.method == "POST"]

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def note(self, method: str, path: str, body: Mapping[str, Any], key: str | None) -> Asked:
        prompt = body["messages"][-1]["content"] if "messages" in body else body.get("prompt", "")
        with self._lock:
            self._times[f"{method} {path} {prompt}"] += 1
            asked = Asked(method, path, prompt, self._times[f"{method} {path} {prompt}"], body, key, at=self.clock())
            self.asked.append(asked)
        return asked

    def count(self, by: int) -> None:
        with self._lock:
            self._num_now += by
            self.most_at_once = max(self.most_at_once, self._num_now)


def completion(text: str | None, *, chat: bool, finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    """An answer as such servers give it."""
    said = {"message": {"role": "assistant", "content": text, **message}} if chat else {"text": text}
    num_words = len((text or "").split())
    return {
        "object": "chat.completion" if chat else "text_completion",
        "choices": [{"index": 0, "finish_reason": finish, **said}],
        "usage": {"prompt_tokens": 7, "completion_tokens": num_words, "total_tokens": 7 + num_words},
    }


def _reversed(asked: Asked) -> Mapping[str, Any]:
    words = " ".join(reversed(asked.prompt.split()))
    return completion(words, chat=asked.path.endswith("/chat/completions"))


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    chat: ChatServer

    def handle_error(self, *_: object) -> None:
        """A client that has gone is no error of this server's."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    # Head and body together, or the body waits for the head's acknowledgement.
    wbufsize = -1

    def do_GET(self) -> None:
        chat = self.server.chat
        asked = chat.note("GET", self.path, {}, self.headers.get("Authorization"))
        if (failure := self._failure(asked)) is not None:
            self._fail(failure)
        elif asked.path == "/v1/models":
            self._send(200, {"object": "list", "data": [_listed(name) for name in chat.models]})
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        chat = self.server.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = chat.note("POST", self.path, body, self.headers.get("Authorization"))
        chat.count(1)
        try:
            failure, answer = self._failure(asked), chat.answer(asked)
        finally:
            chat.count(-1)
        if failure is not None:
            self._fail(failure)
        elif asked.path not in ("/v1/chat/completions", "/v1/completions"):
            self._send(404, {"detail": "Not Found"})
        elif body["model"] not in chat.models:
            self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        else:
            self._send(200, answer)

    def _failure(self, asked: Asked) -> Fails | None:
        key = self.server.chat.key
        if key is not None and asked.key != f"Bearer {key}":
            return Fails(401, message=f"Incorrect API key provided: {asked.key}")
        return self.server.chat.fails(asked)

    def _fail(self, failure: Fails) -> None:
        match failure.how:
            case "status":
                self._send(failure.status, {"error": {"message": failure.message}}, failure.headers)
            case "body":
                self._send(200, failure.body)
            case "cut":
                self._send(200, {"choices": []}, more_bytes=10)
                self.close_connection = True
            case _:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                self.close_connection = True
                self.connection.close()

    def _send(
        self, status: int, content: object, headers: Mapping[str, str] | None = None, *, more_bytes: int = 0
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + more_bytes))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def _listed(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1700000000, "owned_by": "tests", "root": f"/models/{name}"}
