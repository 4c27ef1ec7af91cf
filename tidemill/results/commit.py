"""What changes a result table: each function here is one transaction.

A transaction writes a shard's rows, its quarantined rows and its ledger row
together, so a shard is done if and only if its rows are visible, and the
ledger row holds their checksum. The shards that replace a changed file are
committed in one transaction that also retires the old ones: readers see the old
file or the new one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import InvariantBroken, ShardGone
from tidemill.formats import KEPT_PREFIX
from tidemill.lake.checksums import (
    METHOD,
    checksum_of,
    checksum_of_rows,
    checksum_with,
    checksums_of_shards,
    refuse_changed_rows,
)
from tidemill.lake.ducklake.connection import Cursor, Lake
from tidemill.lake.listings import mark_cut
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import request_ids
from tidemill.lake.tables import TEXT_HASH, existing_columns, identifier, insert_records, insert_rows
from tidemill.results.adoption import is_target
from tidemill.results.forgotten import Forgotten
from tidemill.results.retirement import remove_shards, retire_elsewhere
from tidemill.shards import Shard, small_together

INSERTED_TOGETHER = 1000
"""Small shards of one transaction whose rows are in memory at one time, at most."""
Written = dict[str, tuple[int, int]]
"""Id of each shard that was written → its rows and its quarantined rows."""


@dataclass(frozen=True)
class Computed:
    """A shard whose predictions lie in the store. `load` gives its rows and its predictions, in the same order.

    With `only_rows` the predictions are of rows that were in quarantine, and nothing else of the shard changes.
    """

    shard: Shard
    request_id: str
    load: Callable[[], tuple[pa.Table, pa.Table]]
    facts: dict[str, Any] = field(default_factory=dict)
    only_rows: bool = False


@dataclass(frozen=True)
class Copied:
    """A shard whose content was computed at another place."""

    shard: Shard
    source_shard_id: str


@dataclass(frozen=True)
class Outcome:
    """What a commit did. A dropped shard was done by someone else, or left the target revision."""

    committed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    """Ids of the shards, as of those that were committed."""
    num_copied: int = 0
    num_rows: int = 0
    num_quarantined: int = 0
    num_tokens: int = 0
    num_rows_removed: int = 0
    num_unchanged: int = 0
    """Rows whose answers were there already; of those, `num_tokens` counts none."""
    num_unchanged_tokens: int = 0

    @property
    def num_committed(self) -> int:
        return len(self.committed)

    @property
    def num_dropped(self) -> int:
        return len(self.dropped)


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
        if not is_target(cursor, target):
            return _commit_what_stays(cursor, target, items)
        mark_cut(cursor, target.pipeline, cut)
        written = _write(cursor, target, items)
        if cut:
            retire_elsewhere(cursor, target.pipeline, target.version)
        removed = _retire_replaced(cursor, target, {item.shard.file.path for item in items} | {path for path, _ in cut})
        if moved:
            remove_shards(
                cursor,
                target.pipeline,
                target.version,
                [shard for shard, path in _vanished(cursor, target) if path in moved],
            )
        return _outcome(items, written, num_rows_removed=removed)

    return lake.write(body, message=target.message)


def _commit_what_stays(cursor: Cursor, target: Target, items: Sequence[Computed | Copied]) -> Outcome:
    """The dataset moved on meanwhile: write the shards that the new target has as well, if they stand by themselves.

    A shard of a file that replaces another is dropped: its file is committed whole, at the new target.
    """
    listed = {
        shard_id
        for (shard_id,) in cursor.execute(
            "SELECT shard_id FROM _target_shards WHERE pipeline = ?", [target.pipeline]
        ).fetchall()
    }
    old = {
        path
        for (path,) in cursor.execute(
            "SELECT DISTINCT path FROM _ledger WHERE pipeline = $pipeline AND version = $version "
            "AND shard_id NOT IN (SELECT unnest($listed::VARCHAR[]))",
            {"pipeline": target.pipeline, "version": target.version, "listed": sorted(listed)},
        ).fetchall()
    }

    stay = [item for item in items if item.shard.shard_id in listed and item.shard.file.path not in old]
    return _outcome(items, _write(cursor, target, stay))


def _outcome(items: Sequence[Computed | Copied], written: Written, *, num_rows_removed: int = 0) -> Outcome:
    """What is not among the `written` was dropped."""
    done = [item for item in items if item.shard.shard_id in written]
    facts = [item.facts for item in done if isinstance(item, Computed)]
    unchanged_tokens = sum(known.get("num_unchanged_tokens", 0) for known in facts)
    return Outcome(
        committed=tuple(item.shard.shard_id for item in done),
        num_copied=sum(isinstance(item, Copied) for item in done),
        dropped=tuple(item.shard.shard_id for item in items if item.shard.shard_id not in written),
        num_rows=sum(rows for rows, _ in written.values()),
        num_quarantined=sum(quarantined for _, quarantined in written.values()),
        num_tokens=sum(known.get("num_tokens", 0) for known in facts) - unchanged_tokens,
        num_rows_removed=num_rows_removed,
        num_unchanged=sum(known.get("num_unchanged", 0) for known in facts)
        + sum(sum(written[item.shard.shard_id]) for item in done if isinstance(item, Copied)),
        num_unchanged_tokens=unchanged_tokens,
    )


def remove_vanished(lake: Lake, target: Target) -> int:
    """Remove the rows of files that the target revision no longer has; returns how many."""

    def body(cursor: Cursor) -> int:
        if not is_target(cursor, target):
            return 0
        return remove_shards(
            cursor, target.pipeline, target.version, [shard_id for shard_id, _ in _vanished(cursor, target)]
        )

    if not _vanished(lake.cursor(), target):
        return 0
    return lake.write(body, message=f"remove vanished files: {target.message}")


def _write(cursor: Cursor, target: Target, items: Sequence[Computed | Copied]) -> Written:
    """Write what is wanted still and not done already."""
    shard_ids = [item.shard.shard_id for item in items]
    done, asked = _done_ids(cursor, target, shard_ids), request_ids(cursor, target, shard_ids)
    computed = [
        item
        for item in items
        if isinstance(item, Computed)
        and asked.get(item.shard.shard_id) == item.request_id != done.get(item.shard.shard_id)
    ]
    whole = [item for item in computed if not item.only_rows]
    again = [item.shard.shard_id for item in whole if item.shard.shard_id in done]
    remove_shards(cursor, target.pipeline, target.version, again, wanted_still=True)
    written: Written = {}
    for group in small_together(whole, lambda item: item.shard.slice.text_bytes, most=INSERTED_TOGETHER):
        written |= _write_computed(cursor, target, group)
    for partial in computed:
        if partial.only_rows and partial.shard.shard_id in done:
            written[partial.shard.shard_id] = _write_rows(cursor, target, partial)
    for item in items:
        if isinstance(item, Copied) and item.shard.shard_id not in done:
            written[item.shard.shard_id] = _write_copy(cursor, target, item)
    return written


def _done_ids(cursor: Cursor, target: Target, shard_ids: Sequence[str]) -> dict[str, str]:
    """shard id → the request that it was done for."""
    rows = cursor.execute(
        "SELECT shard_id, request_id FROM _ledger WHERE pipeline = ? AND version = ? "
        "AND shard_id IN (SELECT unnest(?::VARCHAR[]))",
        [target.pipeline, target.version, list(shard_ids)],
    ).fetchall()
    return dict(rows)


def _write_computed(cursor: Cursor, target: Target, items: Sequence[Computed]) -> Written:
    """Write shards that are in memory together: an insert for all of them into each table."""
    started = time.perf_counter()
    forgotten = Forgotten.of(cursor, target, [item.shard for item in items])
    loaded = [(item, *forgotten.left_out(target, item.shard, *_loaded(item))) for item in items]
    good = [
        _result_rows(target, item.shard, rows, predictions).filter(pc.is_null(predictions["reason"]))
        for item, rows, predictions in loaded
    ]
    # Strings with large offsets, which a shard of long texts has, are the same strings.
    results = pa.concat_tables(good, promote_options="permissive")
    insert_rows(cursor, target.table.name, results)
    _quarantine(cursor, target, [(item.shard, rows, predictions) for item, rows, predictions in loaded])
    checksums = checksums_of_shards(cursor, target.table.columns, results)
    written = {item.shard.shard_id: _counts(predictions) for item, _, predictions in loaded}
    seconds = (time.perf_counter() - started) / len(items)
    insert_records(
        cursor,
        "_ledger",
        [
            {
                **_ledger_row(target, item.shard),
                "request_id": item.request_id,
                "num_rows": written[item.shard.shard_id][0],
                "num_quarantined": written[item.shard.shard_id][1],
                "num_forgotten": item.shard.slice.num_rows - predictions.num_rows,
                "checksum": checksums.get(item.shard.shard_id, 0),
                "checksum_by": METHOD,
                "materialize_seconds": seconds,
                **item.facts,
            }
            for item, _, predictions in loaded
        ],
    )
    return written


def _loaded(item: Computed) -> tuple[pa.Table, pa.Table]:
    shard = item.shard
    rows, predictions = item.load()
    if rows.num_rows != shard.slice.num_rows or not rows["row_number"].equals(predictions["row_number"]):
        raise InvariantBroken(
            f"{shard.file.path}, row {shard.slice.first_row}: {rows.num_rows} rows read, {predictions.num_rows} "
            f"predicted, {shard.slice.num_rows} in the shard."
        )
    return rows, predictions


def _counts(predictions: pa.Table) -> tuple[int, int]:
    """How many rows have a result, and how many go to quarantine."""
    num_rows = predictions["reason"].null_count
    return num_rows, predictions.num_rows - num_rows


def _write_rows(cursor: Cursor, target: Target, item: Computed) -> tuple[int, int]:
    """Write rows that were in quarantine, and count them over in the shard's ledger row."""
    shard = item.shard
    rows, predictions = item.load()
    rows = rows.filter(pc.is_in(rows["row_number"], predictions["row_number"].combine_chunks()))
    rows, predictions = Forgotten.of(cursor, target, [shard]).left_out(target, shard, rows, predictions)
    num_rows, num_quarantined = _counts(predictions)
    results = _result_rows(target, shard, rows, predictions).filter(pc.is_null(predictions["reason"]))
    facts = {
        "pipeline": target.pipeline,
        "version": target.version,
        "shard": shard.shard_id,
        "request": item.request_id,
        "run": target.run_id,
        "mended": num_rows,
        "checksum": checksum_of_rows(cursor, target.table.columns, results),
        "numbers": predictions["row_number"].to_pylist(),
    }
    cursor.execute(
        "DELETE FROM _quarantine WHERE pipeline = $pipeline AND version = $version AND shard_id = $shard "
        "AND row_number IN (SELECT unnest($numbers::BIGINT[]))",
        {name: facts[name] for name in ("pipeline", "version", "shard", "numbers")},
    )
    insert_rows(cursor, target.table.name, results)
    _quarantine(cursor, target, [(shard, rows, predictions)])
    cursor.execute(
        "UPDATE _ledger SET num_rows = num_rows + $mended, num_quarantined = num_quarantined - $mended, "
        f"checksum = {checksum_with('$checksum::BIGINT')}, request_id = $request, run_id = $run, committed_at = now() "
        "WHERE pipeline = $pipeline AND version = $version AND shard_id = $shard",
        {name: value for name, value in facts.items() if name != "numbers"},
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
    hashes = predictions.column_names.count(TEXT_HASH)
    columns[TEXT_HASH] = predictions[TEXT_HASH] if hashes else pa.nulls(predictions.num_rows, pa.uuid())
    table = pa.table(columns)
    for name, value in (("shard_id", shard.shard_id), ("dataset_revision", target.revision)):
        table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def _quarantine(cursor: Cursor, target: Target, loaded: Sequence[tuple[Shard, pa.Table, pa.Table]]) -> None:
    """Write the rows that could not be processed, given as (shard, rows, predictions)."""
    insert_records(
        cursor,
        "_quarantine",
        [
            {
                "pipeline": target.pipeline,
                "version": target.version,
                "shard_id": shard.shard_id,
                "path": shard.file.path,
                **failed,
                "run_id": target.run_id,
            }
            for shard, rows, predictions in loaded
            for failed in _failed(target, rows, predictions)
        ],
    )


def _failed(target: Target, rows: pa.Table, predictions: pa.Table) -> Iterator[dict[str, object]]:
    """Row number, key, stage and reason of each row without a result."""
    bad = pc.is_valid(predictions["reason"])
    if not (num_failed := _counts(predictions)[1]):
        return
    keys = _keys(target, rows).filter(bad).to_pylist() if target.table.keys else [{}] * num_failed
    failed = predictions.select(["row_number", "stage", "reason"]).filter(bad).to_pylist()
    for row, key in zip(failed, keys, strict=True):
        yield {
            "row_number": row["row_number"],
            "key": json.dumps(key, default=str) if key else None,
            "stage": row["stage"],
            "reason": row["reason"],
        }


def _keys(target: Target, rows: pa.Table) -> pa.Table:
    return pa.table({name: rows[KEPT_PREFIX + name] for name, _ in target.table.keys})


def _write_copy(cursor: Cursor, target: Target, item: Copied) -> tuple[int, int]:
    shard, table = item.shard, identifier(target.table.name)
    source = cursor.execute(
        "SELECT num_rows, num_quarantined FROM _ledger "
        "WHERE pipeline = $pipeline AND version = $version AND shard_id = $source AND kept = $kept "
        "AND shard_id IN (SELECT shard_id FROM _shards WHERE pipeline = $pipeline)",
        {
            "pipeline": target.pipeline,
            "version": target.version,
            "source": item.source_shard_id,
            "kept": target.kept,
        },
    ).fetchone()
    if source is None:
        raise ShardGone(
            f"{shard.file.path}: the shard {item.source_shard_id} that it repeats is gone, or its key and kept columns "
            "are not those that are asked for. Run again: it is computed."
        )
    refuse_changed_rows(cursor, target.pipeline, target.version, item.source_shard_id)
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
    copied = f"SELECT * REPLACE ($shard_id AS shard_id, {shift}) FROM {table} WHERE shard_id = $source"
    of_rows = {name: facts[name] for name in ("shard_id", "first_row", "source", "pipeline")}
    columns = existing_columns(cursor, target.table.name)
    checksum = cursor.execute(f"SELECT {checksum_of(columns)} FROM ({copied})", of_rows).fetchall()[0][0]
    cursor.execute(f"INSERT INTO {table} {copied}", of_rows)
    cursor.execute(
        f"INSERT INTO _quarantine SELECT * REPLACE ($shard_id AS shard_id, $path AS path, $run_id AS run_id, {shift}) "
        "FROM _quarantine WHERE shard_id = $source AND pipeline = $pipeline AND version = $version",
        facts | {"path": shard.file.path, "run_id": target.run_id},
    )
    asked = request_ids(cursor, target, [shard.shard_id])
    cursor.execute(
        "INSERT INTO _ledger SELECT * REPLACE ($shard_id AS shard_id, $path AS path, $run_id AS run_id, "
        "$checksum::BIGINT AS checksum, $method AS checksum_by, "
        "$revision AS revision, $source AS copied_from, 0.0 AS ingest_seconds, 0.0 AS tokenize_seconds, "
        "0.0 AS infer_seconds, now() AS committed_at, coalesce($request::VARCHAR, request_id) AS request_id) "
        "FROM _ledger WHERE shard_id = $source AND pipeline = $pipeline AND version = $version",
        {name: value for name, value in facts.items() if name != "first_row"}
        | {"path": shard.file.path, "run_id": target.run_id, "revision": target.revision}
        | {"checksum": checksum, "method": METHOD, "request": asked.get(shard.shard_id)},
    )
    return int(source[0]), int(source[1])


def _retire_replaced(cursor: Cursor, target: Target, paths: Collection[str]) -> int:
    """Remove files' former shards once all their shards at the target are done; returns rows removed."""
    facts = {"pipeline": target.pipeline, "version": target.version}
    old = cursor.execute(
        "SELECT path, list(shard_id) FROM _ledger WHERE pipeline = $pipeline AND version = $version "
        "AND path IN (SELECT unnest($paths::VARCHAR[])) "
        "AND shard_id NOT IN (SELECT shard_id FROM _target_shards WHERE pipeline = $pipeline) "
        "GROUP BY path ORDER BY path",
        facts | {"paths": sorted(paths)},
    ).fetchall()
    if not old:
        return 0
    complete = cursor.execute(
        "SELECT f.path FROM _target_files f WHERE f.pipeline = $pipeline "
        "AND f.path IN (SELECT unnest($paths::VARCHAR[])) AND f.num_shards = "
        "(SELECT count(*) FROM _target_shards s SEMI JOIN (SELECT shard_id FROM _ledger "
        "WHERE pipeline = $pipeline AND version = $version) l USING (shard_id) "
        "WHERE s.pipeline = $pipeline AND s.path = f.path)",
        facts | {"paths": [path for path, _ in old]},
    ).fetchall()
    gone = [shard_id for path, shard_ids in old if (path,) in complete for shard_id in shard_ids]
    return remove_shards(cursor, target.pipeline, target.version, gone)


def _vanished(cursor: Cursor, target: Target) -> list[tuple[str, str]]:
    """(shard id, path) of done shards whose file the target revision does not have."""
    return cursor.execute(
        "SELECT shard_id, path FROM _ledger WHERE pipeline = $pipeline AND version = $version AND path NOT IN "
        "(SELECT path FROM _target_files WHERE pipeline = $pipeline)",
        {"pipeline": target.pipeline, "version": target.version},
    ).fetchall()
