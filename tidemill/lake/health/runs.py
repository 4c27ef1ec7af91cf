"""What ran, what it took, and which shards are done, asked for, or waiting for long. Times are told in `timezone`."""

from __future__ import annotations

from tidemill.lake.requests import requested
from tidemill.lake.tables import literal

MOST_RUNS = 30
MOST_MEASURED = 12
MOST_LATE = 20


def runs(pipeline: str, timezone: str) -> str:
    """The latest runs, newest first, with what they took and cost beside what was estimated.

    Why one failed is left out: it may name paths of this machine, and a report goes to others.
    """
    return (
        f"SELECT {_told('started_at', timezone)} AS started, kind, state, num_rows, num_quarantined,\n"
        "  round(num_tokens / nullif(seconds, 0), 1) AS tokens_per_second, round(seconds, 1) AS seconds,\n"
        "  round(estimated_seconds, 1) AS estimated_seconds, round(cost, 4) AS cost,\n"
        "  round(estimated_cost, 4) AS estimated_cost, currency, run_id\n"
        f"FROM _runs WHERE pipeline = '{pipeline}' ORDER BY started_at DESC, run_id LIMIT {MOST_RUNS}"
    )


def run_seconds(pipeline: str, timezone: str) -> str:
    """Of the latest runs that had an estimate: the seconds that they took, and those that were estimated."""
    return (
        f"WITH latest AS (SELECT {_told('started_at', timezone)} AS started, started_at, run_id, seconds, "
        "estimated_seconds\n"
        f"  FROM _runs WHERE pipeline = '{pipeline}' AND state = 'done' AND num_rows > 0\n"
        "    AND seconds IS NOT NULL AND estimated_seconds IS NOT NULL\n"
        f"  ORDER BY started_at DESC, run_id LIMIT {MOST_MEASURED})\n"
        "SELECT started, what, round(seconds, 1) AS seconds FROM (\n"
        "  SELECT started, started_at, run_id, 1 AS place, 'measured' AS what, seconds FROM latest\n"
        "  UNION ALL SELECT started, started_at, run_id, 2, 'estimated', estimated_seconds FROM latest\n"
        ") ORDER BY started_at, run_id, place"
    )


def shards_by_state(pipeline: str, version: str) -> str:
    """Shards of the target revision that are done, asked for, or neither; and those done that it does not list."""
    return (
        f"WITH listed AS (SELECT shard_id FROM _target_shards WHERE pipeline = '{pipeline}'),\n"
        f"done AS (SELECT shard_id FROM _ledger WHERE (pipeline, version) = ('{pipeline}', '{version}')),\n"
        f"asked AS (SELECT DISTINCT shard_id FROM {requested(pipeline)} WHERE version = '{version}')\n"
        "SELECT CASE WHEN listed.shard_id IS NULL THEN 'outdated' WHEN done.shard_id IS NOT NULL THEN 'done'\n"
        "  WHEN asked.shard_id IS NOT NULL THEN 'asked for' ELSE 'missing' END AS state, count(*) AS num_shards\n"
        "FROM listed FULL JOIN done USING (shard_id) LEFT JOIN asked USING (shard_id)\n"
        "GROUP BY state ORDER BY num_shards DESC, state"
    )


def late_shards(pipeline: str, timezone: str) -> str:
    """Requests that no commit answered yet, those first that wait longest."""
    return (
        f"SELECT {_told('requested_at', timezone)} AS asked_for, version, path, r.shard_id, reason\n"
        f"FROM {requested(pipeline)} AS r\n"
        f"LEFT JOIN (SELECT shard_id, path FROM _target_shards WHERE pipeline = '{pipeline}') USING (shard_id)\n"
        "WHERE NOT EXISTS (FROM _ledger l WHERE l.request_id = r.request_id)\n"
        f"ORDER BY requested_at, r.shard_id LIMIT {MOST_LATE}"
    )


def _told(column: str, timezone: str) -> str:
    return f"strftime(timezone({literal(timezone)}, {column}), '%Y-%m-%d %H:%M:%S')"
