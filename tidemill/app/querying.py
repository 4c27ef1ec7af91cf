"""A visitor's statements: judged as `tidemill sql` judges them, bounded in time, and their rows as a file."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _duckdb as duckdb
import pyarrow.parquet as pq

from tidemill.config import Pipeline
from tidemill.errors import InputError
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.reports.query import reading

MOST_SECONDS = 60.0
FORMATS = ("csv", "json", "parquet")
LARGEST_EXACT = 2**53
"""Integers beyond it are no longer exact where JSON is read as JavaScript does."""


@contextmanager
def bounded(pipeline: Pipeline, text: str, seconds: float = MOST_SECONDS) -> Iterator[Any]:
    """A cursor at the last statement's result; a query that takes longer than `seconds` is ended.

    Raises:
        InputError: the SQL is wrong, would do more than read, or takes too long.
    """
    try:
        with reading(pipeline.lake, text) as (cursor, statement):
            timer = threading.Timer(seconds, cursor.interrupt)
            timer.start()
            try:
                cursor.execute(statement)
                yield cursor
            finally:
                timer.cancel()
    except (InputError, duckdb.Error, OSError) as e:  # Arrow's reader gives an interrupt as an OSError.
        cause = e.__cause__ or e
        if is_interrupt(cause) or str(cause) == "INTERRUPT Error: Interrupted!":
            raise InputError(
                f"The query took longer than {seconds:g} s and was ended. Narrow it, or use `tidemill sql`."
            ) from e
        raise


def export_rows(pipeline: Pipeline, text: str, kind: str) -> Path:
    """Write all rows of a query into a file in a folder of its own."""
    if kind not in FORMATS:
        raise InputError(f"{kind} is no format. Formats: {', '.join(FORMATS)}.")
    # Where Gradio serves from, so that it goes with the app.
    folder = tempfile.mkdtemp(prefix="export-", dir=os.environ.get("GRADIO_TEMP_DIR"))
    path = Path(folder) / f"{pipeline.name}.{kind}"
    with bounded(pipeline, text) as cursor:
        _WRITERS[kind](cursor, path)
    return path


def _write_csv(cursor: Any, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([column[0] for column in cursor.description])
        for row in _rows(cursor):
            writer.writerow([_flat(value) for value in row])


def _write_json(cursor: Any, path: Path) -> None:
    names = [column[0] for column in cursor.description]
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(_rows(cursor)):
            record = {name: exact(value) for name, value in zip(names, row, strict=True)}
            file.write(("," if number else "") + "\n" + json.dumps(record, ensure_ascii=False, default=str))
        file.write("\n]\n")


def _write_parquet(cursor: Any, path: Path) -> None:
    batches = cursor.to_arrow_reader(10_000)
    with pq.ParquetWriter(path, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


_WRITERS = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}


def _rows(cursor: Any) -> Iterator[tuple[Any, ...]]:
    while rows := cursor.fetchmany(1_000):
        yield from rows


def _flat(value: Any) -> Any:
    return json.dumps(exact(value), ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def exact(value: Any) -> Any:
    """A value as JSON can hold it: integers that JavaScript would round are text, and no number is NaN.

    >>> exact([9007199254740993, float("nan"), 1])
    ['9007199254740993', None, 1]
    """
    if isinstance(value, dict):
        return {str(name): exact(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    if isinstance(value, int) and abs(value) > LARGEST_EXACT:
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
