"""JSON Lines: a record a line; blank lines are no records.

orjson reads a line some five times faster than the standard library, and loses
three things: the digits of an integer beyond 64 bits, those of a number that no
double holds, and all but the last value of a key that is there several times.
Each leaves a trace in what it gives (a huge double, a double at all, fewer keys
than the line has), and lines with such a trace, or that it refuses, are read
again with nothing lost: see `exact_json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from tidemill.errors import FormatError
from tidemill.formats.records import Buffer, Offsets, RecordReader, has_lone_returns, line_ends
from tidemill.shards import Slice
from tidemill.values.columns import part_name
from tidemill.values.exact_json import as_json, kind_of, lone_surrogate, read_exactly, repeated_key
from tidemill.values.json_columns import JsonColumn, Record, inferred_type
from tidemill.values.parts import in_json, json_cells
from tidemill.values.paths import Steps, nested_among, type_at, values_at
from tidemill.values.rows import CONVERSION_ERRORS, Problems, build_rows, excerpt
from tidemill.values.types import common_type, without_nulls

_LINES_AT_ONCE = 250
"""So few that what is made of them stays in the processor's cache."""
_EXCERPT_BYTES = 200
_QUOTE, _COLON, _SPACE = b'": '
_IS_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\r\n\v\f", np.uint8))


class JsonlReader(RecordReader):
    """A key that a record lacks is null. A number in a column of strings is kept as its JSON."""

    content_seed = "jsonl"

    def schema(self) -> pa.Schema:
        return self._schema

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        common = common_type(a, b)
        return pa.string() if common is None else common

    def gives_back(self, name: str, to: pa.DataType) -> bool:
        lines, records = ([], []) if self.is_empty else self._first_records
        problems: Problems = {}
        column = JsonColumn(name, without_nulls(to), False, name in self.columns.keys, self._steps(name))
        column.settle(lines, values_at(records, column.steps), problems)
        return not problems

    @property
    def _schema(self) -> pa.Schema:
        return self._names_and_schema[1]

    @cached_property
    def _names_and_schema(self) -> tuple[list[str], pa.Schema]:
        """The keys of the first records, and the columns: those, and what is asked for within them."""
        if self.is_empty:
            return [], pa.schema([])
        lines, records = self._first_records
        names, keys = list(dict.fromkeys(name for record in records for name in record)), self.columns.keys
        nested = nested_among(self.columns.sources, names)
        # What lies within a column may be told by the column's own type.
        settled = {
            name: type_ for name, type_ in self.columns.types if all(name != steps[0] for steps in nested.values())
        }
        types = {
            name: settled[name] if name in settled else inferred_type((name,), lines, records, is_key=name in keys)
            for name in names
        }
        for name, steps in nested.items():
            shown = inferred_type(steps, lines, records, is_key=name in keys)
            # Where no record has a value there, it may be for want of such a field.
            found = type_at(types[str(steps[0])], steps) if pa.types.is_null(shown) else shown
            if found is not None:
                types[name] = found
        types |= {name: type_ for name, type_ in self.columns.types if name in types}
        for name in self.columns.texts:
            # Some numbers among strings are bad rows; a column without strings is the wrong column.
            if any(isinstance(value, str) for value in values_at(records, nested.get(name, (name,)))):
                types[name] = pa.string()
        return names, pa.schema(list(types.items()))

    def _steps(self, name: str) -> Steps:
        return nested_among([name], self._names_and_schema[0]).get(name, (name,))

    @property
    def _first_records(self) -> tuple[list[bytes], list[Record]]:
        data, _ = self.sample(self.body_start)
        problems: Problems = {}
        lines = _lines(data)
        records = _load(lines, problems)
        if lines and (kind := self._other_json(lines, problems)):
            raise FormatError(f"{self.path} is {kind}")
        good = [index for index in range(len(lines)) if index not in problems]
        return [lines[i] for i in good], [records[i] for i in good]

    def _other_json(self, lines: Sequence[bytes], problems: Problems) -> str | None:
        """What a file is that is no JSON Lines, by its first lines, and what to do about it."""
        first = lines[0].strip()
        if first.startswith(b"[") and ((0 in problems and not first.endswith(b"]")) or len(problems) == len(lines)):
            return 'one JSON array. Set dataset.format = "json" to read its elements.'
        if first == b"{":
            return (
                "a JSON object over several lines. Set dataset.field to where its array of records is, such as "
                '"data", or write one JSON object a line.'
            )
        if len(problems) < len(lines):
            return None
        return f"not JSON Lines ({problems[0]}). Write one JSON object a line, or leave the file out."

    def ends(self, data: Buffer, *, last: bool) -> Offsets:
        ends = line_ends(data, last=last)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        suspects = np.flatnonzero(_IS_SPACE[np.frombuffer(data, np.uint8)[starts]])
        if not len(suspects):
            return ends
        blank = [i for i in suspects.tolist() if bytes(data[starts[i] : ends[i]]).isspace()]
        return np.delete(ends, blank)

    def changed_seed(self, data: bytes) -> str:
        # That a CR ends a record was not always so.
        return f"{self.content_seed}, CR" if has_lone_returns(data) else self.content_seed

    def parse(self, cut: Slice, data: bytes) -> pa.Table:
        lines = _lines(data, only_lf=self.is_former(cut, data))
        problems: Problems = {}
        shown = {field.name: field.type for field in self._schema} | dict(self.columns.types)
        types = {name: without_nulls(type_) for name, type_ in shown.items()}
        parts = []
        for start in range(0, len(lines), _LINES_AT_ONCE):
            found: Problems = {}
            parts.append(self._table(lines[start : start + _LINES_AT_ONCE], types, found))
            problems.update({start + index: reason for index, reason in found.items()})
        return build_rows(cut.first_row, pa.concat_tables(parts), self.columns, types, problems)

    def _table(self, lines: Sequence[bytes], types: dict[str, pa.DataType], problems: Problems) -> pa.Table:
        records = _load(lines, problems)
        places = {name: self._steps(name) for name in self.columns.sources}
        if _has_more_keys(b"".join(lines), records):
            _empty_repeating(records, lines, [str(steps[0]) for steps in places.values()], problems)
        table = {}
        for name, steps in places.items():
            values = values_at(records, steps)
            if name in self.columns.texts and self.columns.as_parts:
                table[part_name(name)] = _parts(values, name, problems)
                if name not in self.columns.kept_sources:
                    continue
            if name in self.columns.texts and (not self.columns.as_parts or name not in types):
                table[name] = _texts(values, name, problems)
            else:
                is_converted, is_key = name in self.columns.converted, name in self.columns.keys
                column = JsonColumn(name, types[name], is_converted, is_key, steps)
                table[name] = column.settle(lines, values, problems)
        return pa.table(table)


