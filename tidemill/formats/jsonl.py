"""JSON Lines: a record a line; blank lines are no records.

orjson reads a line some five times faster than the standard library. Where it
refuses one, the standard library decides, which takes NaN and lone surrogates
and says what is wrong with the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tidemill.errors import FormatError
from tidemill.formats.records import Buffer, Offsets, RecordReader, line_ends
from tidemill.formats.rows import CONVERSION_ERRORS, Problems, build_rows, cannot_settle, excerpt, is_string
from tidemill.shards import Slice

_LINES_AT_ONCE = 1000
_EXCERPT_BYTES = 200
_SPACES = np.frombuffer(b" \t\r\n\v\f", np.uint8)
_SURROGATES = re.compile("[\ud800-\udfff]")
_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}

Record = dict[str, Any]


class JsonlReader(RecordReader):
    """A key that a record lacks is null. A number in a column of strings is kept as its JSON."""

    content_seed = "jsonl"

    def schema(self) -> pa.Schema:
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        if self.is_empty:
            return pa.schema([])
        records = self._first_records()
        names = dict.fromkeys(name for record in records for name in record)
        values = {name: [record.get(name) for record in records] for name in names}
        types = {name: _inferred(found) for name, found in values.items()} | dict(self.columns.types)
        for name in self.columns.text:
            # Some numbers among strings are bad rows; a column without strings is the wrong column.
            if any(isinstance(value, str) for value in values.get(name, ())):
                types[name] = pa.string()
        return pa.schema(list(types.items()))

    def _first_records(self) -> list[Record]:
        data, _ = self.sample(self.body_start)
        problems: Problems = {}
        lines = _lines(data)
        records = _load(lines, problems)
        if lines and len(problems) == len(lines):
            kind = "one JSON array" if lines[0].lstrip().startswith(b"[") else f"not JSON Lines ({problems[0]})"
            raise FormatError(f"{self.path} is {kind}. Write one JSON object a line, or leave the file out.")
        return [record for index, record in enumerate(records) if index not in problems]

    def ends(self, data: Buffer, *, last: bool) -> Offsets:
        ends = line_ends(data, last=last)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        suspects = np.flatnonzero(np.isin(np.frombuffer(data, np.uint8)[starts], _SPACES))
        blank = [i for i in suspects.tolist() if bytes(data[starts[i] : ends[i]]).isspace()]
        return np.delete(ends, blank)

    def parse(self, cut: Slice, data: bytes) -> pa.Table:
        lines = _lines(data)
        problems: Problems = {}
        types = {field.name: field.type for field in self._schema}
        parts = []
        for start in range(0, len(lines), _LINES_AT_ONCE):
            found: Problems = {}
            parts.append(self._table(lines[start : start + _LINES_AT_ONCE], types, found))
            problems.update({start + index: reason for index, reason in found.items()})
        return build_rows(cut.first_row, pa.concat_tables(parts), self.columns, types, problems)

    def _table(self, lines: Sequence[bytes], types: dict[str, pa.DataType], problems: Problems) -> pa.Table:
        records = _load(lines, problems)
        table = {}
        for name in self.columns.sources:
            values = [record.get(name) for record in records]
            if name in self.columns.text:
                table[name] = _texts(values, name, problems)
            else:
                table[name] = _settled(values, types[name], name, problems)
        return pa.table(table)


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line and not line.isspace()]


def _load(lines: Sequence[bytes], problems: Problems) -> list[Record]:
    """A record a line; those of malformed lines are empty."""
    try:
        records = [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError:
        records = [_load_one(line, index, problems) for index, line in enumerate(lines)]
    for index, record in enumerate(records):
        if type(record) is not dict:
            problems[index] = f"malformed record: {_JSON_NAMES[type(record)]}, not an object: {excerpt(record)}"
            records[index] = {}
    return records


def _load_one(line: bytes, index: int, problems: Problems) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        text = line.decode()
    except UnicodeDecodeError as e:
        problems[index] = f"malformed record: not valid UTF-8 at byte {e.start}: {excerpt(line[:_EXCERPT_BYTES])}"
        text = line.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        problems.setdefault(index, f"malformed record: {e}: {excerpt(line[:_EXCERPT_BYTES])}")
        return {}


def _texts(values: list[Any], name: str, problems: Problems) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except CONVERSION_ERRORS:
        return pa.array([_text(value, name, index, problems) for index, value in enumerate(values)], pa.string())


def _text(value: Any, name: str, index: int, problems: Problems) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        problems.setdefault(index, f"{name} is {_JSON_NAMES[type(value)]}, not a string: {excerpt(value)}")
        return None
    if lone := _SURROGATES.search(value):
        problems.setdefault(index, f"{name} holds a lone surrogate at character {lone.start()}")
        return None
    return value


def _settled(values: list[Any], to: pa.DataType, name: str, problems: Problems) -> pa.Array:
    try:
        return _convert(values, to)
    except CONVERSION_ERRORS:
        return pa.array([_cell(value, to, name, i, problems) for i, value in enumerate(values)], to)


def _convert(values: list[Any], to: pa.DataType) -> pa.Array:
    """The values as a column; what a conversion would change is refused."""
    if pa.types.is_nested(to):
        return pa.array(values, to)
    # By way of their own type: built as integers at once, 2.5 would become 2.
    natural = pa.array(values)
    if natural.type == to or pa.types.is_null(natural.type):
        return natural.cast(to)
    if is_string(to) or pa.types.is_boolean(natural.type) or (pa.types.is_boolean(to) and not is_string(natural.type)):
        raise pa.ArrowInvalid(f"{natural.type} is not {to}")
    return natural.cast(to)


def _cell(value: Any, to: pa.DataType, name: str, index: int, problems: Problems) -> Any:
    if value is None:
        return None
    if is_string(to):
        return _string_cell(value, name, index, problems)
    try:
        return _convert([value], to)[0].as_py()
    except CONVERSION_ERRORS:
        problems.setdefault(index, cannot_settle(name, value, to))
        return None


def _string_cell(value: Any, name: str, index: int, problems: Problems) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if lone := _SURROGATES.search(text):
        problems.setdefault(index, f"{name} holds a lone surrogate at character {lone.start()}")
        return _SURROGATES.sub("\ufffd", text)
    return text


def _inferred(values: list[Any]) -> pa.DataType:
    try:
        return _without_nulls(pa.array(values).type)
    except CONVERSION_ERRORS:
        return pa.string()


def _without_nulls(type_: pa.DataType) -> pa.DataType:
    """A type seen only as null, at any depth, may well become strings later."""
    if pa.types.is_null(type_):
        return pa.string()
    if pa.types.is_list(type_):
        return pa.list_(_without_nulls(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _without_nulls(field.type)) for field in type_])
    return type_
