"""Where a pipeline stands, from the lake alone but for one question: what does its file ask for now."""

from __future__ import annotations

from typing import Any

from tidemill import versions
from tidemill.config import Pipeline
from tidemill.errors import InputError, RetryableError
from tidemill.lake import Cursor, Lake, catalog_exists
from tidemill.lake.ledger import done_shards, load_kept, load_spec, load_state
from tidemill.lake.runs import last_runs
from tidemill.lake.tables import identifier, table_name
from tidemill.versions import VersionSpec

NUM_RUNS = 5
NUM_REASONS = 10


def pipeline_status(pipeline: Pipeline) -> dict[str, Any]:
    """Shards by state, rows, quarantine by reason, throughput, versions and last runs."""
    if not catalog_exists(pipeline.lake):
        return _without_table(pipeline)
    with Lake(pipeline.lake, read_only=True) as lake:
        cursor = lake.cursor()
        state = load_state(cursor, pipeline.name)
        if state is None:
            return _without_table(pipeline)
        version = state.promoted_version
        done = done_shards(cursor, pipeline.name, version)
        return {
            "pipeline": pipeline.name,
            "target_revision": state.target_revision,
            "promoted_version": version,
            "shards": _shards_by_state(cursor, pipeline.name, version, state.target_revision),
            "rows": sum(shard.num_rows for shard in done.values()),
            "rows_quarantined": sum(shard.num_quarantined for shard in done.values()),
            "duplicate_keys": _duplicate_keys(cursor, pipeline, version),
            "quarantine": _quarantine_reasons(cursor, pipeline.name, version),
            **_throughput(cursor, pipeline.name, version),
            "versions": _versions(cursor, pipeline.name),
            "runs": last_runs(cursor, pipeline.name, limit=NUM_RUNS),
            "notes": _notes(cursor, pipeline, version),
        }


def _without_table(pipeline: Pipeline) -> dict[str, Any]:
    return {"pipeline": pipeline.name, "target_revision": None, "promoted_version": None, "shards": {}, "rows": 0}


def _shards_by_state(cursor: Cursor, pipeline: str, version: str, revision: str) -> dict[str, int]:
    """`done`, `pending` (listed, not done), `outdated` (rows of files that have changed or gone), `unread_files`."""
    facts = {"pipeline": pipeline, "version": version, "revision": revision}
    done, pending, outdated = cursor.execute(
        "WITH target AS (SELECT shard_id FROM _shards WHERE pipeline = $pipeline AND revision = $revision), "
        "done AS (SELECT shard_id FROM _ledger WHERE pipeline = $pipeline AND version = $version) "
        "SELECT (SELECT count(*) FROM target SEMI JOIN done USING (shard_id)), "
        "(SELECT count(*) FROM target ANTI JOIN done USING (shard_id)), "
        "(SELECT count(*) FROM done ANTI JOIN target USING (shard_id))",
        facts,
    ).fetchall()[0]
    unread = cursor.execute(
        "SELECT count(*) FROM _files WHERE pipeline = ? AND revision = ? AND num_shards IS NULL", [pipeline, revision]
    ).fetchall()[0][0]
    return {"done": done, "pending": pending, "outdated": outdated, "unread_files": unread}


def _duplicate_keys(cursor: Cursor, pipeline: Pipeline, version: str) -> int:
    """Rows whose key another row has as well: kept, because a row is named by its file and row number."""
    names = {column["name"] for column in load_kept(cursor, pipeline.name, version) or []}
    key = [name for name in pipeline.dataset.key if name in names]
    if not key:
        return 0
    columns = ", ".join(identifier(name) for name in key)
    table = identifier(table_name(pipeline.name, version))
    found = cursor.execute(
        f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM {table} GROUP BY {columns} HAVING n > 1)"
    ).fetchall()
    return int(found[0][0])


def _quarantine_reasons(cursor: Cursor, pipeline: str, version: str) -> list[dict[str, Any]]:
    rows = cursor.execute(
        "SELECT stage, reason, count(*) FROM _quarantine WHERE pipeline = ? AND version = ? "
        "GROUP BY ALL ORDER BY 3 DESC, 1, 2 LIMIT ?",
        [pipeline, version, NUM_REASONS],
    ).fetchall()
    return [{"stage": stage, "reason": reason, "rows": count} for stage, reason, count in rows]


def _throughput(cursor: Cursor, pipeline: str, version: str) -> dict[str, Any]:
    found = cursor.execute(
        "SELECT sum(num_tokens) / nullif(sum(tokenize_seconds + infer_seconds), 0), "
        "1 - sum(num_computed_tokens) / nullif(sum(num_padded_tokens), 0), any_value(device) "
        "FROM _ledger WHERE pipeline = ? AND version = ? AND copied_from IS NULL",
        [pipeline, version],
    ).fetchall()[0]
    return {"tokens_per_second": found[0], "padding_waste": found[1], "device": found[2]}


def _versions(cursor: Cursor, pipeline: str) -> list[dict[str, Any]]:
    rows = cursor.execute(
        "SELECT v.version, v.created_at, coalesce(sum(l.num_rows), 0)::BIGINT FROM _versions v "
        "LEFT JOIN _ledger l USING (pipeline, version) WHERE v.pipeline = ? GROUP BY ALL ORDER BY v.created_at",
        [pipeline],
    ).fetchall()
    return [{"version": version, "created_at": created, "rows": count} for version, created, count in rows]


def _notes(cursor: Cursor, pipeline: Pipeline, promoted: str) -> list[str]:
    try:
        declared = versions.declared(pipeline)
    except (InputError, RetryableError) as e:
        return [f"What the pipeline file asks for now could not be told: {e}"]
    if declared.version == promoted:
        return []
    recorded = load_spec(cursor, pipeline.name, promoted)
    changes = VersionSpec.from_json(recorded).differences(declared) if recorded else []
    return [
        f"The pipeline file now asks for version {declared.version} ({'; '.join(changes)}); {promoted} is promoted."
    ]
