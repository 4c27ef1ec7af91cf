"""Where the rows of a version came from: which revision brought them, and in which folder their files lie."""

from __future__ import annotations

from tidemill.lake.tables import literal

MOST_FOLDERS = 50


def revisions(pipeline: str, timezone: str) -> str:
    """SQL: a query of `revision`, its `name` with the time at which it was taken up, and its `number`, in order."""
    return (
        "(SELECT revision, max(number) AS number, "
        f"strftime(timezone({literal(timezone)}, max(adopted_at)), '%Y-%m-%d %H:%M ') || left(revision, 8) AS name "
        f"FROM _revisions WHERE pipeline = '{pipeline}' GROUP BY revision)"
    )


def folders(pipeline: str, version: str) -> str:
    """SQL: a query of `shard_id` and the `folder` of its file; files that lie in none have the folder `.`."""
    folder = "coalesce(nullif(regexp_extract(path, '^(.*)/[^/]*$', 1), ''), '.')"
    return f"(SELECT shard_id, {folder} AS folder FROM _ledger WHERE (pipeline, version) = ('{pipeline}', '{version}'))"
