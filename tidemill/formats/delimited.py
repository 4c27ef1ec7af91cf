"""CSV: quoted fields may hold delimiters and newlines, and records are counted as the parser counts them.

A quote opens a field only at the field's start and is an ordinary character
elsewhere, so that `5" disk` does not swallow what follows. Nor does one that is
never closed: it spoils the line that it stands in. LF, CRLF and CR end a record;
blank lines are no records. Fields of Python's csv module, DuckDB and pyarrow
agree on the rest.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv as pacsv

from tidemill.errors import ConfigError, FormatError
from tidemill.fingerprints import fingerprint
from tidemill.formats.names import is_tsv
from tidemill.formats.records import BOM, Buffer, Offsets, RecordReader, positions
from tidemill.formats.streams.arrays import escaped_places
from tidemill.formats.streams.source import ByteSource
from tidemill.shards import Slice
from tidemill.values.cells import as_written, gives_back, inferred_type, trimmed
from tidemill.values.columns import Columns
from tidemill.values.parts import JSON, are_messages, written_messages
from tidemill.values.rows import Problems, build_rows, excerpt
from tidemill.values.types import common_type, is_string, without_nulls

_LF, _CR = 10, 13
_LETTER = ord("x")
_DEFAULT_QUOTE = '"'
_EXCERPT_BYTES = 200
_FEW_BYTES = 2**14


class CsvReader(RecordReader):
    """An empty cell is an empty string, and null in a kept column of another type; `NA` and its like are text."""

    def __init__(self, source: ByteSource, columns: Columns) -> None:
        super().__init__(source, columns)
        self._quote, self._escape = columns.quote, columns.escape
        for option, value in (("delimiter", columns.delimiter), ("quote", self._quote), ("escape", self._escape)):
            if not value.isascii() or value in ("\r", "\n"):
                raise ConfigError(f"dataset.{option} = {value!r} must be an ASCII character but no newline.")
        for option, value in (("quote", self._quote), ("escape", self._escape)):
            if value == columns.delimiter:
                raise ConfigError(f"dataset.delimiter = {value!r} must be another character than dataset.{option}.")
        if self._escape and self._escape == self._quote:
            raise ConfigError(
                f"dataset.escape = {self._escape!r} is dataset.quote too. A doubled quote is read as one without it: "
                f"remove dataset.escape."
            )

    @cached_property
    def _delimiter(self) -> str:
        by_tabs = self.columns.delimiter == "," and is_tsv(self._bytes.name)
        return "\t" if by_tabs else self.columns.delimiter

    def schema(self) -> pa.Schema:
        return self._schema

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        """A double for numbers, else a string for what two files write in different ways: a date has no hour."""
        if pa.types.is_null(a) or pa.types.is_null(b):
            return b if pa.types.is_null(a) else a
        is_alike = all(map(_is_number, (a, b))) or all(map(pa.types.is_timestamp, (a, b)))
        return common_type(a, b) if is_alike else a if a.equals(b) else pa.string()

    def gives_back(self, name: str, to: pa.DataType) -> bool:
        if self.is_empty or name not in self._header.names:
            return True
        return gives_back(self._first_cells([name])[name], to, is_key=name in self.columns.keys)

    @cached_property
    def _schema(self) -> pa.Schema:
        if self.is_empty:
            return pa.schema([])
        names = self._header.names
        texts = dict.fromkeys(self.columns.texts, JSON if self._has_messages else pa.string())
        types = self._inferred_types() | dict(self.columns.types) | texts
        return pa.schema([(name, types.get(name, pa.string())) for name in names])

    @cached_property
    def _has_messages(self) -> bool:
        """Whether the text column is one of messages, off the first records."""
        names = self.columns.text
        if not self.columns.as_parts or len(names) > 1 or self._header.names.count(names[0]) != 1:
            return False
        return are_messages(self._first_cells(names)[names[0]])

    def _inferred_types(self) -> dict[str, pa.DataType]:
        """The types of key and kept columns, off the first records. One that is there twice is refused elsewhere."""
        settled = (*self.columns.texts, *dict(self.columns.types))
        names = [name for name, _ in self.columns.kept if self._header.names.count(name) == 1 and name not in settled]
        if not names:
            return {}
        table = self._first_cells(names)
        return {name: inferred_type(table[name], is_key=name in self.columns.keys) for name in names}

    def _first_cells(self, names: Sequence[str]) -> pa.Table:
        data = self._header.few_records or self.sample(self.body_start)[0]
        return self._read_fields(data, names)[0]

    def ends(self, data: Buffer, *, last: bool) -> Offsets:
        return self._scan(data, last=last).ends

    @property
    def body_start(self) -> int:
        return self._header.stop

    @property
    def content_seed(self) -> str:
        quoted = () if self._quote == _DEFAULT_QUOTE else (f"quote {self._quote}",)
        escaped = (f"escape {self._escape}",) if self._escape else ()
        return fingerprint("csv", self._delimiter, *self._header.names, *quoted, *escaped)

    def changed_seed(self, data: bytes) -> str:
        # That a quote which is never closed spoils one line alone was not always so.
        recovers = not self._escape and self._may_be_unclosed(data) and self._scan(data).unclosed is not None
        return f"{self.content_seed}, recovered" if recovers else self.content_seed

    def parse(self, cut: Slice, data: bytes) -> pa.Table:
        sources = [name for name in self.columns.sources if name in self._header.names]
        table, problems = self._read_fields(data, sources, recover=not self.is_former(cut, data))
        types = {name: without_nulls(type_) for name, type_ in self.columns.types}
        types |= {field.name: without_nulls(field.type) for field in self._schema if field.name in sources}
        for index, name in enumerate(sources):
            if name in self.columns.texts and self._has_messages:
                messages = written_messages(table[name], name, problems.setdefault)
                table = table.set_column(index, name, messages)
            elif not is_string(types[name]) and name not in self.columns.texts:
                if name in self.columns.converted:
                    cells = trimmed(table[name])
                else:
                    is_key = name in self.columns.keys
                    cells = as_written(table[name], types[name], name, problems, is_key=is_key)
                table = table.set_column(index, name, cells)
        return build_rows(cut.first_row, table, self.columns, types, problems)

    @cached_property
    def _header(self) -> _Header:
        start = len(BOM) if self.head(len(BOM)) == BOM else 0
        data, ends = self.sample(start)
        if not len(ends):
            raise FormatError(f"{self.path} has no header line. Its first line must name the columns.")
        first = self._fields(data[: ends[0]].lstrip(b"\r\n"))
        names = self._names(first)
        if not any(names):
            raise FormatError(f"{self.path}: the header line names no columns. Its first line must name them.")
        stop = int(ends[0]) if self.columns.header else 0
        few = data[stop:] if len(data) <= _FEW_BYTES else b""
        return _Header(start + stop, names, few)

    def _names(self, first: list[str]) -> list[str]:
        """The columns' names: those that the pipeline says, else what the first record says, else their places."""
        names = list(self.columns.names)
        if names and len(names) != len(first):
            raise FormatError(
                f"{self.path} has {len(first)} columns in its first record, and dataset.names has {len(names)}. "
                f"Name each of them."
            )
        by_place = [f"column{place}" for place in range(len(first))]
        return names or (first if self.columns.header else by_place)

    def _fields(self, line: bytes) -> list[str]:
        options: dict[str, Any] = {"quotechar": self._quote} if self._quote else {"quoting": csv.QUOTE_NONE}
        options["escapechar"] = self._escape or None
        what = "header line" if self.columns.header else "first record"
        try:
            rows = list(csv.reader(io.StringIO(line.decode(), newline=""), delimiter=self._delimiter, **options))
        except UnicodeDecodeError as e:
            encoding = self.columns.encoding
            raise FormatError(
                f"{self.path}: the {what} is not text in {encoding.upper()}, at byte {e.start}. Set dataset.encoding "
                f"to how the file is encoded, such as cp1252 or latin-1."
            ) from e
        except csv.Error as e:
            raise FormatError(f"{self.path}: the {what} is not CSV: {e}. Mend the file, or leave it out.") from e
        return rows[0] if rows else []

    def _scan(self, data: Buffer, *, last: bool = True, recover: bool = True) -> _Scan:
        quote = ord(self._quote) if self._quote else None
        if self._escape:
            data = _without_escaped(data, ord(self._escape))
        return _scan(data, ord(self._delimiter), quote, last=last, recover=recover)

    def _may_be_unclosed(self, data: bytes) -> bool:
        """Whether the data's last quote may be one that opens a field: most often its place alone says no."""
        at = data.rfind(self._quote.encode()) if self._quote else -1
        return at == 0 or (at > 0 and chr(data[at - 1]) in ("\n", "\r", self._delimiter, self._quote))

    def _read_fields(self, data: bytes, names: Sequence[str], *, recover: bool = True) -> tuple[pa.Table, Problems]:
        """Columns as bytes, a row a record; those of malformed records are null."""
        if len(data) <= _FEW_BYTES and (fields := self._split(data)) is not None:
            places = [self._header.names.index(name) for name in names]
            columns = [pa.array([record[place] for record in fields], pa.binary()) for place in places]
            return pa.table(columns, names=list(names)), {}
        scan = self._scan(data, recover=recover)
        suspects = scan.suspects()
        if not suspects:
            try:
                return self._parse_csv(data, names), {}
            except pa.ArrowInvalid:
                pass  # some record has another number of fields: which ones?
        counts = scan.num_fields()
        expected = len(self._header.names)
        suspects |= {
            int(i): f"{counts[i]} fields where the header has {expected}"
            for i in np.flatnonzero(counts != expected)
            if i not in suspects
        }
        good = np.ones(len(scan.ends), bool)
        good[list(suspects)] = False
        starts = np.concatenate([[0], scan.ends[:-1]])
        kept = b"".join(data[starts[i] : scan.ends[i]] for i in np.flatnonzero(good))
        problems = {i: _malformed(data[starts[i] : scan.ends[i]], what) for i, what in suspects.items()}
        rows = np.cumsum(good) - 1
        return self._parse_csv(kept, names).take(pa.array(rows, mask=~good)), problems

    def _split(self, data: bytes) -> list[list[bytes]] | None:
        """The fields of a few records, where nothing is quoted and none is malformed: faster than a parser begins."""
        special = [b"\r", *(mark.encode() for mark in (self._quote, self.columns.escape) if mark)]
        if any(mark in data for mark in special):
            return None
        delimiter, expected = self._delimiter.encode(), len(self._header.names)
        records = [line.split(delimiter) for line in data.split(b"\n") if line]
        return records if all(len(record) == expected for record in records) else None

    def _parse_csv(self, data: bytes, names: Sequence[str]) -> pa.Table:
        if not data or not names:
            return pa.table({name: pa.array([], pa.binary()) for name in names})
        # By their places: names may be empty, and there twice.
        places = {name: str(place) for place, name in reversed(list(enumerate(self._header.names)))}
        table = pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(
                column_names=[str(place) for place in range(len(self._header.names))],
                block_size=len(data) + 1,
                use_threads=False,
            ),
            pacsv.ParseOptions(
                delimiter=self._delimiter,
                quote_char=self._quote or False,
                escape_char=self._escape or False,
                newlines_in_values=True,
            ),
            pacsv.ConvertOptions(
                check_utf8=False,
                column_types={places[name]: pa.binary() for name in names},
                include_columns=[places[name] for name in names],
                null_values=[],
                strings_can_be_null=False,
            ),
        )
        return table.rename_columns(list(names))


