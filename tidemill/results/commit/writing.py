"""Computed shards into the tables: those that are in memory together, by one insert into each table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import InvariantBroken, SchemaError
from tidemill.formats import KEPT_PREFIX
from tidemill.lake.checksums import METHOD, checksum_of_rows, checksum_with, checksums_of_shards
from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.ledger import quarantined_rows
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import TEXT_HASH, insert_records, insert_rows, size_of_arrays
from tidemill.results.commit.items import Computed, Written
from tidemill.results.forgotten import Forgotten
from tidemill.shards import Shard
from tidemill.values.columns import TEXTS

INSERTED_BYTES = 2**26
"""Of rows that are in memory at one time, about: so many of a transaction's go into one insert, and one data file."""
INSERTED_TOGETHER = 1000
"""Shards whose rows are in memory at one time, at most."""
Loaded = tuple[Computed, pa.Table, pa.Table]
"""A shard with its rows and its predictions, in the same order, less those that are forgotten."""


def write_computed(cursor: Cursor, target: Target, items: Sequence[Computed], forgotten: Forgotten) -> Written:
    """Write whole shards, as many at a time as fit in memory."""
    written: Written = {}
    started = time.perf_counter()
    for loaded in _in_memory_together(target, items, forgotten):
        written |= _write_loaded(cursor, target, loaded, started)
        started = time.perf_counter()
    return written


def _in_memory_together(target: Target, items: Sequence[Computed], forgotten: Forgotten) -> Iterator[Sequence[Loaded]]:
    loaded: list[Loaded] = []
    num_bytes = 0
    for item in items:
        rows, predictions = forgotten.left_out(target, item.shard, *_loaded(item))
        # Of the rows only what is kept is written: their texts would be most of it.
        rows = rows.select([name for name in rows.column_names if name not in TEXTS])
        loaded.append((item, rows, predictions))
        num_bytes += rows.nbytes + predictions.nbytes
        if num_bytes >= INSERTED_BYTES or len(loaded) == INSERTED_TOGETHER:
            yield loaded
            loaded, num_bytes = [], 0
    if loaded:
        yield loaded


def _write_loaded(cursor: Cursor, target: Target, loaded: Sequence[Loaded], started: float) -> Written:
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
    seconds = (time.perf_counter() - started) / len(loaded)
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


def write_rows(cursor: Cursor, target: Target, item: Computed, forgotten: Forgotten) -> tuple[int, int]:
    """Write rows that are in quarantine still, and count them over in the shard's ledger row.

    Others of the predictions are left out: their rows have a result, maybe since these were computed.
    """
    shard = item.shard
    rows, predictions = item.load()
    wanted = quarantined_rows(cursor, target.pipeline, target.version, [shard.shard_id]).get(shard.shard_id, ())
    predictions = predictions.filter(
        pc.is_in(predictions["row_number"], pa.array(wanted, predictions["row_number"].type))
    )
    rows = rows.filter(pc.is_in(rows["row_number"], predictions["row_number"].combine_chunks()))
    rows, predictions = forgotten.left_out(target, shard, rows, predictions)
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
    for name, kind in target.table.results:
        columns[name] = predictions[name]
        _refuse_other_sizes(name, kind, predictions[name])
    columns |= {name: predictions[name] for name in ("num_tokens", "truncated", "row_number")}
    has_hashes = TEXT_HASH in predictions.column_names
    columns[TEXT_HASH] = predictions[TEXT_HASH] if has_hashes else pa.nulls(predictions.num_rows, pa.uuid())
    table = pa.table(columns)
    for name, value in (("shard_id", shard.shard_id), ("dataset_revision", target.revision)):
        table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def _refuse_other_sizes(name: str, kind: str, values: pa.ChunkedArray) -> None:
    """The table itself would take arrays of any size, and the view then fails at the first of another one."""
    if (size := size_of_arrays(kind)) is None:
        return
    found = [each for each in pc.unique(pc.list_value_length(values)).to_pylist() if each not in (None, size)]
    if found:
        raise SchemaError(
            f"The table's column {name} has {size} numbers a row, and what was computed has {found[0]}. Compute it as "
            "a version of its own: `tidemill backfill`."
        )


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
