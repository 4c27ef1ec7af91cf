"""The one table of rows: texts joined and checked, kept columns settled, a reason for each row that cannot be used.

Whole columns are converted at once. Only where that fails are the failing cells
looked for, by halving, so that good files never pay for bad rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import SchemaError
from tidemill.values.columns import Columns, part_name
from tidemill.values.parts import JSON, is_readable, part_texts, values_of
from tidemill.values.paths import dead_end, nested_among
from tidemill.values.types import drops_fields, is_string, plain_type

Problems = dict[int, str]
"""Why rows cannot be processed, by their index in the table; the first reason stays."""

CommonType = Callable[[pa.DataType, pa.DataType], pa.DataType | None]

CONVERSION_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError, TypeError, ValueError)
_MOST_STRING_BYTES = 2**31 - 1
_EXCERPT_LENGTH = 80
_CELLS_AT_ONCE = 256


def check_columns(schema: pa.Schema, columns: Columns, path: str) -> None:
    """Check that the columns asked for exist, once each, and that the text columns hold strings, or bytes.

    Raises:
        SchemaError: they do not; the message lists the columns that there are, nearest first.
    """
    _check_once(schema, columns, path)
    for name in columns.required:
        if name not in schema.names:
            raise SchemaError(_missing(name, schema, columns, path))
    for name in columns.texts:
        type_ = plain_type(schema.field(name).type)
        if columns.as_parts and is_readable(type_):
            continue
        if not (is_string(type_) or pa.types.is_binary(type_) or pa.types.is_null(type_)):
            raise SchemaError(
                f"{path}: the text column {name!r} has type {type_}, not string. "
                f"Choose a column of strings{' or of chats' if columns.as_parts else ''} as "
                f"{_option(name, columns)}: {_string_columns(schema)}."
            )


def settle_schema(shown: Mapping[str, pa.Schema], columns: Columns, common_type: CommonType) -> pa.Schema:
    """The columns of several files, by path; key and kept ones of the type that holds what every file shows.

    Raises:
        SchemaError: there is none, or a column asked for is there twice in one file.
    """
    settled = dict(columns.types)
    united = {source for source, _ in columns.kept if source not in settled}
    types: dict[str, pa.DataType] = {}
    origins: dict[str, str] = {}
    for path, schema in shown.items():
        _check_once(schema, columns, path)
        for name, type_ in zip(schema.names, schema.types, strict=True):
            known = types.setdefault(name, type_)
            common = common_type(known, type_) if name in united or pa.types.is_null(known) else known
            if common is None:
                raise SchemaError(
                    f"The column {name!r} is {type_} in {path}, but {known} in {origins[name]}. Write the files with "
                    f"one type, settle it by dataset.types, or leave {name!r} out of dataset.keep and dataset.key."
                )
            if not common.equals(known) or name not in origins:
                types[name], origins[name] = common, path
    return pa.schema(list(types.items()))


def _check_once(schema: pa.Schema, columns: Columns, path: str) -> None:
    for name in columns.sources:
        if (count := schema.names.count(name)) > 1:
            raise SchemaError(f"{path} has {count} columns named {name!r}. Rename them in the file or choose another.")


def _missing(name: str, schema: pa.Schema, columns: Columns, path: str) -> str:
    option = _option(name, columns)
    for steps in nested_among([name], schema.names).values():
        if len(steps) > 1:
            return f"{path}: {dead_end(schema.field(steps[0]).type, steps)}. Change {name!r} in {option}."
    nearest = sorted(
        schema.names, key=lambda other: -difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()
    )
    has = ", ".join(map(_shown_name, nearest)) or "none"
    return f"{path} has no column {name!r}. It has: {has}. Set {option} to one of them."


def _option(name: str, columns: Columns) -> str:
    """What asks for a column."""
    if name in columns.text:
        return "dataset.text"
    return "dataset.text_pair" if name in columns.pair else "dataset.key or dataset.keep"


def _shown_name(name: str) -> str:
    return name if name == name.strip() != "" else repr(name)


def _string_columns(schema: pa.Schema) -> str:
    return ", ".join(f.name for f in schema if is_string(plain_type(f.type))) or "there is none in this file"


def stored(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as an extension type stores it; another column as it is."""
    if not isinstance(values.type, pa.BaseExtensionType):
        return values
    return pa.chunked_array([chunk.storage for chunk in values.chunks], values.type.storage_type)


