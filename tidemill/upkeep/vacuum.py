"""What a catalog's own files still hold of rows that were deleted from it: written over, or written anew without."""

from __future__ import annotations

import subprocess
import sys

from tidemill.errors import LakeError
from tidemill.lake.ducklake import postgres
from tidemill.lake.ducklake.catalog import shown, sqlite_file
from tidemill.lake.ducklake.connection import Lake

CATALOG_WAIT_SECONDS = 2
VACUUM = """
import sqlite3, sys
catalog = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)
catalog.execute("VACUUM")
print(catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
"""
"""Leaves no deleted row in the file's free pages or in its write-ahead log; prints 1 if someone was reading."""
POSTGRES_VACUUM = """
SELECT format('VACUUM (FULL, ANALYZE) %I.%I', schemaname, tablename) FROM pg_tables
WHERE tablename ~ '^ducklake_(file_(column|variant)_stats|table_column_stats|inlined_data_[0-9].*)$'
"""
"""For the tables of a catalog that hold values of rows: it writes them anew, and samples them anew as well."""
POSTGRES_SNAPSHOTS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL
"""
"""Sessions for which PostgreSQL may have kept dead rows."""


def vacuum_catalog(lake: Lake) -> list[str]:
    """What the catalog's own files still hold of rows that were deleted from it; returns what was not reached."""
    clean = _vacuum_sqlite if lake.spec.catalog.startswith("sqlite:") else _vacuum_postgres
    with lake.locked():
        return clean(lake)


def _vacuum_sqlite(lake: Lake) -> list[str]:
    # In a process of its own: a second SQLite library in this one would take away the locks of DuckDB's.
    arguments = [sqlite_file(lake.spec), str(CATALOG_WAIT_SECONDS)]
    done = subprocess.run([sys.executable, "-c", VACUUM, *arguments], capture_output=True, text=True, check=False)
    if done.returncode and "locked" not in done.stderr:
        raise LakeError(f"The catalog {arguments[0]} cannot be cleaned: {done.stderr.strip()}. Run again.")
    return [] if done.stdout.strip() == "0" else [_in_use("the catalog's free pages")]


def _vacuum_postgres(lake: Lake) -> list[str]:
    import psycopg

    try:
        with postgres.connect(lake.spec.catalog.partition(":")[2]) as session:
            session.execute(f"SET lock_timeout = {CATALOG_WAIT_SECONDS * 1000}")
            for (statement,) in session.execute(POSTGRES_VACUUM).fetchall():
                session.execute(statement)
            in_use = session.execute(POSTGRES_SNAPSHOTS).fetchone() != (0,)
    except psycopg.errors.LockNotAvailable:
        in_use = True
    except psycopg.Error as e:
        raise postgres.meaning(e, shown(lake.spec)) from e
    return [_in_use("dead rows of the catalog")] if in_use else []


def _in_use(what: str) -> str:
    return f"{what}: another process was reading the catalog. Give the command again with --history when it has ended"
