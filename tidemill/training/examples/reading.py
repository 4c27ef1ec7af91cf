"""The rows that a training file names, of a dataset or of a query over lakes, as one Arrow table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, DatasetError, InputError, SchemaError
from tidemill.formats import KEPT_PREFIX
from tidemill.masking import shown_catalog
from tidemill.planning.columns import settle_columns
from tidemill.reports.query import find_lake, reading
from tidemill.sources.dataset import open_dataset
from tidemill.training.given.file import Data, TrainingFile
from tidemill.values.columns import JoinedText


@dataclass(frozen=True)
class Examples:
    """Columns are named as in their source. `source` says where they came from, for the model's card."""

    table: pa.Table
    source: dict[str, Any] = field(default_factory=dict)
    num_unreadable: int = 0
    """Records of the source that are no rows."""


def read_examples(file: TrainingFile) -> Examples:
    """
    Raises:
        InputError: the dataset cannot be read, the query is wrong, or a column is missing.
    """
    found = _of_query(file.data) if file.data.sql else _of_dataset(file)
    if not found.table.num_rows:
        raise DatasetError(f"{file.data.sql or file.data.path} gives no rows to learn from.")
    return found


def _of_query(data: Data) -> Examples:
    assert data.sql is not None
    parts, snapshots = [], []
    for lake in data.lakes:
        spec = find_lake(lake)
        try:
            with reading(spec, data.sql, data.allow) as (cursor, last):
                parts.append(cursor.execute(last).to_arrow_table())
                snapshots.append(_snapshot(cursor))
        except InputError as e:
            # The options of another command are none of this file's keys.
            said = str(e).replace("`tidemill sql`", "data.sql").replace("--allow FOLDER", "data.allow")
            raise ConfigError(said) from e
    table = pa.concat_tables(parts, promote_options="permissive")
    if missing := [name for name in data.columns_read if name not in table.column_names]:
        raise SchemaError(
            f"data.sql gives no column {missing[0]}. It gives: {', '.join(table.column_names)}. Name it in the query, "
            "or set data.text and data.label to what the query gives."
        )
    return Examples(table, {"query": data.sql, "lakes": list(map(shown_catalog, data.lakes)), "snapshots": snapshots})


def _snapshot(cursor: Any) -> int | None:
    found = cursor.execute("SELECT max(snapshot_id) FROM lake.snapshots()").fetchone()
    return int(found[0]) if found and found[0] is not None else None


def _of_dataset(file: TrainingFile) -> Examples:
    names = list(file.data.columns_read)
    pipeline = _pipeline_of(file, names)
    dataset = open_dataset(pipeline, JoinedText((), ""))
    try:
        _, columns = settle_columns(pipeline, None, dataset, None, None)  # type: ignore[arg-type]
    except SchemaError as e:
        # A pipeline is what reads, and a training file what is read.
        raise SchemaError(str(e).replace("dataset.key or dataset.keep", "the section [data]")) from e
    dataset.use(columns)
    parts, num_unreadable = [], 0
    for source in dataset.files:
        reader = dataset.reader(source)
        for cut in reader.slices(shard_bytes=dataset.shard_bytes):
            rows = reader.rows(cut)
            sound = rows.filter(pc.is_null(rows["reason"]))
            num_unreadable += rows.num_rows - sound.num_rows
            parts.append(sound.select([KEPT_PREFIX + name for name in names]).rename_columns(names))
    facts = {"path": file.data.path, "revision": dataset.revision, "files": len(dataset.files)}
    table = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    return Examples(table, facts, num_unreadable)


def _pipeline_of(file: TrainingFile, names: Sequence[str]) -> Pipeline:
    """A pipeline that reads the columns and is never run."""
    own = file.data.model_dump(include=set(type(file.data).__mro__[1].model_fields), exclude_unset=True)  # type: ignore[attr-defined]
    keep = ['"{}"'.format(name.replace('"', '""')) for name in names]
    dataset = {**own, "text": names[:1], "text_pair": [], "key": [], "keep": keep}
    return Pipeline.model_validate({"name": file.name, "dataset": dataset, "model": {"path": "."}})


def texts_of(table: pa.Table, columns: Sequence[str], separator: str) -> list[str | None]:
    """A text a row, of several columns joined; null where one is.

    Raises:
        SchemaError: a column holds something else than text.
    """
    for name in columns:
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise SchemaError(f"The text column {name!r} has type {kind}, not string. Set data.text to one that has.")
    parts = [table[name].to_pylist() for name in columns]
    rows = zip(*parts, strict=True)
    return [None if None in row else separator.join(row) for row in rows]


def column_of(table: pa.Table, name: str, option: str) -> list[Any]:
    """
    Raises:
        ConfigError: there is no such column.
    """
    if name not in table.column_names:
        raise ConfigError(f"{option} = {json.dumps(name)} is no column of the rows: {', '.join(table.column_names)}.")
    return list(table[name].to_pylist())
