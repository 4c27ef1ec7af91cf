"""`tidemill sql`: statements that read, and their result in four formats."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tidemill.cli.terminal import printable
from tidemill.errors import ConfigError
from tidemill.lake.ducklake.catalog import LakeSpec
from tidemill.reports.query import find_lake, reading

__all__ = ["find_lake", "run_query"]

ROWS_AT_A_TIME = 10_000
MAX_TABLE_ROWS = 200


def run_query(spec: LakeSpec, query: str, output: str, folders: Sequence[str] = ()) -> None:
    """Run `query` against one snapshot of the lake, attached read-only, and print the last statement's result.

    It can read files in `folders`, and nothing else beside the lake.

    Raises:
        InputError: the SQL is wrong, or would write.
    """
    with reading(spec, query, folders) as (cursor, last):
        PRINTERS[output](cursor, last)


def _as_table(cursor: Any, query: Any) -> None:
    relation = cursor.sql(query)
    if relation is None:
        return
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 200
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        relation.show(max_rows=MAX_TABLE_ROWS, max_width=max(80, width))
    sys.stdout.write(printable(shown.getvalue()))


def _as_csv(cursor: Any, query: Any) -> None:
    import csv

    cursor.execute(query)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column[0] for column in cursor.description])
    for rows in _pages(cursor):
        writer.writerows(rows)


def _as_json(cursor: Any, query: Any) -> None:
    import json

    cursor.execute(query)
    names = [column[0] for column in cursor.description]
    sys.stdout.write("[")
    separator = "\n"
    for rows in _pages(cursor):
        for row in rows:
            record = {name: plain(value) for name, value in zip(names, row, strict=True)}
            sys.stdout.write(separator + json.dumps(record, default=str, ensure_ascii=False))
            separator = ",\n"
    sys.stdout.write("\n]\n")


def _as_parquet(cursor: Any, query: Any) -> None:
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise ConfigError("Parquet is binary. Send it to a file: tidemill sql ... --format parquet > result.parquet")
    reader = cursor.execute(query).to_arrow_reader(ROWS_AT_A_TIME)
    with pq.ParquetWriter(sys.stdout.buffer, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


PRINTERS = {"table": _as_table, "csv": _as_csv, "json": _as_json, "parquet": _as_parquet}


def _pages(cursor: Any) -> Iterator[list[tuple[Any, ...]]]:
    while rows := cursor.fetchmany(ROWS_AT_A_TIME):
        yield rows


def plain(value: Any) -> Any:
    """A value as JSON can hold it: no NaN, string keys."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
