"""The history of runs: who ran what, why, on which revisions, and how it ended."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.ledger import SECONDS_OF_RUN
from tidemill.lake.requests import waiting_since
from tidemill.lake.tables import insert_records, records


def worker_name() -> str:
    """Who computes: `TIDEMILL_WORKER` where a worker was given a name, else the host."""
    return os.environ.get("TIDEMILL_WORKER") or socket.gethostname()


def known_sum(counts: Iterable[int | None]) -> int | None:
    """Of the counts that are known; None where none is.

    >>> known_sum([2, None, 3]), known_sum([None])
    (5, None)
    """
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


@dataclass
class RunFacts:
    """What is told of a run, to whoever started it and to whoever reads `_runs`.

    `state` is running, done, failed or stopped; a killed run stays running.
    """

    run_id: str
    pipeline: str
    kind: str = "run"
    version: str | None = None
    revision: str | None = None
    state: str = "running"
    num_shards: int = 0
    num_copied: int = 0
    num_rows: int = 0
    num_quarantined: int = 0
    num_rows_removed: int = 0
    num_tokens: int = 0
    """Of the rows that were computed."""
    num_unchanged: int = 0
    """Those of the rows that were not, for the version had answered their texts before."""
    num_unchanged_tokens: int = 0
    num_new_tokens: int | None = None
    """Those that the model wrote; None where it writes none, or nobody counts them."""
    num_retries: int = 0
    seconds: float | None = None
    estimated_seconds: float | None = None
    estimated_seconds_low: float | None = None
    estimated_seconds_high: float | None = None
    cost: float | None = None
    currency: str | None = None
    backfill_id: str | None = None


@dataclass
class RunRecord(RunFacts):
    """One row of `_runs`."""

    why: str = "run"
    flow_run_id: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    num_shards_failed: int = 0
    message: str | None = None
    estimated_cost: float | None = None
    num_dropped: int = 0
    """Shards computed in vain: someone else had committed them, or the dataset moved on."""
    who: str = field(default_factory=lambda: user_name())
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
    return records(cursor, "SELECT * FROM _runs WHERE pipeline = ? ORDER BY started_at DESC LIMIT ?", [pipeline, limit])


def runs_of_backfill(cursor: Cursor, backfill_id: str) -> list[dict[str, Any]]:
    """All runs that worked on a backfill, oldest first."""
    return records(cursor, "SELECT * FROM _runs WHERE backfill_id = ? ORDER BY started_at", [backfill_id])


def running_on(cursor: Cursor, pipeline: str, host: str, *, backfill_id: str | None = None) -> list[tuple[str, int]]:
    """(run id, process id) of the runs on a host that have not said that they ended."""
    return cursor.execute(
        "SELECT run_id, pid FROM _runs WHERE pipeline = ? AND state = 'running' AND host = ? "
        "AND (? IS NULL OR backfill_id = ?)",
        [pipeline, host, backfill_id, backfill_id],
    ).fetchall()


def is_recorded(cursor: Cursor, run: RunRecord, *, since: datetime | None) -> bool:
    """Whether the run has a row, or this process wrote one of its kind `since` then."""
    facts = {name: getattr(run, name) for name in ("run_id", "pipeline", "kind", "host", "pid")}
    found = cursor.execute(
        "SELECT 1 FROM _runs WHERE run_id = $run_id "
        "OR (pipeline, kind, host, pid) = ($pipeline, $kind, $host, $pid) AND started_at >= $since",
        {**facts, "since": since},
    )
    return found.fetchone() is not None


def finished_at(cursor: Cursor, run_id: str) -> datetime | None:
    found = cursor.execute("SELECT finished_at FROM _runs WHERE run_id = ?", [run_id]).fetchone()
    return found[0] if found else None


def last_fresh(cursor: Cursor, pipeline: str) -> datetime | None:
    """When the table was last known to be up to date; None if never.

    That is the end of a run, or of a stage that left nothing open before it.
    """
    found = cursor.execute(
        "SELECT max(finished_at) FILTER (kind = 'run'), max(finished_at) FROM _runs "
        "WHERE pipeline = ? AND state = 'done' AND kind IN ('run', 'ingest', 'materialize')",
        [pipeline],
    ).fetchone()
    by_run, latest = found or (None, None)
    # Whether a stage left anything open takes a look at every request.
    return by_run if by_run == latest else _last_fresh_stage(cursor, pipeline)


def _last_fresh_stage(cursor: Cursor, pipeline: str) -> datetime | None:
    found = cursor.execute(
        "SELECT max(finished_at) FROM _runs WHERE pipeline = $pipeline AND state = 'done' "
        "AND (kind = 'run' OR kind IN ('ingest', 'materialize') AND coalesce(finished_at < $since::TIMESTAMPTZ, true))",
        {"pipeline": pipeline, "since": waiting_since(cursor, pipeline)},
    ).fetchone()
    return found[0] if found else None


def start_seconds(cursor: Cursor, pipeline: str, version: str, *, limit: int) -> list[float]:
    """What the latest runs that finished took beside computing, each."""
    rows = cursor.execute(
        "SELECT greatest(0, r.seconds - l.busy) FROM _runs r JOIN (SELECT run_id, "
        f"{SECONDS_OF_RUN} AS busy FROM _ledger WHERE pipeline = $pipeline AND version = $version "
        "AND copied_from IS NULL GROUP BY run_id) l USING (run_id) "
        "WHERE r.pipeline = $pipeline AND r.version = $version AND r.state = 'done' "
        f"ORDER BY r.started_at DESC LIMIT {limit}",
        {"pipeline": pipeline, "version": version},
    ).fetchall()
    return [seconds for (seconds,) in rows]


def costs_of_backfill(
    cursor: Cursor, backfill_id: str, *, but_not: str
) -> list[tuple[str, str, float | None, float, float]]:
    """(run id, state, cost, seconds until now, seconds until its last commit) of a backfill's runs but one."""
    return cursor.execute(
        "SELECT run_id, state, cost, epoch(now()) - epoch(started_at), coalesce((SELECT epoch(max(committed_at)) "
        "FROM _ledger l WHERE l.run_id = r.run_id) - epoch(started_at), 0) FROM _runs r "
        "WHERE backfill_id = ? AND run_id <> ?",
        [backfill_id, but_not],
    ).fetchall()


