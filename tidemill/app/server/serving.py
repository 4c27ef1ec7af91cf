"""The app as a server on loopback, behind its gate."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tidemill.config import Pipeline
from tidemill.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
INSTALL = "The app needs Gradio, which is not installed: pip install 'tidemill[app]'."


@dataclass(frozen=True)
class Address:
    """Where the app answers. `hosts` are names beside those of loopback, such as a proxy's; `root` is its path there,
    or its whole address."""

    port: int = 7860
    hosts: tuple[str, ...] = ()
    root: str = ""
    proxies: tuple[str, ...] = ()
    has_token: bool = True

    @property
    def own_hosts(self) -> list[str]:
        end = "" if self.port == 80 else f":{self.port}"
        named = [*self.hosts, *filter(None, [urlsplit(self.root).netloc])]
        return [*(f"{name}{end}" for name in LOOPBACK), *(host.lower() for host in named)]

    @property
    def public(self) -> str:
        """What a browser asks for: at the proxy, where there is one."""
        if "://" in self.root:
            return self.root.rstrip("/")
        return f"http://{self.hosts[0] if self.hosts else f'127.0.0.1:{self.port}'}{self.root.rstrip('/')}"

    @property
    def path(self) -> str:
        """Below which the app is there."""
        return urlsplit(self.public).path


@dataclass(frozen=True)
class App:
    """An ASGI app that is ready to be served, the address that lets one in, and how to end it."""

    asgi: Any
    url: str
    close: Callable[[], None]


def check_installed() -> None:
    """
    Raises:
        ConfigError: Gradio is missing.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(INSTALL)


def make_app(pipeline: Pipeline, address: Address, *, log: Callable[[str], None] | None = None) -> App:
    """
    Raises:
        LakeError: there is no lake, or the pipeline never ran.
        ConfigError: Gradio is missing.
    """
    check_installed()
    from tidemill.app.guard.gate import TOKEN, Gate
    from tidemill.app.querying import FOLDER
    from tidemill.app.source import Source
    from tidemill.lake.runs import user_name

    source = Source(pipeline)
    # What Gradio serves lies in a folder of this app alone, and goes with it.
    folder = tempfile.mkdtemp(prefix="tidemill-app-")
    os.environ[FOLDER] = folder
    token = secrets.token_urlsafe(24) if address.has_token else None
    asgi = Gate(
        _mounted(source, address, user_name()),
        hosts=address.own_hosts,
        token=token,
        cookie=f"tidemill_app_{address.port}",
        proxies=address.proxies,
        root=address.path,
        secure=address.public.startswith("https://"),
        log=log,
    )

    def close() -> None:
        source.close()
        # The process may go on, as one that runs tests does, and nothing can be written into a folder that is gone.
        if os.environ.get(FOLDER) == folder:
            del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)

    query = f"?{TOKEN}={token}" if token else ""
    return App(asgi, f"{address.public}/{query}", close)


def _mounted(source: Any, address: Address, who: str) -> Any:
    from tidemill.app.server import blocks
    from tidemill.app.tabs import browse
    from tidemill.app.tabs.report import Pages

    import gradio as gr  # isort: skip
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response

    pages = Pages()
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def report(name: str) -> Response:
        page = pages.get(name)
        if page is None:
            return PlainTextResponse("This report is gone: make it again.\n", 404)
        return HTMLResponse(page)

    server.add_api_route("/report/{name}", report, methods=["GET"])
    return gr.mount_gradio_app(
        server,
        blocks.build(source, pages, who=who, root=address.root.rstrip("/")),
        path="/",
        server_port=address.port,
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        root_path=address.root or None,
        allowed_paths=[],
        blocked_paths=[],
        max_file_size=0,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=blocks.theme(),
        css=blocks.STYLE.read_text(encoding="utf-8"),
        js=browse.KEYS,
    )


def serve(app: App, listening: socket.socket) -> None:
    """Answer until the process is asked to stop."""
    import uvicorn

    config = uvicorn.Config(
        app.asgi,
        log_level="warning",
        access_log=False,  # It would have the query of each request, and the first one's is the token.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        app.close()


def log_to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def root_of(given: str) -> str:
    """
    Raises:
        ConfigError: it is neither a path nor an address.
    """
    if given and not re.fullmatch(r"(https?://[^/@\[\]\s]+)?(/[^\s?#]*)?", given):
        raise ConfigError(
            f"--root-path {given} is no path. Give one such as /reviews, or https://data.example.org/reviews."
        )
    return given


def hosts_of(given: Sequence[str]) -> tuple[str, ...]:
    """
    Raises:
        ConfigError: one of them is no host, or means all of them.
    """
    for host in given:
        if "/" in host or "*" in host or not host.strip():
            raise ConfigError(f"--host {host} is no host. Give a name with its port, such as data.example.org:8443.")
    return tuple(given)
