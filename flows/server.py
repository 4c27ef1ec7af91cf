"""A Prefect server for one run, on loopback, in a process and a folder of its own.

The parent makes the listening socket, so there is no port to clash over and no
moment at which a connection is refused. The server lives as long as its standard
input is open: however its parent ends, it ends too, and takes its folder along.
Four runs at once are four servers with a database each.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidemill.flows.database import lay_out_database
from tidemill.flows.password import VARIABLES

STOP_SECONDS = 5.0
SETTINGS = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "DO_NOT_TRACK": "1",
}
REMOVAL_ATTEMPTS = 100


@dataclass(frozen=True)
class TemporaryServer:
    """Where it answers, and to whom."""

    url: str
    password: str


@contextmanager
def temporary_server() -> Iterator[TemporaryServer]:
    """Start a server and return at once: requests to it wait until it answers."""
    password = f"tidemill:{secrets.token_urlsafe(32)}"
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        port, number = listening.getsockname()[1], listening.fileno()
        # -P: a folder `datasets` where the user stands is data, and not the library. A session of its own: Ctrl-C is
        # for the run, which then tells the server how it ended.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tidemill.flows.server", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=_environment() | dict.fromkeys(VARIABLES, password),
            pass_fds=[number],
            start_new_session=True,
        )
    try:
        yield TemporaryServer(f"http://127.0.0.1:{port}/api", password)
    finally:
        _stop(process)


def _environment() -> dict[str, str]:
    """This process's, without what configures another Prefect server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | SETTINGS


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(listening: socket.socket) -> None:
    """Serve until standard input ends."""
    from tidemill.flows.gate import Gate, own_origins

    origins = own_origins(listening.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="tidemill-prefect-", ignore_cleanup_errors=True) as folder:
        threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
        os.environ |= {
            "PREFECT_HOME": folder,
            "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        }
        import uvicorn

        lay_out_database(Path(folder) / "prefect.db")
        from prefect.server.api.server import create_app

        gate = Gate(create_app(), origins)
        uvicorn.Server(uvicorn.Config(gate, log_level="critical", lifespan="on")).run(sockets=[listening])


def _end_with_parent(folder: str) -> None:
    """At once, and without ceremony: nothing of this server outlives the run."""
    sys.stdin.buffer.read()
    for _ in range(REMOVAL_ATTEMPTS):  # The server's other threads may put a file back while the folder is emptied.
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            break
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
