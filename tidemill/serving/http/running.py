"""The server's process: it listens, answers, and ends when it is asked to without losing what it has."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, RunFailed
from tidemill.serving.limits import Limits

NEEDED = ("fastapi", "httptools", "prometheus_client", "uvicorn")
TOKEN = "TIDEMILL_TOKEN"
BACKLOG = 2_048
SAME_MOMENT_SECONDS = 0.5
"""Whoever is asked by a group of processes may be asked twice in it."""

logger = logging.getLogger("tidemill")


def require_packages() -> None:
    """
    Raises:
        ConfigError: what a service stands on is not installed.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'`tidemill serve` needs {", ".join(missing)}: pip install "tidemill[serve]".')


def token_of_the_environment() -> tuple[str, bool]:
    """The token that clients have to send, and whether it was made up here.

    Raises:
        ConfigError: the environment has one that nobody can send.
    """
    given = os.environ.get(TOKEN)
    if given is None:
        return secrets.token_urlsafe(24), True
    if not given.strip() or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigError(f"{TOKEN} is empty, or has blanks or letters that no header can carry. Set another.")
    return given, False


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address; port 0 is any that is free.

    Raises:
        ConfigError: there is no such address here, or another process listens there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as e:
        raise ConfigError(f"--host {host} --port {port} cannot be listened at: {e.strerror}. Give another.") from e
    return found


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def serve(
    pipelines: Sequence[Pipeline],
    listening: socket.socket,
    limits: Limits,
    *,
    token: str,
    hosts: Sequence[str] = (),
    reuse: bool = False,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; a second one ends it at once. `tell` is given `/version`'s facts at the start.

    Raises:
        LakeError: there is no lake, or it does not have a pipeline.
        ModelError: a model cannot be loaded.
        RunFailed: calls were left without an answer at the end.
    """
    from tidemill.serving.http.app import make_app
    from tidemill.serving.metrics import Metrics
    from tidemill.serving.pipeline import ServedPipeline

    metrics = Metrics()
    served = {pipeline.name: ServedPipeline(pipeline, limits, metrics.watcher, reuse=reuse) for pipeline in pipelines}
    server = _server(limits)
    app = make_app(served, limits, metrics, token=token, hosts=hosts, is_ending=lambda: server.is_ending)
    server.config.app = app
    for pipeline in served.values():
        pipeline.follow()
    listening.listen(BACKLOG)
    tell({name: pipeline.facts() for name, pipeline in served.items()})
    asyncio.run(server.serve(sockets=[listening]))
    deadline = time.monotonic() + limits.stop_seconds
    left = [name for name, pipeline in served.items() if not pipeline.close(max(0.0, deadline - time.monotonic()))]
    if left:
        raise RunFailed(f"Requests to {', '.join(left)} had no answer after {limits.stop_seconds:g} s.")


def _server(limits: Limits) -> Any:
    import uvicorn

    from tidemill.serving.http.connections import protocol_of

    class Server(uvicorn.Server):
        """Uvicorn's, which on SIGTERM takes requests for a moment more, each with the word that its connection ends."""

        is_ending = False
        _asked: float | None = None

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            now, before = time.monotonic(), self._asked
            if before is None:
                self._asked, self.is_ending = now, True
                logger.warning("The service ends when the requests that it has are answered (%s).", _name_of(sig))
                asyncio.get_running_loop().call_later(limits.linger_seconds, self._leave)
            elif now - before > SAME_MOMENT_SECONDS:
                sys.stderr.write("tidemill: stopped at once; requests were left without an answer.\n")
                sys.stderr.flush()
                os._exit(1)

        def _leave(self) -> None:
            self.should_exit = True

    return Server(
        uvicorn.Config(
            app=lambda: None,
            http=protocol_of(limits),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=int(limits.stop_seconds),
        )
    )


def _name_of(number: int) -> str:
    return signal.Signals(number).name