@dataclass(frozen=True)
class _Header:
    stop: int
    names: list[str]
    few_records: bytes
    """What follows it, if that is little."""


@dataclass(frozen=True)
class _Scan:
    """Where records end in CSV bytes, and which quotes open or close fields, in turn."""

    data: Buffer
    delimiter: int
    ends: Offsets
    quotes: Offsets
    unclosed: int | None
    """Where a quote is that would open a field and is never closed."""

    def num_fields(self) -> npt.NDArray[np.int64]:
        delimiters = _outside(positions(self.data, self.delimiter), self.quotes)
        return np.diff(np.searchsorted(delimiters, self.ends), prepend=0) + 1

    def suspects(self) -> dict[int, str]:
        """The records whose quotes say that they are malformed, and why."""
        found = {}
        if self.unclosed is not None:
            found[self._record_at(self.unclosed)] = "a quote is never closed"
        for at in self._misclosing().tolist():
            index = self._record_at(at)
            if self._spans_lines(index):
                found.setdefault(index, "text follows the quote that closes a field of several lines")
        return found

    def _misclosing(self) -> Offsets:
        """The closing quotes behind which neither a delimiter, a newline nor another quote comes."""
        values = np.frombuffer(self.data, np.uint8)
        closing = self.quotes[1::2]
        closing = closing[closing + 1 < len(values)]
        behind = values[closing + 1]
        proper = (behind == self.delimiter) | (behind == _LF) | (behind == _CR) | (behind == values[closing])
        misclosing: Offsets = closing[~proper]
        return misclosing

    def _record_at(self, offset: int) -> int:
        return int(np.searchsorted(self.ends, offset, side="right"))

    def _spans_lines(self, index: int) -> bool:
        start = int(self.ends[index - 1]) if index else 0
        return len(_lines(bytes(self.data[start : self.ends[index]]))) > 1


