"""What a file costs of which a few rows changed; and where a text's hash is kept best: measured both ways.

    python -m benchmarks.unchanged_rows [--rows 100000] [--changed 1000]

A file is computed, changed in `--changed` of its rows, spread over it, planned, computed again, and held against a
fresh run. Then bare DuckLakes take the same made-up shards: with the hash as a UUID in the result table, with it in a
table of its own, and without it. The model is a corner of the bundled one, so that it is minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import this_machine
from benchmarks.small_files import texts
from tests.pipelines import MODEL, assert_same_tables, problems_of
from tidemill import config
from tidemill.config import Pipeline
from tidemill.encoding.text_hashes import text_hashes
from tidemill.lake import Cursor, Lake
from tidemill.lake.tables import insert_rows, limit_inlining
from tidemill.planning.plan import make_plan
from tidemill.running.run import Run

T = TypeVar("T")

SHARD_SIZES = {500: 100, 20_000: 10}
"""Rows of a shard → how many shards are committed."""
RESULT_COLUMNS = (
    "id VARCHAR, label VARCHAR, score FLOAT, num_tokens INTEGER, truncated BOOLEAN, shard_id VARCHAR, "
    "row_number BIGINT, dataset_revision VARCHAR"
)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=100_000)
    asked.add_argument("--changed", type=int, default=1000)
    given = asked.parse_args()
    print(this_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        change_a_file(Path(folder), given.rows, given.changed)
    keep_hashes()


def change_a_file(home: Path, num_rows: int, num_changed: int) -> None:
    rows = dataset(num_rows)
    pipeline = pipeline_in(home / "lake", home)
    write(home, rows)
    first = measured("computed", lambda: Run(pipeline).execute())
    write(home, with_changes(rows, num_changed))
    planned = measured("planned", lambda: plan(pipeline))
    print(f"  {planned['rows']:,} rows, {planned['rows_to_compute']:,} to compute, ~{planned['tokens']:,} tokens")
    again = measured("changed", lambda: Run(pipeline).execute())
    fresh_pipeline = pipeline_in(home / "fresh", home)
    fresh = measured("fresh", lambda: Run(fresh_pipeline).execute())
    for name, result in (("computed", first), ("changed", again), ("fresh", fresh)):
        print(f"  {name:<9} {result.num_rows:9,} rows, {result.num_unchanged:9,} copied, {result.num_tokens:9,} tokens")
    print(f"  of the tokens of a fresh run: {again.num_tokens / fresh.num_tokens:.2%}")
    assert_same_tables(pipeline, fresh_pipeline)
    assert problems_of(pipeline) == []
    print("  the table is that of the fresh run, and every invariant holds", flush=True)


def dataset(num_rows: int) -> pa.Table:
    source = texts()
    return pa.table(
        {
            "id": [f"row-{number}" for number in range(num_rows)],
            "text": [f"{next(source)} ({number})" for number in range(num_rows)],
        }
    )


def with_changes(rows: pa.Table, num_changed: int) -> pa.Table:
    changed = rows["text"].to_pylist()
    for number in np.linspace(0, len(changed) - 1, num_changed).astype(int).tolist():
        changed[number] += " It was read again."
    return rows.set_column(1, "text", pa.array(changed))


def write(home: Path, rows: pa.Table) -> None:
    (home / "data").mkdir(exist_ok=True)
    pq.write_table(rows, home / "data" / "export.parquet", row_group_size=10_000)


def pipeline_in(folder: Path, home: Path) -> Pipeline:
    raw: dict[str, Any] = {
        "name": "reviews",
        "dataset": {"path": f"{home}/data/*.parquet", "text": "text", "key": ["id"]},
        "model": {"path": str(MODEL)},
        "lake": {"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"},
        "store": {"path": f"{folder}/store"},
    }
    return Pipeline.model_validate(raw)


def plan(pipeline: Pipeline) -> dict[str, Any]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return make_plan(pipeline, lake)[0].to_json()


def measured(what: str, work: Callable[[], T]) -> T:
    started, cpu = time.perf_counter(), time.process_time()
    done = work()
    print(f"{what:<9} {time.perf_counter() - started:8.1f} s {time.process_time() - cpu:8.1f} CPU s", flush=True)
    return done


@dataclass(frozen=True)
class Place:
    """Where the hashes of texts are kept: what is made for it, and how rows are written and found."""

    name: str
    tables: tuple[str, ...]
    insert: Callable[[Cursor, pa.Table, pa.Array], None]
    find: str


def in_no_place(cursor: Cursor, rows: pa.Table, hashes: pa.Array) -> None:
    insert_rows(cursor, "results", rows)


def in_a_column(cursor: Cursor, rows: pa.Table, hashes: pa.Array) -> None:
    insert_rows(cursor, "results", rows.append_column("text_hash", hashes))


def in_a_table(cursor: Cursor, rows: pa.Table, hashes: pa.Array) -> None:
    insert_rows(cursor, "results", rows)
    named = rows.select(["shard_id", "row_number"]).append_column("text_hash", hashes)
    insert_rows(cursor, "texts", named.append_column("version", pa.repeat(pa.scalar("0a1b2c3d"), rows.num_rows)))


PLACES = (
    Place("no hash", (f"CREATE TABLE results ({RESULT_COLUMNS})",), in_no_place, ""),
    Place(
        "a column",
        (f"CREATE TABLE results ({RESULT_COLUMNS}, text_hash UUID)",),
        in_a_column,
        "SELECT count(score) FROM results JOIN asked USING (text_hash)",
    ),
    Place(
        "a table",
        (
            f"CREATE TABLE results ({RESULT_COLUMNS})",
            "CREATE TABLE texts (version VARCHAR, shard_id VARCHAR, row_number BIGINT, text_hash UUID)",
        ),
        in_a_table,
        "SELECT count(score) FROM results JOIN texts USING (shard_id, row_number) JOIN asked USING (text_hash) "
        "WHERE version = '0a1b2c3d'",
    ),
)


def keep_hashes() -> None:
    print("hashes in     rows  shards  CPU ms a commit  bytes a row  CPU ms to find")
    for num_rows, num_shards in SHARD_SIZES.items():
        shards = [made_up(number, num_rows) for number in range(num_shards)]
        for place in PLACES:
            with tempfile.TemporaryDirectory() as folder:
                print(f"{place.name:<10} {num_rows:7,} {num_shards:7,} {kept(place, shards, Path(folder))}", flush=True)


def made_up(number: int, num_rows: int) -> tuple[pa.Table, pa.Array]:
    chance, first = np.random.default_rng(number), number * num_rows
    rows = pa.table(
        {
            "id": [f"row-{first + i}" for i in range(num_rows)],
            "label": pa.array(["NEGATIVE", "POSITIVE"]).take(pa.array(chance.integers(2, size=num_rows))),
            "score": pa.array(chance.uniform(0.5, 1, num_rows), pa.float32()),
            "num_tokens": pa.array(chance.integers(3, 129, num_rows), pa.int32()),
            "truncated": pa.repeat(False, num_rows),
            "shard_id": pa.repeat(pa.scalar(f"{number:016x}"), num_rows),
            "row_number": pa.array(range(first, first + num_rows), pa.int64()),
            "dataset_revision": pa.repeat(pa.scalar("0123456789abcdef"), num_rows),
        }
    )
    return rows, text_hashes(pa.array([f"text {first + i}" for i in range(num_rows)]))


def kept(place: Place, shards: list[tuple[pa.Table, pa.Array]], folder: Path) -> str:
    spec = config.Lake(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")
    num_rows = sum(rows.num_rows for rows, _ in shards)
    with Lake(spec) as lake:
        lake.write(limit_inlining, message="limit inlining")
        for table in place.tables:
            lake.write(lambda cursor, table=table: cursor.execute(table), message="create")  # type: ignore[misc]
        started = time.process_time()
        for rows, hashes in shards:
            lake.write(lambda cursor, rows=rows, hashes=hashes: place.insert(cursor, rows, hashes), message="shard")  # type: ignore[misc]
        committing = 1000 * (time.process_time() - started) / len(shards)
        finding = find(place, lake.cursor(), shards[-1][1]) if place.find else None
    size = sum(path.stat().st_size for path in (folder / "lake").rglob("*.parquet")) / num_rows
    return f"{committing:16.1f} {size:12.1f} {'–' if finding is None else f'{finding:.1f}':>15}"


def find(place: Place, cursor: Cursor, hashes: pa.Array) -> float:
    cursor.register("incoming", pa.table({"text_hash": hashes}))
    cursor.execute("CREATE TEMP TABLE asked AS FROM incoming")
    started = time.process_time()
    assert cursor.execute(place.find).fetchall() == [(len(hashes),)]
    return 1000 * (time.process_time() - started)


if __name__ == "__main__":
    main()
