"""A visitor's statements: judged as `tidemill sql` judges them, bounded in time, and their rows as a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidemill.config import Pipeline
from tidemill.publishing.export import KINDS, export
from tidemill.reports.query import ended_after, reading

MOST_SECONDS = 60.0
FOLDER = "GRADIO_TEMP_DIR"
"""The environment variable by which Gradio knows the folder that it serves files from."""
FORMATS = tuple(kind.removeprefix(".") for kind in KINDS)


@contextmanager
def bounded(pipeline: Pipeline, text: str, seconds: float = MOST_SECONDS) -> Iterator[Any]:
    """A cursor at the last statement's result; a query that takes longer than `seconds` is ended.

    Raises:
        InputError: the SQL is wrong, would do more than read, or takes too long.
    """
    with reading(pipeline.lake, text) as (cursor, statement), ended_after(cursor, seconds):
        cursor.execute(statement)
        yield cursor


def export_rows(pipeline: Pipeline, text: str, kind: str, seconds: float = MOST_SECONDS) -> Path:
    """Write all rows of a query into a file in a folder of its own, as `tidemill export` does."""
    # Where Gradio serves from, so that it goes with the app.
    folder = tempfile.mkdtemp(prefix="export-", dir=os.environ.get(FOLDER))
    path = Path(folder) / f"{pipeline.name}.{kind}"
    export(pipeline, path, query=text, seconds=seconds)
    return path