def _scan(data: Buffer, delimiter: int, quote: int | None, *, last: bool, recover: bool) -> _Scan:
    """Find the records. Behind a quote that is never closed they are lines, or without `recover` one record."""
    quotes = np.zeros(0, np.int64)
    if quote is not None:
        quotes = _field_quotes(data, positions(data, quote), delimiter)
    unclosed = None
    if last and len(quotes) % 2:
        opening = _unclosed(quotes)
        unclosed = int(quotes[opening])
        quotes = quotes[:opening] if recover else quotes
    breaks = _outside(positions(data, _LF, _CR), quotes)
    # Two breaks side by side enclose a blank line, or are a CRLF.
    breaks = breaks[np.diff(breaks, prepend=-1) > 1]
    ends = breaks + 1
    values = np.frombuffer(data, np.uint8)
    in_sight = breaks[ends < len(values)]
    ends[: len(in_sight)] += (values[in_sight] == _CR) & (values[in_sight + 1] == _LF)
    if len(ends) and not last and ends[-1] == len(values) and values[-1] == _CR:
        ends = ends[:-1]  # a LF may follow
    if last and _has_tail(values, int(ends[-1]) if len(ends) else 0):
        ends = np.append(ends, len(values))
    return _Scan(data, delimiter, ends, quotes, unclosed)


