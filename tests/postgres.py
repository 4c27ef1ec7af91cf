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


def find_initdb() -> Path | None:
    """Debian keeps it off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found)
    return max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)


@contextmanager
def running_server() -> Iterator[str]:
    initdb = find_initdb()
    assert initdb is not None
    folder = Path(tempfile.mkdtemp(prefix="tidemill-pg-"))
    # PostgreSQL refuses to run as root, which is who tests are in a container.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    port = _free_port()
    options = f"-k {folder} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
    control = [*as_user, str(initdb.with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
    subprocess.run(
        [*as_user, str(initdb), "-D", str(folder / "data"), "-A", "trust", "-U", "tidemill"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    _require_passwords(folder / "data" / "pg_hba.conf", of="guarded")
    subprocess.run(
        [*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True, cwd=folder
    )
    try:
        yield f"host=127.0.0.1 port={port} user=tidemill"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


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
