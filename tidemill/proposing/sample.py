"""A few rows of a source, from several of its files: every column that is worth looking at, and why others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import FAILS_ALONE, DatasetError, SchemaError
from tidemill.formats import KEPT_PREFIX, Columns, check_fields, plain_type, settle_schema, without_nulls
from tidemill.planning.columns import KeptColumn
from tidemill.proposing.source import Source, looked_at
from tidemill.sources.dataset import Dataset, spread
from tidemill.values.types import is_list, is_string

ROWS_LOOKED_AT = 1_000
SAMPLE_BYTES = 1 << 16
"""Of text, of one file."""


@dataclass(frozen=True)
class Sample:
    """`rows` has a column for each in `types` that is worth reading; `unfit` says why the others are not kept.

    Those in `everywhere` are in each of the files: text and keys have to be.
    """

    rows: pa.Table
    types: Mapping[str, pa.DataType]
    unfit: Mapping[str, str]
    everywhere: Collection[str]

    @property
    def text_columns(self) -> list[str]:
        return [name for name in self.rows.column_names if is_string(self.types[name]) and name in self.everywhere]


def look_at(source: Source) -> Sample:
    """Read the first rows of a few files.

    Raises:
        DatasetError: there are no rows.
        InputError: what is wrong with the first file, if none can be read.
    """
    schemas = _schemas(source.dataset)
    types, unfit = _settled_types(source, schemas)
    for name, type_ in types.items():
        if why := why_unfit(name, type_):
            unfit[name] = why
    everywhere = {name for name in types if all(name in schema.names for schema in schemas.values())}
    everywhere.update(source.partitions)
    texts = [name for name, type_ in types.items() if is_string(type_) and name in everywhere]
    readable = [name for name in types if name not in unfit]
    rows = _first_rows(source, texts[0], readable, types) if texts else pa.table({})
    return Sample(rows, types, unfit, everywhere)


def why_unfit(name: str, type_: pa.DataType) -> str | None:
    """Why a column is not kept beside predictions; None if it may well be."""
    try:
        check_fields(name, type_, "")
        _ = KeptColumn(name, name, type_).type
    except SchemaError:
        return f"the lake has no type for {_shortened(type_)}"
    if _holds(type_, pa.types.is_binary):
        return "it holds bytes"
    if is_list(type_) and pa.types.is_floating(type_.value_type):
        return "it holds lists of numbers"
    return None


def _schemas(dataset: Dataset) -> dict[str, pa.Schema]:
    """The columns of as many files as a plan looks at, by path."""
    shown: dict[str, pa.Schema] = {}
    failures: list[Exception] = []
    for file in spread(dataset.files):
        try:
            schema = dataset.reader(file).schema()
        except FAILS_ALONE as e:
            dataset.forget(file)
            failures.append(e)
            continue
        if len(schema):
            shown[file.path] = schema
    if not shown and failures:
        raise failures[0]
    if not shown:
        raise DatasetError("The source has no rows. Give one that has some.")
    return shown


def _settled_types(source: Source, schemas: Mapping[str, pa.Schema]) -> tuple[dict[str, pa.DataType], dict[str, str]]:
    """Each column's type over all files, as the lake would have it; and the columns that have none."""
    names = dict.fromkeys(name for schema in schemas.values() for name in schema.names)
    unfit = {name: "there are several of that name" for name in names if _is_repeated(name, schemas.values())}
    once = [name for name in (*names, *source.partitions) if name not in unfit]
    dataset = source.reopened(once[0] if once else "", once)
    columns = replace(dataset.columns([(name, name) for name in once], {}), text=())
    dataset.use(columns)
    shown = _schemas(dataset)
    common_type = dataset.reader(looked_at(dataset)[0]).common_type
    types: dict[str, pa.DataType] = {}
    for name in once:
        try:
            schema = settle_schema(shown, replace(columns, kept=((name, name),)), common_type)
        except SchemaError:
            unfit[name] = "its type differs from file to file"
            continue
        types[name] = without_nulls(plain_type(schema.field(name).type))
    return types, unfit


def _is_repeated(name: str, schemas: Iterable[pa.Schema]) -> bool:
    return any(schema.names.count(name) > 1 for schema in schemas)


def _first_rows(source: Source, text: str, names: Sequence[str], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Cells as their files have them; `text` is only what slices are cut by."""
    dataset = source.reopened(text, list(names))
    dataset.use(_columns(dataset, names, types))
    files = looked_at(dataset)
    kept = [KEPT_PREFIX + name for name in names]
    parts, failures = [], []
    for file in files:
        reader = dataset.reader(file)
        try:
            cut = next(reader.slices(shard_bytes=SAMPLE_BYTES), None)
            rows = reader.rows(cut) if cut else None
        except FAILS_ALONE as e:
            dataset.forget(file)
            failures.append(e)
            continue
        if rows is not None:
            parts.append(_sound(rows).slice(0, max(1, ROWS_LOOKED_AT // len(files))).select(kept))
    if not parts:
        raise failures[0] if failures else DatasetError("The source has no rows. Give one that has some.")
    return pa.concat_tables(parts).rename_columns(list(names))


def _sound(rows: pa.Table) -> pa.Table:
    """The rows but for malformed records, which have no cells."""
    malformed = pc.starts_with(pc.fill_null(rows["reason"], ""), "malformed")
    return rows.filter(pc.invert(malformed))


def _columns(dataset: Dataset, names: Sequence[str], types: Mapping[str, pa.DataType]) -> Columns:
    return dataset.columns([(name, name) for name in names], {name: types[name] for name in names})


def _holds(type_: pa.DataType, is_kind: object) -> bool:
    """Whether a type, or one within it, is of a kind."""
    inner = [type_.field(i).type for i in range(type_.num_fields)] if pa.types.is_nested(type_) else []
    return bool(is_kind(type_)) or any(_holds(found, is_kind) for found in inner)  # type: ignore[operator]


def _shortened(type_: pa.DataType) -> str:
    shown = str(type_)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
