"""A few rows of a source, from several of its files: every column that is worth looking at, and why others are not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
MOST_STEPS = 4
"""From a nested column to a text in it."""
ITEMS_LOOKED_AT = 2
"""The first ones of a list; in a conversation often the question and the answer."""

Steps = tuple[str | int, ...]
"""Names of fields, and numbers of items."""


@dataclass(frozen=True)
class Sample:
    """`rows` has a column for each in `types` that is worth reading; `unfit` says why the others are not kept.

    Those in `everywhere` are in each of the files: text and keys have to be.
    `texts` are the cells of what may be the text, by column or by the path
    within a nested one.
    """

    rows: pa.Table
    types: Mapping[str, pa.DataType]
    unfit: Mapping[str, str]
    everywhere: Collection[str]
    texts: Mapping[str, Sequence[str | None]]
    column_of: Mapping[str, str]
    """Of each text."""


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
    readable = [name for name in types if name not in unfit]
    places = _text_places([name for name in readable if name in everywhere], types)
    # Bytes may be texts all the same, if there are no others.
    bytes_ = [name for name in types if pa.types.is_binary(types[name]) and name in everywhere and not places]
    first = next(iter([*places, *bytes_]), None)
    rows = pa.table({}) if first is None else _first_rows(source, first, readable, types)
    texts = {path: cells_at(rows[KEPT_PREFIX + name], steps) for path, (name, steps) in places.items()}
    texts |= {name: _first_rows(source, name, [], types)["text"].to_pylist() for name in bytes_}
    column_of = {path: name for path, (name, _) in places.items()} | {name: name for name in bytes_}
    everywhere.update(source.partitions)
    return Sample(_kept(rows, readable), types, unfit, everywhere, texts, column_of)


def _kept(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    return rows.select([KEPT_PREFIX + name for name in names]).rename_columns(list(names)) if len(rows) else rows


def _text_places(names: Sequence[str], types: Mapping[str, pa.DataType]) -> dict[str, tuple[str, Steps]]:
    """Path → (column, steps within it) of every string in the columns."""
    return {path: (name, steps) for name in names for path, steps in text_places(name, types[name])}


def text_places(name: str, type_: pa.DataType) -> Iterator[tuple[str, Steps]]:
    """Paths to strings, and their steps from a cell: the column itself, or what lies within it."""
    if is_string(type_):
        yield name, ()
    elif pa.types.is_struct(type_) or is_list(type_):
        for steps in _steps_to_strings((), type_):
            yield _written((name, *steps)), steps


def cells_at(cells: pa.ChunkedArray, steps: Steps) -> list[str | None]:
    return [_value_at(cell, steps) for cell in cells.to_pylist()]


def _steps_to_strings(before: Steps, type_: pa.DataType) -> Iterator[Steps]:
    if is_string(type_):
        yield before
    elif len(before) < MOST_STEPS and pa.types.is_struct(type_):
        for field in type_:
            yield from _steps_to_strings((*before, field.name), field.type)
    elif len(before) < MOST_STEPS and is_list(type_):
        for item in range(ITEMS_LOOKED_AT):
            yield from _steps_to_strings((*before, item), type_.value_type)


def _written(steps: Steps) -> str:
    """A path as a pipeline file has it: `conversation[0].content`, with quotes around odd names."""
    parts = [f"[{step}]" if isinstance(step, int) else f".{_step(step)}" for step in steps]
    return "".join(parts)[1:]


def _step(name: str) -> str:
    return name if name and not set(name) & set('.[]"') else '"{}"'.format(name.replace('"', '""'))


def _value_at(value: Any, steps: Steps) -> str | None:
    for step in steps:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and step < len(value) else None
    return value if isinstance(value, str) else None


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
    """The rows as a run reads them, with `text` for the text."""
    dataset = source.reopened(text, list(names))
    dataset.use(_columns(dataset, names, types))
    files = looked_at(dataset)
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
            parts.append(_sound(rows).slice(0, max(1, ROWS_LOOKED_AT // len(files))))
    if not parts:
        raise failures[0] if failures else DatasetError("The source has no rows. Give one that has some.")
    return pa.concat_tables(parts)


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
