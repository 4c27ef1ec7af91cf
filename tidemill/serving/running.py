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
from tidemill.machine import num_cpus
from tidemill.serving.answering.limits import Limits
from tidemill.serving.pipelines.garbage import leave_out_what_is_there

NEEDED = ("fastapi", "httptools", "prometheus_client", "uvicorn")
TOKEN = "TIDEMILL_TOKEN"
BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 75
"""Longer than proxies keep a connection that is idle: who sends on one that the other has closed has lost a request."""
SWITCH_SECONDS = 0.001
"""For which a thread has Python to itself while others want it. The event loop gives it up at each answer that it
sends, and would wait 5 ms each time for the threads that compute."""
SAME_MOMENT_SECONDS = 0.5
"""Whoever is asked by a group of processes may be asked twice in it."""

logger = logging.getLogger("tidemill")


def share_cpus() -> None:
    """Leave the CPUs to the model, before any library has started its threads.

    Tokenizers would have as many threads as the model, and are more than ten times as fast: with all pools at work
    there would be two threads a CPU.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, num_cpus() // 4)))


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
    except (OSError, UnicodeError) as e:
        why = getattr(e, "strerror", None) or e
        raise ConfigError(f"--host {host} --port {port} cannot be listened at: {why}. Give another.") from e
    return found


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


class Service:
    """Pipelines that are open, behind a server that does not listen yet."""

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        limits: Limits,
        *,
        token: str,
        hosts: Sequence[str] = (),
        reuse: bool = False,
    ) -> None:
        """`hosts` are names by which it may be asked; with `reuse`, texts that a table has are not computed.

        Raises:
            LakeError: there is no lake, or it does not have a pipeline.
            ModelError: a model cannot be loaded.
        """
        from tidemill.serving.app import make_app
        from tidemill.serving.pipelines.metrics import Metrics
        from tidemill.serving.pipelines.pipeline import ServedPipeline

        metrics, self.limits = Metrics(), limits
        self.pipelines = {
            pipeline.name: ServedPipeline(pipeline, limits, metrics.watcher, reuse=reuse) for pipeline in pipelines
        }
        self.server = _server(limits)
        self.server.config.app = make_app(
            self.pipelines, limits, metrics, token=token, hosts=hosts, is_ending=lambda: self.server.is_ending
        )

    def run(self, listening: socket.socket, tell: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Serve until SIGTERM or Ctrl-C; a second one ends it at once. `tell` is given what is served, once it is.

        Raises:
            RunFailed: requests were left without an answer at the end.
        """
        for pipeline in self.pipelines.values():
            pipeline.follow()
        leave_out_what_is_there()
        listening.listen(BACKLOG)
        sys.setswitchinterval(SWITCH_SECONDS)
        tell({name: pipeline.facts() for name, pipeline in self.pipelines.items()})
        asyncio.run(self.server.serve(sockets=[listening]))
        began = self.server.asked or time.monotonic()
        deadline = began + self.limits.linger_seconds + self.limits.stop_seconds
        closed = {
            name: pipeline.close(max(0.0, deadline - time.monotonic())) for name, pipeline in self.pipelines.items()
        }
        if left := [name for name, is_closed in closed.items() if not is_closed]:
            raise RunFailed(f"Requests to {', '.join(left)} had no answer after {self.limits.stop_seconds:g} s.")


def _server(limits: Limits) -> Any:
    import uvicorn

    from tidemill.serving.http.connections import protocol_of

    class Server(uvicorn.Server):
        """Uvicorn's, which on SIGTERM takes requests for a moment more, each with the word that its connection ends."""

        is_ending = False
        asked: float | None = None

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            now, before = time.monotonic(), self.asked
            if before is None:
                self.asked, self.is_ending = now, True
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
            http=protocol_of(limits),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(limits.stop_seconds),
        )
    )


def _name_of(number: int) -> str:
    return signal.Signals(number).name