def num_quarantined_by_failed(cursor: Cursor, pipeline: str, max_share: float) -> int:
    """Rows in quarantine at the promoted version of which a run found more than `max_share`, and failed for it."""
    ((num_rows,),) = cursor.execute(
        "SELECT count(*) FROM _quarantine q JOIN _pipelines p ON p.pipeline = q.pipeline "
        "AND p.promoted_version = q.version JOIN _runs r ON r.run_id = q.run_id WHERE q.pipeline = $pipeline "
        "AND r.state = 'failed' AND r.num_quarantined > $limit * (r.num_rows + r.num_quarantined)",
        {"pipeline": pipeline, "limit": max_share},
    ).fetchall()
    return int(num_rows)


def was_forget_interrupted(cursor: Cursor, pipeline: str) -> bool:
    found = cursor.execute(
        "SELECT count(*) FROM _runs WHERE pipeline = ? AND kind = 'forget' AND state <> 'done'", [pipeline]
    ).fetchone()
    return found != (0,)


def settle_forgets(cursor: Cursor, pipeline: str) -> None:
    """Every `forget` that was interrupted is done by now as well."""
    cursor.execute(
        "UPDATE _runs SET state = 'done' WHERE pipeline = ? AND kind = 'forget' AND state <> 'done'", [pipeline]
    )


def user_name() -> str:
    """Who is at work: TIDEMILL_USER, or the system's name of the user."""
    return os.environ.get("TIDEMILL_USER") or _user()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user id may have no name.
        return str(os.getuid())