def build_rows(
    first_row: int, table: pa.Table, columns: Columns, types: Mapping[str, pa.DataType], problems: Problems
) -> pa.Table:
    """The table of rows from the source columns, one row a record, text columns as strings or bytes if there are any.

    `types` are what kept columns become; one that is missing stays as it is.
    `problems` are the rows already known to be malformed.

    Raises:
        SchemaError: a kept column's type cannot be converted to its settled type at all.
    """
    problems = dict(problems)
    read = _parts(table, columns, problems) if columns.as_parts else _texts(table, columns, problems)
    kept = [_kept_column(table, name, types.get(name), problems) for name, _ in columns.kept]
    reason = _reasons(table.num_rows, read, problems)
    if problems or (columns.pair and reason.null_count < len(reason)):
        read = {name: pc.if_else(reason.is_null(), text, pa.scalar(None, text.type)) for name, text in read.items()}
    numbers = _row_numbers(first_row, table.num_rows)
    names = [name for _, name in columns.kept]
    return pa.table([numbers, *read.values(), reason, *kept], names=["row_number", *read, "reason", *names])


def _texts(table: pa.Table, columns: Columns, problems: Problems) -> dict[str, pa.ChunkedArray]:
    texts = {"text": columns.text, "text_pair": columns.pair} if columns.pair else {"text": columns.text}
    return {
        name: decoded(_joined([table[part] for part in parts], columns.separator), name, problems)
        for name, parts in texts.items()
        if parts
    }


def _parts(table: pa.Table, columns: Columns, problems: Problems) -> dict[str, pa.ChunkedArray]:
    there = table.column_names
    cells = [table[part_name(name)] if part_name(name) in there else table[name] for name in columns.text]
    values = [_values(column, name, problems) for column, name in zip(cells, columns.text, strict=True)]
    return {"text": pa.chunked_array([part_texts(values, columns.text, problems.setdefault)])}


def _values(cells: pa.ChunkedArray, name: str, problems: Problems) -> list[Any]:
    """A column's strings, or its lists; whatever else it holds as text."""
    if cells.type.equals(JSON):
        return values_of(cells)
    kind = plain_type(cells.type)
    if pa.types.is_nested(kind):
        return list(_checked_nested(cells, name, problems).to_pylist())
    is_text = is_string(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)
    return list(decoded(cells if is_text else stored(cells).cast(pa.string()), name, problems).to_pylist())


def _kept_column(table: pa.Table, name: str, to: pa.DataType | None, problems: Problems) -> pa.ChunkedArray:
    if name not in table.schema.names:
        return pa.chunked_array([pa.nulls(table.num_rows, plain_type(to))])
    return settled(table[name], table[name].type if to is None else to, name, problems)


def _row_numbers(first_row: int, num_rows: int) -> pa.Array:
    # Not by pa.array, which imports pandas when it sees an array of numpy.
    numbers = np.arange(first_row, first_row + num_rows, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), num_rows, [None, pa.py_buffer(numbers)])


def _joined(texts: list[pa.ChunkedArray], separator: str) -> pa.ChunkedArray:
    if len(texts) == 1:
        return texts[0]
    # Joined as bytes: whether they are UTF-8 is checked once, on the result.
    parts = [as_bytes(text) for text in texts]
    glue = pa.scalar(separator.encode(), parts[0].type)
    joined = pc.binary_join_element_wise(*parts, glue, null_handling="replace", null_replacement=b"")
    some = [part.is_valid() for part in parts]
    any_valid = some[0]
    for valid in some[1:]:
        any_valid = pc.or_(any_valid, valid)
    return pc.if_else(any_valid, joined, pa.scalar(None, joined.type))


