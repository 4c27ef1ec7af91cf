"""A row whose columns stay apart: its text is the JSON of their values, in order.

A value is a string, or a list of messages: objects of a role and what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
import pyarrow as pa

JSON = pa.json_(pa.string())
"""Of a column whose cells are values in JSON, as files of text have them."""

A_CHAT = '[[{"role":"user","content":"a"}]]'
"""The text of a row that is a list of messages."""

Note = Callable[[int, str], object]
"""Told a row's number, and why it cannot be used."""


def part_texts(columns: Sequence[Sequence[Any]], names: Sequence[str], note: Note) -> pa.StringArray:
    """A text a row of the values of its columns; null, and noted, where one is null."""
    texts = [_text(row, names, number, note) for number, row in enumerate(zip(*columns, strict=True))]
    return pa.array(texts, pa.string())


def _text(row: tuple[Any, ...], names: Sequence[str], number: int, note: Note) -> str | None:
    for name, value in zip(names, row, strict=True):
        if value is None:
            note(number, f"{name} is null")
            return None
    try:
        return orjson.dumps([_without_nulls(value) for value in row]).decode()
    except (TypeError, UnicodeEncodeError) as e:
        note(number, f"{' and '.join(names)} cannot be read as text: {e}")
        return None


def _without_nulls(value: Any) -> Any:
    """A field without a value is none: whether a format has it at all says nothing."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def values_of(cells: pa.ChunkedArray) -> list[Any]:
    """The values of a column of `JSON`."""
    stored = (cell for chunk in cells.chunks for cell in chunk.storage.to_pylist())
    return [None if cell is None else orjson.loads(cell) for cell in stored]


def json_cells(values: Iterable[str | None]) -> pa.Array:
    """A column of `JSON` of what is JSON already."""
    return pa.ExtensionArray.from_storage(JSON, pa.array(values, pa.string()))


def in_json(value: Any) -> str:
    """
    Raises:
        TypeError: it cannot be said in UTF-8, or is nested too deep.
    """
    return orjson.dumps(value, default=float).decode()


def written_messages(cells: pa.ChunkedArray, name: str, note: Note) -> pa.Array:
    """A column of `JSON` of cells that are lists of messages as they were written; others are noted."""
    written: list[str | None] = []
    for number, cell in enumerate(cells.to_pylist()):
        messages = None if cell is None else _messages(cell)
        if cell is not None and messages is None:
            note(number, f"{name} is no list of messages, as most of the file's first rows have it")
        written.append(None if messages is None else in_json(messages))
    return json_cells(written)


def are_messages(cells: pa.ChunkedArray) -> bool:
    """Whether most cells that say something are lists of messages, as they were written."""
    filled = [cell for cell in cells.to_pylist() if cell]
    return 2 * sum(_messages(cell) is not None for cell in filled) > len(filled)


def are_chats(type_: pa.DataType) -> bool:
    """Whether a column's values are lists of messages, as a file's first rows show it."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or type_.equals(JSON))


def is_readable(type_: pa.DataType) -> bool:
    """Whether a plain type's values are parts of a row: what can be said as one string, or lists of messages."""
    is_type = pa.types
    if is_type.is_list(type_) or is_type.is_large_list(type_):
        return bool(is_type.is_struct(type_.value_type) or is_type.is_null(type_.value_type))
    return not (is_type.is_nested(type_) or isinstance(type_, pa.BaseExtensionType))


def _messages(cell: bytes) -> list[Any] | None:
    try:
        found = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return None
    is_list = isinstance(found, list) and bool(found)
    return found if is_list and all(map(_has_role, found)) else None


def _has_role(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)
