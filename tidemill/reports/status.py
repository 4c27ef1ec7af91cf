"""Where a pipeline stands, from the lake alone but for one question: what does its file ask for now."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from tidemill.config import Pipeline
from tidemill.errors import InputError, RetryableError
from tidemill.lake import Cursor, Lake, catalog_exists
from tidemill.lake.backfills import open_backfills
from tidemill.lake.ducklake.claims import is_alive, open_claims
from tidemill.lake.ledger import quarantine_reasons, throughput
from tidemill.lake.pipelines import load_kept, load_spec, load_state
from tidemill.lake.requests import committed_by, count_open
from tidemill.lake.runs import known_sum, last_fresh, last_runs
from tidemill.lake.tables import identifier, table_name
from tidemill.planning import versions
from tidemill.planning.versions import VersionSpec
from tidemill.reports.alerts import staleness
from tidemill.results.promotion import Standing, standings

NUM_RUNS = 5
NUM_REASONS = 10
MOST_KEYS_COUNTED = 2_000_000
"""Keys of a larger table are not held against each other: `status` is to answer at once."""


def pipeline_status(pipeline: Pipeline) -> dict[str, Any]:
    """A page of the pipeline's history, in one snapshot. Its keys are always the same, whatever there is to tell."""
    if not catalog_exists(pipeline.lake):
        return _without_table(pipeline)
    with Lake(pipeline.lake, read_only=True) as lake, lake.snapshot() as cursor:
        state = load_state(cursor, pipeline.name)
        if state is None:
            return _without_table(pipeline)
        name, promoted = pipeline.name, state.promoted_version
        every = standings(cursor, name)
        standing = next(version for version in every if version.version == promoted)
        requests = count_open(cursor, name)
        return {
            "pipeline": name,
            "target_revision": state.target_revision,
            "promoted_version": promoted,
            "freshness": _freshness(cursor, pipeline),
            "shards": {
                "done": standing.num_done,
                "pending": standing.num_missing,
                "outdated": standing.num_outdated,
                "unread_files": standing.num_unread_files,
            },
            "rows": standing.num_rows,
            "rows_quarantined": standing.num_quarantined,
            "duplicate_keys": _duplicate_keys(cursor, pipeline, standing),
            "quarantine": quarantine_reasons(cursor, name, promoted, limit=NUM_REASONS),
            "throughput": [_priced(pipeline, device) for device in throughput(cursor, name, promoted)],
            "versions": [{**version.to_json(), "promoted": version.version == promoted} for version in every],
            "open_requests": requests,
            "backfills": _open_backfills(cursor, name, requests),
            "runs": _runs(cursor, pipeline),
            "notes": _notes(cursor, pipeline, promoted),
        }


def _without_table(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "pipeline": pipeline.name,
        "target_revision": None,
        "promoted_version": None,
        "freshness": {"last_fresh": None, "age_seconds": None, "max_age_seconds": pipeline.alerts.max_age},
        "shards": {"done": 0, "pending": 0, "outdated": 0, "unread_files": 0},
        "rows": 0,
        "rows_quarantined": 0,
        "duplicate_keys": 0,
        **{key: [] for key in ("quarantine", "throughput", "versions", "open_requests", "backfills", "runs", "notes")},
    }


def _freshness(cursor: Cursor, pipeline: Pipeline) -> dict[str, Any]:
    last = last_fresh(cursor, pipeline.name)
    age = None if last is None else (datetime.now(UTC) - last).total_seconds()
    return {"last_fresh": last, "age_seconds": age, "max_age_seconds": pipeline.alerts.max_age}


def _priced(pipeline: Pipeline, device: dict[str, Any]) -> dict[str, Any]:
    """What was measured on a kind of device, with what a thousand rows cost there: null without a price."""
    per_hour, rate = pipeline.cost.per_hour, device["rows_per_second"]
    cost = None if per_hour is None or not rate else per_hour / 3600 * 1000 / rate
    return {**device, "cost_per_thousand_rows": cost, "currency": pipeline.cost.currency}


def _duplicate_keys(cursor: Cursor, pipeline: Pipeline, standing: Standing) -> int | None:
    """Rows whose key another row has as well: kept, because a row is named by its file and row number."""
    names = {column["name"] for column in load_kept(cursor, pipeline.name, standing.version) or []}
    key = [name for name in pipeline.dataset.key if name in names]
    if not key:
        return 0
    if standing.num_rows > MOST_KEYS_COUNTED:
        return None
    columns = ", ".join(identifier(name) for name in key)
    table = identifier(table_name(pipeline.name, standing.version))
    found = cursor.execute(
        f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM {table} GROUP BY {columns} HAVING n > 1)"
    ).fetchall()
    return int(found[0][0])


def _open_backfills(cursor: Cursor, pipeline: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Backfills that are not at their end, with what is done of them and what they cost until now."""
    backfills = open_backfills(cursor, pipeline)
    still_open: Counter[str | None] = Counter()
    for request in requests:
        still_open[request["backfill_id"]] += request["shards"]
    return [
        {**backfill, "shards_done": backfill["shards"] - still_open[backfill["backfill_id"]]} for backfill in backfills
    ]


def _notes(cursor: Cursor, pipeline: Pipeline, promoted: str) -> list[str]:
    stale = staleness(cursor, pipeline)
    return [
        *([f"{stale} `tidemill run` brings it up to date."] if stale else []),
        *_asked_for(cursor, pipeline, promoted),
    ]


def _runs(cursor: Cursor, pipeline: Pipeline) -> list[dict[str, Any]]:
    """The last runs; of each that did not end, whether its process is still there, and what it committed."""
    runs = [{**run, "alive": None} for run in last_runs(cursor, pipeline.name, limit=NUM_RUNS)]
    with closing(open_claims(pipeline.lake)) as claims:
        for run in runs:
            if run["state"] == "running":
                run |= {"alive": is_alive(claims, run["run_id"]), **_committed(cursor, pipeline.name, run["run_id"])}
    return runs


def _committed(cursor: Cursor, pipeline: str, run_id: str) -> dict[str, int | None]:
    """What `_runs` will say, or would have said, of a run that did not get to its end."""
    rows = committed_by(cursor, pipeline, run_id)
    return {
        "num_shards": len(rows),
        "num_rows": sum(row.num_rows for row in rows),
        "num_quarantined": sum(row.num_quarantined for row in rows),
        "num_tokens": sum(row.num_tokens for row in rows),
        "num_unchanged": sum(row.num_unchanged for row in rows),
        "num_unchanged_tokens": sum(row.num_unchanged_tokens for row in rows),
        "num_new_tokens": known_sum(row.num_new_tokens for row in rows),
        "num_copied": sum(row.is_copied for row in rows),
    }


def _asked_for(cursor: Cursor, pipeline: Pipeline, promoted: str) -> list[str]:
    facts = load_spec(cursor, pipeline.name, promoted)
    recorded = [VersionSpec.from_json(facts)] if facts else []
    try:
        declared = versions.recognized(versions.declared(pipeline), recorded)
    except (InputError, RetryableError) as e:
        return [f"What the pipeline file asks for now could not be told: {e}"]
    if declared.version == promoted:
        return []
    changes = recorded[0].differences(declared) if recorded else []
    return [
        f"The pipeline file now asks for version {declared.version} ({'; '.join(changes)}); {promoted} is promoted."
    ]
