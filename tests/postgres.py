"""A PostgreSQL server for the tests, from the system's own package."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import PATIENCE_SECONDS


def find_initdb() -> Path | None:
    """Debian keeps it off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found)
    return max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)


class Server:
    """A server of its own, which may be stopped and started again at its address."""

    def __init__(self) -> None:
        initdb = find_initdb()
        assert initdb is not None
        self.folder = Path(tempfile.mkdtemp(prefix="tidemill-pg-"))
        # PostgreSQL refuses to run as root, which is who tests are in a container.
        as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if as_user:
            shutil.chown(self.folder, "postgres")
        port = _free_port()
        self.conninfo = f"host=127.0.0.1 port={port} user=tidemill"
        self._options = f"-k {self.folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
        control = [*as_user, str(initdb.with_name("pg_ctl")), "-D", str(self.folder / "data")]
        self._control = [*control, "-w", "-t", str(int(PATIENCE_SECONDS))]
        self._run([*as_user, str(initdb), "-D", str(self.folder / "data"), "-A", "trust", "-U", "tidemill"])
        _require_passwords(self.folder / "data" / "pg_hba.conf", of="guarded")
        self.start()

    def start(self) -> None:
        self._run([*self._control, "-o", self._options, "-l", str(self.folder / "log"), "start"])

    def stop(self) -> None:
        """As a crash does: nothing is finished."""
        self._run([*self._control, "-m", "immediate", "stop"])

    def restart(self) -> None:
        self.stop()
        self.start()

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)


@contextmanager
def running_server() -> Iterator[str]:
    server = Server()
    try:
        yield server.conninfo
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def _require_passwords(rules: Path, *, of: str) -> None:
    """Of the members of a role; all others are trusted."""
    rules.write_text(f"host all +{of} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")


def create_user(conninfo: str, password: str) -> str:
    """A user who has to give a password, and may do everything then."""
    import psycopg
    from psycopg import sql

    name = f"user_{secrets.token_hex(6)}"
    with psycopg.connect(f"{conninfo} dbname=postgres", autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'guarded'").fetchall():
            connection.execute("CREATE ROLE guarded")
        create = "CREATE ROLE {} SUPERUSER LOGIN PASSWORD {} IN ROLE guarded"
        connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Literal(password)))
    return name


def create_database(conninfo: str) -> str:
    import psycopg

    name = f"lake_{secrets.token_hex(6)}"
    with psycopg.connect(f"{conninfo} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