def _lines(data: bytes, *, only_lf: bool = False) -> list[bytes]:
    lines = data.split(b"\n") if only_lf or b"\r" not in data else data.splitlines()
    return [line for line in lines if line and not line.isspace()]


def _load(lines: Sequence[bytes], problems: Problems) -> list[Record]:
    """A record a line; those of malformed lines are empty."""
    try:
        records = [orjson.loads(line) for line in lines]
    except orjson.JSONDecodeError:
        records = [_load_one(line, index, problems) for index, line in enumerate(lines)]
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            problems[index] = f"malformed record: {kind_of(record)}, not an object: {excerpt(record)}"
            records[index] = {}
    return records


def _load_one(line: bytes, index: int, problems: Problems) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        line.decode()
    except UnicodeDecodeError as e:
        problems[index] = f"malformed record: not valid UTF-8 at byte {e.start}: {excerpt(line[:_EXCERPT_BYTES])}"
    try:
        return read_exactly(line)
    except (ValueError, RecursionError) as e:
        problems.setdefault(index, f"malformed record: {e}: {excerpt(line[:_EXCERPT_BYTES])}")
        return {}


def _empty_repeating(records: list[Record], lines: Sequence[bytes], names: Sequence[str], problems: Problems) -> None:
    """Note and empty the records in which a key that is asked for is there twice: which value is meant?"""
    for index, (line, record) in enumerate(zip(lines, records, strict=True)):
        if index in problems or not _has_more_keys(line, record):
            continue
        if what := _repetition(line, names):
            problems[index] = f"malformed record: {what}: {excerpt(line[:_EXCERPT_BYTES])}"
            records[index] = {}


def _repetition(line: bytes, names: Sequence[str]) -> str | None:
    try:
        path = repeated_key(read_exactly(line), names)
    except RecursionError:
        return "nested too deep"
    return f"the key {path} is there twice" if path else None


def _has_more_keys(data: bytes, read: Any) -> bool:
    """Whether JSON may have more keys than what was read of it, which has each once."""
    try:
        return _num_key_ends(data) != _num_key_ends(orjson.dumps(read))
    except TypeError:  # it was not orjson that read it
        return True


def _num_key_ends(data: bytes) -> int:
    """How often a quote and a colon follow each other, as at the end of a key, or in a string."""
    values = np.frombuffer(data, np.uint8)
    quotes, colons = values == _QUOTE, values == _COLON
    spaced = quotes[:-2] & (values[1:-1] == _SPACE) & colons[2:]
    return int(np.count_nonzero(quotes[:-1] & colons[1:]) + np.count_nonzero(spaced))


def _parts(values: list[Any], name: str, problems: Problems) -> pa.Array:
    return json_cells([_part(value, name, index, problems) for index, value in enumerate(values)])


def _part(value: Any, name: str, index: int, problems: Problems) -> str | None:
    """The JSON of a string, or of a list of messages; of a number or a boolean, that of how it is written."""
    if not isinstance(value, list):
        value = as_json(value) if isinstance(value, int | float) else _text(value, name, index, problems)
    try:
        return None if value is None else in_json(value)
    except TypeError as e:
        problems.setdefault(index, f"{name} cannot be read: {e}")
        return None


def _texts(values: list[Any], name: str, problems: Problems) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except CONVERSION_ERRORS:
        return pa.array([_text(value, name, index, problems) for index, value in enumerate(values)], pa.string())


def _text(value: Any, name: str, index: int, problems: Problems) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        problems.setdefault(index, f"{name} is {kind_of(value)}, not a string: {excerpt(value)}")
        return None
    if (at := lone_surrogate(value)) is not None:
        problems.setdefault(index, f"{name} holds a lone surrogate at character {at}")
        return None
    return value
