"""The history of runs: who ran what, why, on which revisions, and how it ended."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.tables import insert_records


def worker_name() -> str:
    """Who computes: `TIDEMILL_WORKER` where a worker was given a name, else the host."""
    return os.environ.get("TIDEMILL_WORKER") or socket.gethostname()


@dataclass
class RunRecord:
    """One row of `_runs`. `state` is running, done, failed or stopped; a killed run stays running."""

    run_id: str
    pipeline: str
    kind: str
    why: str
    version: str | None = None
    revision: str | None = None
    flow_run_id: str | None = None
    state: str = "running"
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    num_shards: int = 0
    num_shards_failed: int = 0
    num_copied: int = 0
    num_rows: int = 0
    num_quarantined: int = 0
    num_rows_removed: int = 0
    num_tokens: int = 0
    num_retries: int = 0
    estimated_seconds: float | None = None
    seconds: float | None = None
    cost: float | None = None
    currency: str | None = None
    message: str | None = None
    backfill_id: str | None = None
    estimated_seconds_low: float | None = None
    estimated_seconds_high: float | None = None
    estimated_cost: float | None = None
    num_dropped: int = 0
    """Shards computed in vain: someone else had committed them, or the dataset moved on."""
    who: str = field(default_factory=lambda: os.environ.get("TIDEMILL_USER") or _user())
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    worker: str = field(default_factory=worker_name)


def record_run(lake: Lake, run: RunRecord) -> None:
    """Write the run's row, replacing what was there for its run id."""

    def body(cursor: Cursor) -> None:
        cursor.execute("DELETE FROM _runs WHERE run_id = ?", [run.run_id])
        insert_records(cursor, "_runs", [vars(run)])

    lake.write(body, message=f"{run.kind} {run.pipeline} {run.state}: run {run.run_id}")


def last_runs(cursor: Cursor, pipeline: str, *, limit: int) -> list[dict[str, Any]]:
    """The latest runs, newest first."""
    result = cursor.execute(
        "SELECT * FROM _runs WHERE pipeline = ? ORDER BY started_at DESC LIMIT ?", [pipeline, limit]
    )
    names = [column[0] for column in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user id may have no name.
        return str(os.getuid())
