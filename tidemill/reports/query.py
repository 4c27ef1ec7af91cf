"""A query of the user's own: which lake it is for, and its statements, which only read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import _duckdb as duckdb  # As tidemill.lake.ducklake.connection does.

from tidemill import pipeline_file
from tidemill.errors import ConfigError, InputError
from tidemill.lake.ducklake.catalog import LakeSpec
from tidemill.lake.ducklake.connection import Cursor, Lake, is_interrupt
from tidemill.lake.ducklake.reading import check_definitions, readable
from tidemill.places import default_data


def find_lake(source: str, overrides: pipeline_file.Overrides = ()) -> LakeSpec:
    """The lake of a pipeline file, of which only the section `lake` has to be right, or the lake of that catalog.

    Raises:
        ConfigError: the file cannot be read, or it does not say where its lake lies.
    """
    if os.path.isdir(source):  # noqa: PTH112
        raise ConfigError(f"{source} is a folder. Give a pipeline file, or a lake's catalog: {source}/lake.sqlite.")
    if not source.endswith(".toml"):
        return pipeline_file.LakeToRead(pipeline_file.named_catalog(source), default_data())
    if (plain := pipeline_file.lake_to_read(pipeline_file.read_file(source, overrides))) is not None:
        return plain
    from tidemill.config import load_pipeline

    return load_pipeline(source, overrides).lake


@contextmanager
def reading(spec: LakeSpec, query: str, folders: Sequence[str] = ()) -> Iterator[tuple[Cursor, Any]]:
    """A cursor on one snapshot of the lake, attached read-only, and the query's last statement; the others are done.

    It can read files in `folders`, and nothing else beside the lake.

    Raises:
        InputError: the SQL is wrong, or would write; also of what is executed in the block.
    """
    with Lake(spec, read_only=True, one_snapshot=True, scans=True) as lake:
        lake.seal(folders)
        cursor = lake.cursor()
        try:
            check_definitions(cursor, query)
            *before, last = readable(cursor, query, files=bool(folders))
            for statement in before:
                cursor.execute(statement)
            yield cursor, last
        except duckdb.Error as e:
            raise InputError(str(e)) from e


@contextmanager
def of_query() -> Iterator[None]:
    """
    Raises:
        InputError: what DuckDB says of the query.
    """
    try:
        yield
    except duckdb.Error as e:
        if is_interrupt(e):
            raise
        raise InputError(str(e)) from e


@contextmanager
def ended_after(cursor: Cursor, seconds: float | None) -> Iterator[None]:
    """End what is executed in the block once it took so long; with None, whenever it is done.

    Raises:
        InputError: it took longer.
    """
    if seconds is None:
        yield
        return
    done = threading.Event()

    def end() -> None:
        # Again and again: between two statements there is nothing to interrupt.
        while not done.wait(seconds):
            cursor.interrupt()

    watch = threading.Thread(target=end, daemon=True)
    watch.start()
    try:
        yield
    except duckdb.Error as e:
        if not is_interrupt(e):
            raise
        told = f"The query took longer than {seconds:g} s and was ended. Narrow it, or ask it on the command line."
        raise InputError(told) from e
    finally:
        done.set()
        watch.join()