def as_bytes(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings of any kind as bytes, unchecked; with large offsets where a run of them needs it."""
    values = stored(values)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_string() if pa.types.is_string_view(values.type) else pa.large_binary())
    if pa.types.is_null(values.type):
        return values.cast(pa.binary())
    wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    if wide and all(chunk.nbytes < _MOST_STRING_BYTES for chunk in values.chunks):
        return values.cast(pa.large_binary()).cast(pa.binary())
    return values.cast(pa.large_binary() if wide else pa.binary())


def decoded(values: pa.ChunkedArray, name: str, problems: Problems) -> pa.ChunkedArray:
    """Bytes or unchecked strings as strings; what is not UTF-8 is noted and has its bad bytes replaced."""
    raw = as_bytes(values)
    to = pa.large_string() if pa.types.is_large_binary(raw.type) else pa.string()
    try:
        return raw.cast(to)
    except pa.ArrowInvalid:
        pass
    cells = one_array(raw)
    bad = [i for start, part in _suspects(cells, to) for i in _undecodable(part, start)]
    texts = []
    for index in bad:
        cell = cells[index].as_py()
        problems.setdefault(index, f"{name} is not valid UTF-8 {where_invalid(cell)}")
        texts.append(cell.decode("utf-8", "replace").encode())
    mask = np.zeros(len(cells), bool)
    mask[bad] = True
    fixed = pc.replace_with_mask(cells, pa.array(mask), pa.array(texts, cells.type))
    return pa.chunked_array([fixed.cast(to)])


def _suspects(cells: pa.Array, to: pa.DataType) -> Iterator[tuple[int, pa.Array]]:
    """The runs of cells that hold invalid ones, and where they start."""
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        part = cells[start : start + _CELLS_AT_ONCE]
        try:
            part.cast(to)
        except pa.ArrowInvalid:
            yield start, part


def _undecodable(cells: pa.Array, start: int) -> Iterator[int]:
    for index, cell in enumerate(cells):
        raw = cell.as_py()
        try:
            if raw is not None:
                raw.decode()
        except UnicodeDecodeError:
            yield start + index


def where_invalid(cell: bytes) -> str:
    """Where the first invalid byte is, and whether it begins an encoded surrogate."""
    try:
        cell.decode()
    except UnicodeDecodeError as e:
        surrogate = cell[e.start] == 0xED and cell[e.start + 1 : e.start + 2] >= b"\xa0"
        return f"at byte {e.start}" + (" (a lone surrogate)" if surrogate else "")
    raise AssertionError("the cell is valid UTF-8")


def settled(values: pa.ChunkedArray, to: pa.DataType, name: str, problems: Problems) -> pa.ChunkedArray:
    """A kept column in its settled type; cells that cannot become it are noted, and null."""
    to = plain_type(to)
    if isinstance(to, pa.UuidType):
        sixteen_bytes = settled(values, to.storage_type, name, problems)
        return pa.chunked_array([pa.ExtensionArray.from_storage(to, chunk) for chunk in sixteen_bytes.chunks], to)
    values = stored(values)
    kind = plain_type(values.type)
    if pa.types.is_string(to) and (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        return decoded(values, name, problems)
    if kind != values.type:
        values = values.cast(kind)
    if pa.types.is_decimal(kind) and pa.types.is_floating(to):  # Arrow 26 rounds twice: 0.3 would not be 0.3
        values, kind = values.cast(pa.string()), pa.string()
    if kind.equals(to):
        return _checked_nested(values, name, problems)
    try:
        if drops_fields(kind, to):  # as a cast would, without a word
            raise pa.ArrowNotImplementedError(f"{kind} has fields that {to} lacks")
        return _checked_nested(values.cast(to), name, problems)
    except pa.ArrowNotImplementedError as e:
        raise SchemaError(
            f"The column {name!r} has type {kind} in one file and {to} in the table. "
            f"Take it out of dataset.keep, or make the files agree."
        ) from e
    except CONVERSION_ERRORS:
        return _settled_cells(one_array(values), to, name, problems)


def _settled_cells(cells: pa.Array, to: pa.DataType, name: str, problems: Problems) -> pa.ChunkedArray:
    bad = _uncastable(cells, to)
    for index in bad:
        problems.setdefault(index, cannot_settle(name, _value(cells, index), to))
    return pa.chunked_array([nulled(cells, bad).cast(to)])


def _uncastable(cells: pa.Array, to: pa.DataType) -> list[int]:
    if not is_string(cells.type):
        return failing(cells, lambda part: _alone(part).cast(to))
    # The same wrong string is often there many times: each is tried once.
    codes = cells.dictionary_encode()
    wrong = failing(codes.dictionary, lambda part: part.cast(to))
    found: list[int] = np.flatnonzero(np.isin(codes.indices.fill_null(-1).to_numpy(), wrong)).tolist()
    return found


def _value(cells: pa.Array, index: int) -> object:
    cell = cells[index]
    if is_string(cell.type):
        return cell.as_buffer().to_pybytes()
    try:
        return cell.as_py()
    except (OverflowError, ValueError):  # a time that Python has none for
        return " ".join(cells[index : index + 1].to_string().split())


def cannot_settle(name: str, value: object, to: pa.DataType) -> str:
    return f"{name} = {excerpt(value)} is not {to}; dataset.types can settle the column's type"


def _checked_nested(values: pa.ChunkedArray, name: str, problems: Problems) -> pa.ChunkedArray:
    # Arrow does not check strings that it reads from Parquet, and neither would
    # the table's writer: an invalid one must not get there inside a list.
    if not pa.types.is_nested(values.type):
        return values
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        cells = one_array(values)
        bad = failing(cells, lambda part: _alone(part).validate(full=True))
        for index in bad:
            problems.setdefault(index, f"{name} holds a string that is not valid UTF-8")
        return pa.chunked_array([nulled(cells, bad)])
    return values


def failing(cells: pa.Array, attempt: Callable[[pa.Array], object]) -> list[int]:
    """The indices of the cells at which `attempt` fails, found by halving."""
    try:
        attempt(cells)
        return []
    except CONVERSION_ERRORS:
        if len(cells) == 1:
            return [0]
    half = len(cells) // 2
    return failing(cells[:half], attempt) + [half + index for index in failing(cells[half:], attempt)]


def _alone(part: pa.Array) -> pa.Array:
    """A nested slice without its neighbours' children, which casts and checks would look at."""
    return part.take(pa.array(range(len(part)))) if pa.types.is_nested(part.type) else part


def nulled(cells: pa.Array, indices: list[int]) -> pa.Array:
    takes = np.arange(len(cells))
    gone = np.zeros(len(cells), bool)
    gone[indices] = True
    return cells.take(pa.array(takes, mask=gone))


def excerpt(value: object) -> str:
    """A value for a message, cut short."""
    shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    try:
        text = repr(shown)
    except RecursionError:
        return "nested too deep to show"
    return text if len(text) <= _EXCERPT_LENGTH else text[:_EXCERPT_LENGTH] + "…"


def _reasons(num_rows: int, texts: Mapping[str, pa.ChunkedArray], problems: Problems) -> pa.Array:
    """Why rows cannot be used: what is known of them, else which text is null."""
    reasons = pa.nulls(num_rows, pa.string())
    for name, text in reversed([*texts.items()]):
        if text.null_count:
            reasons = pc.if_else(one_array(text.is_null()), pa.scalar(f"{name} is null"), reasons)
    if not problems:
        return reasons
    mask = np.zeros(len(reasons), bool)
    mask[list(problems)] = True
    return pc.replace_with_mask(reasons, pa.array(mask), pa.array([problems[i] for i in sorted(problems)], pa.string()))


def one_array(values: pa.ChunkedArray) -> pa.Array:
    combined = values.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
