"""What changes a result table: each function here is one transaction.

A transaction writes a shard's rows, its quarantined rows and its ledger row
together, so a shard is done if and only if its rows are visible. The shards
that replace a changed file are committed in one transaction that also retires
the old ones: readers see the old file or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import InvariantBroken
from tidemill.formats import KEPT_PREFIX
from tidemill.lake.connection import Cursor, Lake
from tidemill.lake.ledger import files_table, shards_table
from tidemill.lake.tables import (
    ResultTable,
    create_result_table,
    existing_columns,
    identifier,
    insert_records,
    insert_rows,
    point_view,
)
from tidemill.shards import Shard, SourceFile


@dataclass(frozen=True)
class Target:
    """What a run brings up to date: one version of one pipeline, at one dataset revision."""

    pipeline: str
    version: str
    revision: str
    run_id: str
    table: ResultTable
    kept: str

    @property
    def message(self) -> str:
        return f"{self.pipeline} {self.version} at {self.revision[:12]}, run {self.run_id}"


@dataclass(frozen=True)
class Computed:
    """A shard whose predictions lie in the store. `load` gives its rows and its predictions, in the same order."""

    shard: Shard
    request_id: str
    load: Callable[[], tuple[pa.Table, pa.Table]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Copied:
    """A shard whose content was computed at another place."""

    shard: Shard
    source_shard_id: str


@dataclass(frozen=True)
class Outcome:
    """What a commit did. A dropped shard was done by someone else, or left the target revision."""

    num_committed: int = 0
    num_dropped: int = 0
    num_rows: int = 0
    num_quarantined: int = 0
    num_rows_removed: int = 0


@dataclass(frozen=True)
class Adoption:
    """A dataset revision as it becomes the target."""

    files: Sequence[tuple[SourceFile, int | None]]
    shards: Sequence[Shard]
    requests: Sequence[tuple[str, str]]
    """(shard id, reason)"""
    spec: dict[str, Any]
    kept: list[dict[str, str]]
    dataset: dict[str, Any]
    expected_target: str | None


def adopt(lake: Lake, target: Target, adoption: Adoption) -> bool:
    """Make `target.revision` the target and write what is wanted; False if another run moved the target meanwhile.

    The pipeline's first version gets its table, is promoted and gets the view.
    """

    def body(cursor: Cursor) -> bool:
        now = datetime.now(UTC)
        current = cursor.execute(
            "SELECT target_revision FROM _pipelines WHERE pipeline = ?", [target.pipeline]
        ).fetchone()
        found = current[0] if current else None
        if found not in (adoption.expected_target, target.revision):
            return False
        if not existing_columns(cursor, target.table.name):
            _create_version(cursor, target, adoption, now)
        if current is None:
            insert_records(
                cursor,
                "_pipelines",
                [
                    {
                        "pipeline": target.pipeline,
                        "dataset": adoption.dataset,
                        "target_revision": target.revision,
                        "promoted_version": target.version,
                        "adopted_at": now,
                        "updated_at": now,
                    }
                ],
            )
            point_view(cursor, target.table)
        elif found != target.revision:
            cursor.execute(
                "UPDATE _pipelines SET target_revision = ?, adopted_at = ?, updated_at = ? WHERE pipeline = ?",
                [target.revision, now, now, target.pipeline],
            )
        _list_files(cursor, target, adoption.files)
        _list_shards(cursor, target, adoption.shards)
        _request(cursor, target, adoption.requests, now)
        return True

    return lake.write(body, message=f"adopt {target.message}")


def commit_shards(
    lake: Lake,
    target: Target,
    items: Sequence[Computed | Copied],
    *,
    cut: Sequence[tuple[str, Sequence[Shard]]] = (),
    moved: Sequence[str] = (),
) -> Outcome:
    """Make the shards' rows visible, and retire what they replace once their file is complete.

    All or none of the items are written. `cut` gives (path, all shards) of
    files that are known to their end; `moved` are vanished paths whose
    content the items copy to another place.
    """

    def body(cursor: Cursor) -> Outcome:
        if not _is_target(cursor, target):
            return Outcome(num_dropped=len(items))
        _list_shards(cursor, target, [item.shard for item in items])
        _mark_cut(cursor, target, cut)
        written = [_write(cursor, target, item) for item in items]
        paths = {item.shard.file.path for item in items} | {path for path, _ in cut}
        removed = sum(_retire_replaced(cursor, target, path) for path in sorted(paths))
        if moved:
            _remove(cursor, target, [shard for shard, path in _vanished(cursor, target) if path in moved])
        done = [counts for counts in written if counts is not None]
        return Outcome(
            num_committed=len(done),
            num_dropped=len(written) - len(done),
            num_rows=sum(rows for rows, _ in done),
            num_quarantined=sum(quarantined for _, quarantined in done),
            num_rows_removed=removed,
        )

    return lake.write(body, message=target.message)


def remove_vanished(lake: Lake, target: Target) -> int:
    """Remove the rows of files that the target revision no longer has; returns how many."""

    def body(cursor: Cursor) -> int:
        if not _is_target(cursor, target):
            return 0
        return _remove(cursor, target, [shard_id for shard_id, _ in _vanished(cursor, target)])

    if not _vanished(lake.cursor(), target):
        return 0
    return lake.write(body, message=f"remove vanished files: {target.message}")


def request_shards(lake: Lake, target: Target, shards: Sequence[Shard], reason: str) -> dict[str, str]:
    """List shards that were found by reading and ask for them; returns shard id → request id."""

    def body(cursor: Cursor) -> dict[str, str]:
        if not _is_target(cursor, target):
            return {}
        _list_shards(cursor, target, shards)
        _request(cursor, target, [(shard.shard_id, reason) for shard in shards], datetime.now(UTC))
        return request_ids(cursor, target, [shard.shard_id for shard in shards])

    return lake.write(body, message=f"request: {target.message}")


def is_done(cursor: Cursor, target: Target, shard_id: str, request_id: str) -> bool:
    found = cursor.execute(
        "SELECT count(*) FROM _ledger WHERE pipeline = ? AND version = ? AND shard_id = ? AND request_id = ?",
        [target.pipeline, target.version, shard_id, request_id],
    ).fetchone()
    return found != (0,)


def request_ids(cursor: Cursor, target: Target, shard_ids: Sequence[str]) -> dict[str, str]:
    rows = cursor.execute(
        "SELECT shard_id, request_id FROM _requests WHERE pipeline = ? AND version = ? AND shard_id IN "
        "(SELECT unnest(?::VARCHAR[]))",
        [target.pipeline, target.version, list(shard_ids)],
    ).fetchall()
    return dict(rows)


def start_rewrite(lake: Lake, target: Target) -> str:
    """Make the table into which the rows go with new key and kept columns; returns its name."""
    staging = f"{target.table.name}__{target.kept}"

    def body(cursor: Cursor) -> None:
        if not existing_columns(cursor, staging):
            create_result_table(cursor, target.table, name=staging)

    lake.write(body, message=f"rewrite columns: {target.message}")
    return staging


def rewritten_shards(cursor: Cursor, staging: str) -> set[str]:
    return {name for (name,) in cursor.execute(f"SELECT DISTINCT shard_id FROM {identifier(staging)}").fetchall()}


def rewrite_shard(lake: Lake, target: Target, shard_id: str, rows: pa.Table | None, staging: str) -> None:
    """Put a done shard's predictions beside newly read key and kept columns, in the staging table.

    Without rows (the file has changed since, and is about to be replaced) the
    columns that the table has already are taken over and the others are NULL.
    """

    def body(cursor: Cursor) -> None:
        if shard_id in rewritten_shards(cursor, staging):
            return
        old = dict(existing_columns(cursor, target.table.name))
        kept = {name for name, _ in target.table.kept}

        def value(name: str, kind: str) -> str:
            if name in kept and rows is not None:
                return f"k.{identifier(KEPT_PREFIX + name)}"
            return f"t.{identifier(name)}" if name not in kept or old.get(name) == kind else "NULL"

        join = ""
        if rows is not None:
            cursor.register("_kept", rows.select(["row_number", *(KEPT_PREFIX + name for name in sorted(kept))]))
            join = "JOIN _kept k ON k.row_number = t.row_number"
        columns = ", ".join(value(name, kind) for name, kind in target.table.columns)
        cursor.execute(
            f"INSERT INTO {identifier(staging)} SELECT {columns} FROM {identifier(target.table.name)} t {join} "
            "WHERE t.shard_id = ?",
            [shard_id],
        )

    lake.write(body, message=f"rewrite columns: {target.message}")


def finish_rewrite(lake: Lake, target: Target, staging: str, kept: list[dict[str, str]]) -> bool:
    """Swap the rewritten table in; False if shards were committed meanwhile that it does not have yet."""

    def body(cursor: Cursor) -> bool:
        stale = cursor.execute(
            f"SELECT count(*) FROM _ledger l WHERE pipeline = ? AND version = ? AND num_rows > 0 AND kept <> ? "
            f"AND shard_id NOT IN (SELECT shard_id FROM {identifier(staging)})",
            [target.pipeline, target.version, target.kept],
        ).fetchone()
        if stale != (0,):
            return False
        promoted = cursor.execute(
            "SELECT promoted_version FROM _pipelines WHERE pipeline = ?", [target.pipeline]
        ).fetchone()
        cursor.execute(
            f"DELETE FROM {identifier(staging)} WHERE shard_id NOT IN "
            "(SELECT shard_id FROM _ledger WHERE pipeline = ? AND version = ?)",
            [target.pipeline, target.version],
        )
        if promoted == (target.version,):
            cursor.execute(f"DROP VIEW {identifier(target.pipeline)}")
        cursor.execute(f"DROP TABLE {identifier(target.table.name)}")
        cursor.execute(f"ALTER TABLE {identifier(staging)} RENAME TO {identifier(target.table.name)}")
        if promoted == (target.version,):
            point_view(cursor, target.table)
        cursor.execute(
            "UPDATE _ledger SET kept = ? WHERE pipeline = ? AND version = ?",
            [target.kept, target.pipeline, target.version],
        )
        cursor.execute(
            "UPDATE _versions SET kept = ? WHERE pipeline = ? AND version = ?",
            [json.dumps(kept), target.pipeline, target.version],
        )
        return True

    return lake.write(body, message=f"rewrite columns: {target.message}")


def _create_version(cursor: Cursor, target: Target, adoption: Adoption, now: datetime) -> None:
    create_result_table(cursor, target.table)
    insert_records(
        cursor,
        "_versions",
        [
            {
                "pipeline": target.pipeline,
                "version": target.version,
                "spec": adoption.spec,
                "kept": adoption.kept,
                "results": [list(column) for column in target.table.results],
                "created_at": now,
            }
        ],
    )


def _is_target(cursor: Cursor, target: Target) -> bool:
    found = cursor.execute("SELECT target_revision FROM _pipelines WHERE pipeline = ?", [target.pipeline]).fetchone()
    return found == (target.revision,)


def _list_files(cursor: Cursor, target: Target, files: Sequence[tuple[SourceFile, int | None]]) -> None:
    cursor.register("_incoming", files_table(target.pipeline, target.revision, files))
    cursor.execute(
        "INSERT INTO _files BY NAME SELECT * FROM _incoming i WHERE NOT EXISTS (SELECT 1 FROM _files f "
        "WHERE f.pipeline = i.pipeline AND f.revision = i.revision AND f.path = i.path)"
    )
    cursor.unregister("_incoming")


def _list_shards(cursor: Cursor, target: Target, shards: Sequence[Shard]) -> None:
    if not shards:
        return
    cursor.register("_incoming", shards_table(target.pipeline, target.revision, shards))
    cursor.execute(
        "INSERT INTO _shards BY NAME SELECT * FROM _incoming i WHERE NOT EXISTS (SELECT 1 FROM _shards s "
        "WHERE s.pipeline = i.pipeline AND s.revision = i.revision AND s.shard_id = i.shard_id)"
    )
    cursor.unregister("_incoming")


def _request(cursor: Cursor, target: Target, wanted: Sequence[tuple[str, str]], now: datetime) -> None:
    """Ask for shards, unless they are done or asked for already: overlapping runs share one request."""
    if not wanted:
        return
    incoming = pa.table(
        {
            "pipeline": [target.pipeline] * len(wanted),
            "version": [target.version] * len(wanted),
            "shard_id": [shard_id for shard_id, _ in wanted],
            "request_id": [f"{target.run_id}-{shard_id}" for shard_id, _ in wanted],
            "run_id": [target.run_id] * len(wanted),
            "reason": [reason for _, reason in wanted],
            "requested_at": pa.array([now] * len(wanted), pa.timestamp("us", "UTC")),
        }
    )
    cursor.register("_incoming", incoming)
    cursor.execute(
        "INSERT INTO _requests BY NAME SELECT * FROM _incoming i WHERE NOT EXISTS (SELECT 1 FROM _requests r "
        "WHERE r.pipeline = i.pipeline AND r.version = i.version AND r.shard_id = i.shard_id)"
    )
    cursor.unregister("_incoming")


def _mark_cut(cursor: Cursor, target: Target, cut: Sequence[tuple[str, Sequence[Shard]]]) -> None:
    for path, shards in cut:
        _list_shards(cursor, target, shards)
        cursor.execute(
            "UPDATE _files SET num_shards = ? WHERE pipeline = ? AND revision = ? AND path = ? "
            "AND num_shards IS DISTINCT FROM ?",
            [len(shards), target.pipeline, target.revision, path, len(shards)],
        )


def _write(cursor: Cursor, target: Target, item: Computed | Copied) -> tuple[int, int] | None:
    """Write one shard; (rows, quarantined), or None if it was done for this request already."""
    where = [target.pipeline, target.version, item.shard.shard_id]
    done = cursor.execute(
        "SELECT request_id FROM _ledger WHERE pipeline = ? AND version = ? AND shard_id = ?", where
    ).fetchone()
    if done is not None:
        if isinstance(item, Copied) or done[0] == item.request_id:
            return None
        _remove(cursor, target, [item.shard.shard_id], also=("_quarantine", "_ledger"))
    return _write_copy(cursor, target, item) if isinstance(item, Copied) else _write_computed(cursor, target, item)


def _write_computed(cursor: Cursor, target: Target, item: Computed) -> tuple[int, int]:
    shard = item.shard
    rows, predictions = item.load()
    if rows.num_rows != shard.slice.num_rows or not rows["row_number"].equals(predictions["row_number"]):
        raise InvariantBroken(
            f"{shard.file.path}, row {shard.slice.first_row}: {rows.num_rows} rows read, {predictions.num_rows} "
            f"predicted, {shard.slice.num_rows} in the shard."
        )
    good = pc.is_null(predictions["reason"])
    num_rows = int(pc.sum(good).as_py() or 0)
    num_quarantined = predictions.num_rows - num_rows
    insert_rows(cursor, target.table.name, _result_rows(target, shard, rows, predictions).filter(good))
    _quarantine(cursor, target, shard, rows, predictions)
    insert_records(
        cursor,
        "_ledger",
        [
            {
                **_ledger_row(target, shard),
                "request_id": item.request_id,
                "num_rows": num_rows,
                "num_quarantined": num_quarantined,
                **item.facts,
            }
        ],
    )
    return num_rows, num_quarantined


def _ledger_row(target: Target, shard: Shard) -> dict[str, object]:
    return {
        "pipeline": target.pipeline,
        "version": target.version,
        "shard_id": shard.shard_id,
        "path": shard.file.path,
        "content": shard.slice.content,
        "run_id": target.run_id,
        "revision": target.revision,
        "kept": target.kept,
        "committed_at": datetime.now(UTC),
    }


def _result_rows(target: Target, shard: Shard, rows: pa.Table, predictions: pa.Table) -> pa.Table:
    columns = {name: rows[KEPT_PREFIX + name] for name, _ in target.table.kept}
    columns |= {name: predictions[name] for name, _ in target.table.results}
    columns |= {name: predictions[name] for name in ("num_tokens", "truncated", "row_number")}
    table = pa.table(columns)
    for name, value in (("shard_id", shard.shard_id), ("dataset_revision", target.revision)):
        table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def _quarantine(cursor: Cursor, target: Target, shard: Shard, rows: pa.Table, predictions: pa.Table) -> None:
    bad = pc.is_valid(predictions["reason"])
    keys = _keys(target, rows).filter(bad).to_pylist() if target.table.keys else [{}] * int(pc.sum(bad).as_py() or 0)
    records = [
        {
            "pipeline": target.pipeline,
            "version": target.version,
            "shard_id": shard.shard_id,
            "path": shard.file.path,
            "row_number": row["row_number"],
            "key": json.dumps(key, default=str) if key else None,
            "stage": row["stage"],
            "reason": row["reason"],
            "run_id": target.run_id,
        }
        for row, key in zip(
            predictions.select(["row_number", "stage", "reason"]).filter(bad).to_pylist(), keys, strict=True
        )
    ]
    insert_records(cursor, "_quarantine", records)


def _keys(target: Target, rows: pa.Table) -> pa.Table:
    return pa.table({name: rows[KEPT_PREFIX + name] for name, _ in target.table.keys})


def _write_copy(cursor: Cursor, target: Target, item: Copied) -> tuple[int, int]:
    shard, table = item.shard, identifier(target.table.name)
    source = cursor.execute(
        "SELECT num_rows, num_quarantined FROM _ledger WHERE pipeline = ? AND version = ? AND shard_id = ?",
        [target.pipeline, target.version, item.source_shard_id],
    ).fetchone()
    if source is None:
        raise InvariantBroken(
            f"{shard.file.path}: the shard {item.source_shard_id} that it repeats is gone. Run again: it is computed."
        )
    facts = {
        "shard_id": shard.shard_id,
        "first_row": shard.slice.first_row,
        "source": item.source_shard_id,
        "pipeline": target.pipeline,
        "version": target.version,
    }
    # Text slices may repeat further down; what repeats starts at another row number.
    shift = (
        "row_number + $first_row - (SELECT min(first_row) FROM _shards WHERE shard_id = $source "
        "AND pipeline = $pipeline) AS row_number"
    )
    cursor.execute(
        f"INSERT INTO {table} SELECT * REPLACE ($shard_id AS shard_id, {shift}) FROM {table} WHERE shard_id = $source",
        {name: facts[name] for name in ("shard_id", "first_row", "source", "pipeline")},
    )
    cursor.execute(
        f"INSERT INTO _quarantine SELECT * REPLACE ($shard_id AS shard_id, $path AS path, $run_id AS run_id, {shift}) "
        "FROM _quarantine WHERE shard_id = $source AND pipeline = $pipeline AND version = $version",
        facts | {"path": shard.file.path, "run_id": target.run_id},
    )
    cursor.execute(
        "INSERT INTO _ledger SELECT * REPLACE ($shard_id AS shard_id, $path AS path, $run_id AS run_id, "
        "$revision AS revision, $source AS copied_from, 0.0 AS ingest_seconds, 0.0 AS tokenize_seconds, "
        "0.0 AS infer_seconds, now() AS committed_at) "
        "FROM _ledger WHERE shard_id = $source AND pipeline = $pipeline AND version = $version",
        {name: value for name, value in facts.items() if name != "first_row"}
        | {"path": shard.file.path, "run_id": target.run_id, "revision": target.revision},
    )
    return int(source[0]), int(source[1])


def _retire_replaced(cursor: Cursor, target: Target, path: str) -> int:
    """Remove a file's former shards once all its shards at the target are done; returns rows removed."""
    facts = {
        "pipeline": target.pipeline,
        "version": target.version,
        "revision": target.revision,
        "path": path,
    }
    old = cursor.execute(
        "SELECT shard_id FROM _ledger WHERE pipeline = $pipeline AND version = $version AND path = $path "
        "AND shard_id NOT IN (SELECT shard_id FROM _shards WHERE pipeline = $pipeline AND revision = $revision "
        "AND path = $path)",
        facts,
    ).fetchall()
    if not old:
        return 0
    complete = cursor.execute(
        "SELECT f.num_shards = (SELECT count(*) FROM _shards s SEMI JOIN (SELECT shard_id FROM _ledger "
        "WHERE pipeline = $pipeline AND version = $version) l USING (shard_id) "
        "WHERE s.pipeline = $pipeline AND s.revision = $revision AND s.path = $path) "
        "FROM _files f WHERE f.pipeline = $pipeline AND f.revision = $revision AND f.path = $path",
        facts,
    ).fetchone()
    return _remove(cursor, target, [shard_id for (shard_id,) in old]) if complete == (True,) else 0


