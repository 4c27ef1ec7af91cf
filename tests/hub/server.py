"""A small Hugging Face Hub on loopback, for the real client libraries.

Point `HF_ENDPOINT` at `HubServer.url` before `huggingface_hub` is imported. It
answers what `huggingface_hub`, `datasets` and `transformers` ask to read a
repository, and to write one; nothing is offered or taken through Xet, so whoever
writes has to set `HF_HUB_DISABLE_XET=1`.

    with HubServer() as hub:
        reviews = hub.add_dataset("org/reviews")
        sha = reviews.commit({"data/train.parquet": Path("train.parquet")})
        hub.faults = Faults(rate=0.2, seed=1)
"""

import argparse
import contextlib
import json
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from tests.hub.faults import Failure, FaultKind, Faults, Request
from tests.hub.repo import PIECE_BYTES, Commit, Repo, RepoKind, files_in
from tests.hub.uploads import Denied, Uploads, writes

__all__ = ["Failure", "Faults", "HubServer", "Repo", "Request", "files_in"]

API_PATH = re.compile(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+)(?:/(.+))?)?)?")
FILE_PATH = re.compile(r"(/cdn)?(?:/(datasets))?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    num_bytes: int = 0
    pieces: Iterable[bytes] = ()


def json_answer(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(content).encode()
    named = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Answer(status, named, len(body), [body])


def _misfit(fault: FaultKind, answer: Answer) -> Answer:
    """The answer with a byte less or more than its head names, or with a head that names other bytes."""
    body = b"".join(answer.pieces)
    if fault == "elsewhere":
        came = re.sub(
            r"(\d+)-(\d+)", lambda span: f"{int(span[1]) + 1}-{int(span[2]) + 1}", answer.headers["Content-Range"]
        )
        return Answer(answer.status, {**answer.headers, "Content-Range": came}, len(body), [body])
    body = body[:-1] if fault == "short" else body + b"x"
    return Answer(answer.status, answer.headers, len(body), [body])


class Refused(Exception):
    """An answer that is an error. By `code`, `huggingface_hub` chooses what it raises."""

    def __init__(self, status: int, message: str, *, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message, **(headers or {})}
        named |= {"X-Error-Code": code} if code else {}
        self.answer = json_answer({"error": message}, status=status, headers=named)


def asked_span(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open span of bytes that a `Range` of one span asks for."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refused(416, "Range Not Satisfiable", headers=headers)
    return start, end


def _is_asked_for(query: dict[str, list[str]], repo: Repo, facts: dict[str, Any]) -> bool:
    """Whether a search for models finds one: by tags, task, words of its name, access and number of parameters."""
    bounds = dict(part.split(":") for part in query.get("num_parameters", [""])[0].split(",") if part)
    total = (facts.get("safetensors") or {}).get("total")
    return (
        set(query.get("filter", [])) <= set(facts["tags"])
        and query.get("pipeline_tag", [facts.get("pipeline_tag")])[0] == facts.get("pipeline_tag")
        and query.get("search", [""])[0].lower() in repo.id.lower()
        and query.get("author", [facts["author"]])[0] == facts["author"]
        and query.get("gated", [str(repo.gated)])[0].lower() == str(repo.gated).lower()
        and (not bounds or total is not None)
        and _count(bounds.get("min", "0")) <= (total or 0) <= _count(bounds.get("max", "9999999B"))
    )


def _count(text: str) -> float:
    """A number of parameters as it is asked for: `300M`, `6B`."""
    scale = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper())
    return float(text[:-1]) * scale if scale else float(text)


class HubServer:
    """Listens from `with` to its end, and then drops the connections that are open.

    `token` is the only credential it knows. `page_size` cuts listings into pages.
    With `redirect_lfs`, LFS files come from another host (`localhost`, paths below
    `/cdn`), as the Hub sends its clients to a CDN.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.token = "hf_loopback"
        self.page_size: int | None = None
        self.redirect_lfs = False
        self.faults = Faults()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.uploads = Uploads(lambda: self.url, self.repos, self._add)
        self.closed = False
        self._log: list[Request] = []
        self._lock = threading.Lock()
        self.writing = threading.Lock()
        self._listener = _Listener((host, port), self)
        self.port = int(self._listener.server_address[1])
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed = True
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def add_dataset(self, repo_id: str) -> Repo:
        return self._add("datasets", repo_id)

    def add_model(self, repo_id: str) -> Repo:
        return self._add("models", repo_id)

    def _add(self, kind: RepoKind, repo_id: str) -> Repo:
        self.repos[kind, repo_id] = Repo(kind, repo_id)
        return self.repos[kind, repo_id]

    @property
    def log(self) -> list[Request]:
        """Requests since the last `reset`, in the order in which their answers began."""
        with self._lock:
            return list(self._log)

    def bytes_received(self) -> int:
        """Bytes of Git LFS objects that were sent here."""
        return sum(request.received_bytes for request in self.log if request.method == "PUT")

    def bytes_sent(self, prefix: str = "") -> int:
        """Body bytes of the answers to paths that begin with `prefix`."""
        return sum(request.body_bytes for request in self.log if request.path.startswith(prefix))

    def reset(self) -> None:
        with self._lock:
            self._log.clear()

    def draw_fault(self, request: Request) -> FaultKind | None:
        with self._lock:
            return self.faults.draw(request)

    def record(self, request: Request) -> None:
        with self._lock:
            self._log.append(request)


class _Listener(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: HubServer) -> None:
        self.hub = hub
        super().__init__(address, _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    """One client's connection, and its requests one after another."""

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        body = self._body()
        if hub.closed:
            self.close_connection = True
            return
        target = urlsplit(self.path)
        path = unquote(target.path)
        authorized = "Authorization" in self.headers
        request = Request(self.command, path, target.query, self.headers.get("Range"), authorized=authorized)
        request.received_bytes = len(body)
        fault = hub.draw_fault(request)
        if writes(self.command, path):
            request.fault = "503" if fault == "cut" else fault
            undone = fault not in (None, "late", "lost")
            answer = Refused(503, "Service Unavailable").answer if undone else self._written(target, body)
        else:
            answer = self._answer(target, body)
            request.fault = self._possible_fault(fault, answer)
        if request.fault == "whole":
            del self.headers["Range"]
            answer = self._answer(target, body)
        if request.fault == "429":
            headers = hub.faults.rate_limit_headers()
            answer = Refused(429, "Too Many Requests", headers=headers).answer
        elif request.fault in ("503", "late"):
            answer = Refused(503, "Service Unavailable").answer
        elif request.fault == "expired":
            answer = Refused(403, "Request has expired").answer
        elif request.fault in ("reset", "lost"):
            hub.record(request)
            self._reset()
            return
        self._send(request, answer)

    do_HEAD = do_GET  # noqa: N815
    do_POST = do_GET  # noqa: N815
    do_PUT = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _written(self, target: SplitResult, body: bytes) -> Answer:
        path = unquote(target.path)
        try:
            self._check_credential()
            # Where large files go, the address is signed, and no credential comes along.
            if "Authorization" not in self.headers and not path.startswith("/lfs/"):
                raise Refused(401, "Invalid username or password.")
            with self.server.hub.writing:
                status, content, headers = self.server.hub.uploads.answer(target.path, target.query, body)
        except Refused as refused:
            return refused.answer
        except Denied as denied:
            return Refused(denied.status, denied.message, code=denied.code).answer
        return json_answer(content, status=status, headers=headers)

    def _possible_fault(self, fault: FaultKind | None, answer: Answer) -> FaultKind | None:
        uncuttable = self.command == "HEAD" or answer.num_bytes < 2
        return "503" if fault == "cut" and uncuttable else fault

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        socket.close(self.connection.detach())

    def _send(self, request: Request, answer: Answer) -> None:
        if request.fault in ("short", "long", "elsewhere"):
            answer = _misfit(request.fault, answer)
        request.status = answer.status
        self.server.hub.record(request)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if request.fault != "endless":
            self.send_header("Content-Length", str(answer.num_bytes))
        self.end_headers()
        if self.command == "HEAD":
            return
        if request.fault in ("endless", "stall", "trickle"):
            self._never_end(request)
            return
        unsent = answer.num_bytes
        if request.fault == "cut":
            self.close_connection = True
            unsent //= 2
        for piece in answer.pieces:
            piece = piece[:unsent]
            unsent -= len(piece)
            request.body_bytes += len(piece)
            self.wfile.write(piece)

    def _never_end(self, request: Request) -> None:
        """Send all too much, nothing, or a byte at a time, until the client has enough of it."""
        self.close_connection = True
        piece = {"endless": bytes(PIECE_BYTES), "stall": b"", "trickle": b" "}[str(request.fault)]
        pause = None if request.fault == "stall" else 0.0 if request.fault == "endless" else 0.005
        with contextlib.suppress(ConnectionError):
            while not select.select([self.connection], [], [], pause)[0]:
                self.wfile.write(piece)
                request.body_bytes += len(piece)

    def _answer(self, target: SplitResult, body: bytes) -> Answer:
        try:
            self._check_credential()
            if target.path == "/api/whoami-v2":
                return self._whoami()
            if target.path == "/api/models":
                return self._models(parse_qs(target.query))
            if match := FILE_PATH.fullmatch(target.path):
                return self._file(*(unquote(part or "") for part in match.groups()))
            if match := API_PATH.fullmatch(target.path):
                query = parse_qs(body.decode() if self.command == "POST" else target.query)
                return self._api(query, *(unquote(part or "") for part in match.groups()))
            raise Refused(404, "Sorry, we can't find the page you are looking for.")
        except Refused as refused:
            return refused.answer

    def _check_credential(self) -> None:
        credential = self.headers.get("Authorization")
        if credential not in (None, f"Bearer {self.server.hub.token}"):
            raise Refused(401, "Invalid credentials in Authorization header")

    def _whoami(self) -> Answer:
        if "Authorization" not in self.headers:
            raise Refused(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return json_answer({"type": "user", "name": "tester", "orgs": [], "auth": token})

    def _repo(self, kind: str, repo_id: str, *, signed: bool = False) -> Repo:
        """The Hub tells only those who sent a token that a repository does not exist."""
        known = "Authorization" in self.headers
        repo = self.server.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not known and not signed):
            raise Refused(404 if known else 401, "Repository not found", code="RepoNotFound")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision or "main")
        if commit is None:
            raise Refused(404, f"Invalid rev id: {quote(revision)}", code="RevisionNotFound")
        return commit

    def _api(self, query: dict[str, list[str]], kind: str, repo_id: str, verb: str, rev: str, path: str) -> Answer:
        repo = self._repo(kind, repo_id)
        if verb == "refs":
            return json_answer(repo.describe_refs())
        commit = self._commit(repo, rev)
        expand = query.get("expand", [""])[0].lower() == "true"
        if verb in ("", "revision"):
            return json_answer(repo.describe(commit, blobs="blobs" in query))
        if verb == "paths-info":
            paths = [path for path in query.get("paths", []) if commit.below(path)]
            return json_answer([commit.entry(path, expand=expand) for path in paths])
        if verb == "commits":
            return self._page([past.describe() for past in commit.history()], query)
        if verb == "tree":
            recursive = query.get("recursive", [""])[0].lower() == "true"
            paths = commit.listing(path, recursive=recursive)
            if path and not paths:
                raise Refused(404, f"{quote(path)} does not exist on {quote(rev)}", code="EntryNotFound")
            return self._page([commit.entry(path, expand=expand) for path in paths], query)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def _models(self, query: dict[str, list[str]]) -> Answer:
        """Models that have every tag asked for, the most downloaded first, with what `expand` asks for."""
        known = "Authorization" in self.headers
        repos = [repo for (kind, _), repo in self.server.hub.repos.items() if kind == "models"]
        told = [(repo, repo.listed()) for repo in repos if known or not repo.private]
        found = [facts for repo, facts in told if _is_asked_for(query, repo, facts)]
        if sort := query.get("sort", [""])[0]:
            found.sort(key=lambda facts: facts[sort], reverse=True)
        asked = query.get("expand", [])
        shown = [{key: facts[key] for key in ("id", *asked) if key in facts} if asked else facts for facts in found]
        limit = int(query.get("limit", ["1000"])[0])
        return self._page(shown[:limit], query)

    def _page(self, entries: list[dict[str, Any]], query: dict[str, list[str]]) -> Answer:
        start = int(query.get("cursor", ["0"])[0])
        end = start + (self.server.hub.page_size or len(entries))
        if end >= len(entries):
            return json_answer(entries[start:])
        rest = urlencode({**query, "cursor": end}, doseq=True)
        link = f'<http://{self.headers["Host"]}{urlsplit(self.path).path}?{rest}>; rel="next"'
        return json_answer(entries[start:end], headers={"Link": link})

    def _file(self, cdn: str, kind: str, repo_id: str, revision: str, path: str) -> Answer:
        hub = self.server.hub
        repo = self._repo(kind or "models", repo_id, signed=bool(cdn))
        commit = self._commit(repo, revision)
        headers = {"X-Repo-Commit": commit.sha}
        if repo.gated and not cdn:
            message = f"Access to {repo.id} is restricted and you are not in the authorized list."
            raise Refused(403, message, code="GatedRepo", headers=headers)
        blob = commit.files.get(path)
        if blob is None:
            raise Refused(404, "Entry not found", code="EntryNotFound", headers=headers)
        headers |= {"ETag": blob.etag, "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": blob.etag, "X-Linked-Size": str(blob.size)}
            if hub.redirect_lfs and not cdn:
                signed = f"{kind}/{repo.id}/resolve/{commit.sha}/{quote(path)}".lstrip("/")
                headers["Location"] = f"http://localhost:{hub.port}/cdn/{signed}"
                return Answer(302, headers)
        headers["Content-Type"] = "application/octet-stream"
        span = asked_span(self.headers.get("Range"), blob.size)
        if span is None:
            return Answer(200, headers, blob.size, blob.pieces(0, blob.size))
        start, end = span
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
        return Answer(206, headers, end - start, blob.pieces(start, end))


def main() -> None:
    """Serve folders as repositories and print the address, until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.server", description=main.__doc__)
    parser.add_argument("--dataset", action="append", default=[], metavar="ORG/NAME=DIR")
    parser.add_argument("--model", action="append", default=[], metavar="ORG/NAME=DIR")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with HubServer(host=options.host, port=options.port) as hub:
        for add, named in [(hub.add_dataset, options.dataset), (hub.add_model, options.model)]:
            for repo_id, folder in (text.split("=", 1) for text in named):
                add(repo_id).commit(files_in(Path(folder)))
        print(hub.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
