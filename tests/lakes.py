"""Shards of made-up rows, committed as a run commits them: what a lake keeps is tried without a model or a source."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill import config
from tidemill.formats import KEPT_PREFIX
from tidemill.lake import Lake, ResultTable, ensure_system_tables
from tidemill.lake.ducklake.connection import CATALOG
from tidemill.lake.pipelines import Target
from tidemill.lake.requests import request_ids
from tidemill.lake.tables import SYSTEM_VIEWS, TEXT_HASH, existing_columns, shown_type, table_name
from tidemill.planning.columns import KeptColumn
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.commit import Computed, commit_shards
from tidemill.shards import Shard, Slice, SourceFile

PIPELINE, VERSION = "values", "0a1b2c3d"
TABLE = f"{PIPELINE}__{VERSION}"
RESULTS = (("label", "VARCHAR"), ("score", "FLOAT"))
INLINED_BEFORE_LAYOUT_3 = 50


def lake_at(folder: Path, catalog: str | None = None) -> config.Lake:
    return config.Lake(catalog=catalog or f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")


def commit_rows(
    spec: config.Lake, kept: pa.Table, sizes: Sequence[int], *, inlined: bool = False, results: pa.Table | None = None
) -> list[Shard]:
    """Commit the first rows of `kept` as kept columns, in shards of these sizes, each in a transaction of its own.

    `results` are their result columns, a label and a score where there are none.
    With `inlined`, small shards lie in the catalog, as they did before layout 3.
    """
    with Lake(spec) as lake:
        target, items = ask_for_rows(lake, kept, sizes, results)
        if inlined:
            limit = (
                f"CALL lake.set_option('data_inlining_row_limit', {INLINED_BEFORE_LAYOUT_3}, table_name => '{TABLE}')"
            )
            lake.write(lambda cursor: cursor.execute(limit), message="as before layout 3")
        for item in items:
            assert commit_shards(lake, target, [item]).num_rows == item.shard.slice.num_rows
    return [item.shard for item in items]


def ask_for_rows(
    lake: Lake, kept: pa.Table, sizes: Sequence[int], results: pa.Table | None = None
) -> tuple[Target, list[Computed]]:
    """Adopt a revision of a file a shard, of these sizes; the first rows of `kept` are what is to be committed."""
    found = _labels(kept.num_rows) if results is None else results
    types = tuple((name, shown_type(kind)) for name, kind in zip(found.column_names, found.schema.types, strict=True))
    columns = [KeptColumn(name, name, kind) for name, kind in zip(kept.column_names, kept.schema.types, strict=True)]
    table = ResultTable(PIPELINE, VERSION, tuple((column.name, column.type) for column in columns), types)
    target = Target(PIPELINE, VERSION, "r1", "made-up", table, "kept")
    shards = []
    for number, size in enumerate(sizes):
        file = SourceFile(f"part-{number}", f"part-{number}", size, f"content-{number}")
        shards.append(Shard(file, Slice(0, size, 0, 0, f"slice-{number}", size)))
    adoption = Adoption(
        files=[(shard.file, 1) for shard in shards],
        shards=shards,
        requests=[(shard.shard_id, "new") for shard in shards],
        spec={"text": ["text"]},
        kept=[column.to_json() for column in columns],
        dataset={},
        expected_target=None,
    )
    ensure_system_tables(lake)
    assert adopt(lake, target, adoption)
    ids = request_ids(lake.cursor(), target, [shard.shard_id for shard in shards])
    firsts = accumulate(sizes, initial=0)
    return target, [
        Computed(
            shard,
            ids[shard.shard_id],
            partial(_loaded, *(each.slice(first, shard.slice.num_rows) for each in (kept, found))),
        )
        for first, shard in zip(firsts, shards, strict=False)
    ]


def kept_rows(spec: config.Lake, names: Sequence[str]) -> pa.Table:
    """The kept columns as they are read back, in the order in which `commit_rows` was given them."""
    columns = ", ".join(f't."{name}"' for name in names)
    with Lake(spec, read_only=True) as lake:
        return (
            lake.cursor()
            .execute(
                f"SELECT {columns} FROM {TABLE} t JOIN _ledger USING (shard_id) ORDER BY len(path), path, row_number"
            )
            .to_arrow_table()
        )


NEW_IN_LAYOUT_7 = ("_marks", "_samples", "_trainings")


def take_back_to_layout_6(cursor: Any) -> None:
    """Without what people add to the tables, as a lake was before layout 7."""
    for table in NEW_IN_LAYOUT_7:
        cursor.execute(f"DROP TABLE {table}")
    for (pipeline,) in cursor.execute("SELECT pipeline FROM _pipelines").fetchall():
        cursor.execute(f'DROP VIEW "{pipeline}_marks"')


def take_back_to_layout_5(cursor: Any) -> None:
    """Without counts of what models wrote, as ledger and runs were before layout 6."""
    take_back_to_layout_6(cursor)
    for table in ("_ledger", "_runs"):
        cursor.execute(f"ALTER TABLE {table} DROP COLUMN num_new_tokens")


def take_rows_back_to_layout_4(cursor: Any) -> None:
    """Without hashes of texts, as rows were before layout 5."""
    take_back_to_layout_5(cursor)
    for pipeline, version in cursor.execute("SELECT pipeline, version FROM _versions").fetchall():
        cursor.execute(f"ALTER TABLE {table_name(pipeline, version)} DROP COLUMN {TEXT_HASH}")
    for table in ("_ledger", "_runs"):
        for column in ("num_unchanged", "num_unchanged_tokens"):
            cursor.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def take_listings_back_to_layout_3(cursor: Any) -> None:
    """Each revision with all its files and shards, as they were before layout 4."""
    for table in ("_files", "_shards"):
        cursor.execute(f"CREATE TABLE {table}__old AS SELECT * EXCLUDE (since) FROM _revision{table}")
    for view in SYSTEM_VIEWS:
        cursor.execute(f"DROP VIEW {view}")
    for table in ("_files", "_shards"):
        cursor.execute(f"DROP TABLE {table}")
        cursor.execute(f"ALTER TABLE {table}__old RENAME TO {table}")
    cursor.execute("DROP TABLE _revisions")


def take_back_to_layout_2(spec: config.Lake) -> None:
    """The system tables as the release before layout 3 made them."""

    def body(cursor: Any) -> None:
        take_rows_back_to_layout_4(cursor)
        take_listings_back_to_layout_3(cursor)
        cursor.execute("DROP TABLE _data_files")
        for column in ("checksum", "checksum_by"):
            cursor.execute(f"ALTER TABLE _ledger DROP COLUMN {column}")
        cursor.execute("UPDATE _layout SET layout_version = 2")

    with Lake(spec) as lake:
        if existing_columns(lake.cursor(), "_data_files"):
            lake.write(body, message="as layout 2 was")
        with lake.locked():
            lake.cursor().execute(f"DELETE FROM {CATALOG}.ducklake_metadata WHERE key = 'data_inlining_row_limit'")


def _labels(num_rows: int) -> pa.Table:
    return pa.table({"label": ["POSITIVE"] * num_rows, "score": pa.array([0.5] * num_rows, pa.float32())})


def _loaded(kept: pa.Table, results: pa.Table) -> tuple[pa.Table, pa.Table]:
    numbers = pa.array(range(kept.num_rows), pa.int64())
    rows = pa.table({"row_number": numbers} | {KEPT_PREFIX + name: kept[name] for name in kept.column_names})
    predictions = pa.table(
        {
            "row_number": numbers,
            **{name: results[name] for name in results.column_names},
            "num_tokens": pa.array([3] * kept.num_rows, pa.int32()),
            "truncated": pa.array([False] * kept.num_rows),
            "stage": pa.nulls(kept.num_rows, pa.string()),
            "reason": pa.nulls(kept.num_rows, pa.string()),
        }
    )
    return rows, predictions