def _vanished(cursor: Cursor, target: Target) -> list[tuple[str, str]]:
    """(shard id, path) of done shards whose file the target revision does not have."""
    return cursor.execute(
        "SELECT shard_id, path FROM _ledger WHERE pipeline = $pipeline AND version = $version AND path NOT IN "
        "(SELECT path FROM _files WHERE pipeline = $pipeline AND revision = $revision)",
        {"pipeline": target.pipeline, "version": target.version, "revision": target.revision},
    ).fetchall()


def _remove(
    cursor: Cursor,
    target: Target,
    shard_ids: Sequence[str],
    *,
    also: Sequence[str] = ("_quarantine", "_ledger", "_requests"),
) -> int:
    """Remove shards' results and what `also` names of them; returns result rows removed."""
    if not shard_ids:
        return 0
    gone = list(shard_ids)
    removed = cursor.execute(
        f"DELETE FROM {identifier(target.table.name)} WHERE shard_id IN (SELECT unnest(?::VARCHAR[]))", [gone]
    ).fetchone()
    for name in also:
        cursor.execute(
            f"DELETE FROM {name} WHERE pipeline = ? AND version = ? AND shard_id IN (SELECT unnest(?::VARCHAR[]))",
            [target.pipeline, target.version, gone],
        )
    return int(removed[0]) if removed else 0