def _unclosed(quotes: Offsets) -> int:
    """The index of the quote that is never closed. Behind it there are but doubled ones."""
    index = len(quotes) - 1
    while index >= 2 and quotes[index] - quotes[index - 1] == 1:
        index -= 2
    return index


def _has_tail(values: npt.NDArray[np.uint8], start: int) -> bool:
    tail = values[start:]
    return bool(((tail != _LF) & (tail != _CR)).any())


def _outside(offsets: Offsets, quotes: Offsets) -> Offsets:
    """Those that lie outside of quoted fields."""
    if not len(quotes):
        return offsets
    outside: Offsets = offsets[np.searchsorted(quotes, offsets) % 2 == 0]
    return outside


def _field_quotes(data: Buffer, quotes: Offsets, delimiter: int) -> Offsets:
    """The quotes that open or close a quoted field, a doubled one counting as closing and opening.

    Up to the first stray quote, every second one opens; behind it, so does the
    next one at a field's start.
    """
    if not len(quotes):
        return quotes
    values = np.frombuffer(data, np.uint8)
    before = values[quotes - 1]
    at_start = (before == delimiter) | (before == _LF) | (before == _CR) | (quotes == 0)
    doubled = np.diff(quotes, prepend=-2) == 1
    strays = np.flatnonzero(~(at_start | doubled))
    return quotes if not (strays % 2 == 0).any() else quotes[_without_strays(at_start, strays)]


def _without_strays(at_start: npt.NDArray[np.bool_], strays: Offsets) -> npt.NDArray[np.bool_]:
    starts = np.flatnonzero(at_start).tolist()
    strays_of = (strays[strays % 2 == 0].tolist(), strays[strays % 2 == 1].tolist())
    keep = np.zeros(len(at_start), bool)
    following = 0
    while (at := bisect_left(starts, following)) < len(starts):
        start = starts[at]
        rivals = strays_of[start % 2]
        found = bisect_left(rivals, start)
        stop = rivals[found] if found < len(rivals) else len(keep)
        keep[start:stop] = True
        following = stop + 1
    return keep


def _without_escaped(data: Buffer, escape: int) -> bytes:
    """The data, in which escape characters and those behind them are letters, and so mean nothing."""
    escapes = positions(data, escape)
    if not len(escapes):
        return bytes(data)
    values = np.frombuffer(data, np.uint8).copy()
    escaped = escaped_places(escapes)
    values[escapes] = _LETTER
    values[escaped[escaped < len(values)]] = _LETTER
    return values.tobytes()


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))


def _lines(record: bytes) -> list[bytes]:
    return record.strip(b"\r\n").splitlines()


def _malformed(record: bytes, what: str) -> str:
    """The reason for a record that is none; one of several lines may be several records."""
    num_lines = len(_lines(record))
    span, way_out = "", ""
    if num_lines > 1 or "quote" in what:
        way_out = '; dataset.quote = "" reads quotes as text'
        span = f" of {num_lines} lines" if num_lines > 1 else ""
    shown = excerpt(record[:_EXCERPT_BYTES].strip(b"\r\n"))
    return f"malformed record{span}: {what}: {shown}{way_out}"
