"""CSV: quoted fields may hold delimiters and newlines, and records are counted as the parser counts them.

A quote opens a field only at the field's start and is an ordinary character
elsewhere, so that `5" disk` does not swallow what follows. LF, CRLF and CR end
a record; blank lines are no records. Fields of Python's csv module, DuckDB and
pyarrow agree on that.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pacsv

from tidemill.errors import ConfigError, FormatError
from tidemill.formats.reader import ByteSource, Columns
from tidemill.formats.records import BOM, Buffer, Offsets, RecordReader, positions
from tidemill.formats.rows import Problems, build_rows, excerpt, is_string
from tidemill.shards import Slice, fingerprint

_QUOTE, _LF, _CR = 34, 10, 13
_EXCERPT_BYTES = 200

_INFERRED = (
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("ns"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "UTC"),
)
# Numbers that would not come back as they were written are names, not numbers.
_NO_NUMBER = r"^\s*[+-]?(0[0-9xX]|\d{20,}\s*$)"


class CsvReader(RecordReader):
    """An empty cell is an empty string, and null in a kept column of another type; `NA` and its like are text."""

    def __init__(self, source: ByteSource, columns: Columns) -> None:
        super().__init__(source, columns)
        self._delimiter = "\t" if columns.delimiter == "," and _is_tsv(source.path) else columns.delimiter
        if not self._delimiter.isascii() or self._delimiter in '"\r\n':
            raise ConfigError(
                f"dataset.delimiter = {self._delimiter!r} must be an ASCII character but no quote or newline."
            )

    def schema(self) -> pa.Schema:
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        if self.is_empty:
            return pa.schema([])
        data, _ = self.sample(self.body_start)
        names = self._header.names
        table, _ = self._read_fields(data, names)
        settled = dict(self.columns.types)
        strings = dict.fromkeys(self.columns.text, pa.string())
        return pa.schema([(name, strings.get(name) or settled.get(name) or _inferred(table[name])) for name in names])

    def ends(self, data: Buffer, *, last: bool) -> Offsets:
        return _scan(data, ord(self._delimiter), last=last).ends

    @property
    def body_start(self) -> int:
        return self._header.stop

    @property
    def content_seed(self) -> str:
        return fingerprint("csv", self._delimiter, *self._header.names)

    def parse(self, cut: Slice, data: bytes) -> pa.Table:
        table, problems = self._read_fields(data, list(self.columns.sources))
        types = {field.name: field.type for field in self._schema}
        for source, _ in self.columns.kept:
            if not is_string(types[source]) and source not in self.columns.text:
                index = table.schema.get_field_index(source)
                table = table.set_column(index, source, _trimmed(table[source]))
        return build_rows(cut.first_row, table, self.columns, types, problems)

    @cached_property
    def _header(self) -> _Header:
        start = len(BOM) if self.head(len(BOM)) == BOM else 0
        data, ends = self.sample(start)
        if not len(ends):
            raise FormatError(f"{self.path} has no header line. Its first line must name the columns.")
        names = self._names(data[: ends[0]].lstrip(b"\r\n"))
        if not any(names):
            raise FormatError(f"{self.path}: the header line names no columns. Its first line must name them.")
        if doubles := sorted({name for name in names if names.count(name) > 1}):
            raise FormatError(
                f"{self.path}: the header repeats the names {', '.join(map(repr, doubles))}. Rename the columns."
            )
        return _Header(start + int(ends[0]), names)

    def _names(self, line: bytes) -> list[str]:
        try:
            text = line.decode()
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter))
        except (UnicodeDecodeError, csv.Error) as e:
            raise FormatError(f"{self.path}: the header line is not CSV in UTF-8: {e}. Convert the file.") from e
        return rows[0] if rows else []

    def _read_fields(self, data: bytes, names: list[str]) -> tuple[pa.Table, Problems]:
        """Columns as bytes, a row a record; those of malformed records are null."""
        scan = _scan(data, ord(self._delimiter), last=True)
        good = np.ones(len(scan.ends), bool)
        if scan.unclosed:
            good[-1] = False
        if good.all():
            try:
                return self._parse_csv(data, names), {}
            except pa.ArrowInvalid:
                pass  # some record has another number of fields: which ones?
        counts = scan.num_fields()
        good &= counts == len(self._header.names)
        starts = np.concatenate([[0], scan.ends[:-1]])
        kept = b"".join(data[starts[i] : scan.ends[i]] for i in np.flatnonzero(good))
        table = self._parse_csv(kept, names)
        rows = np.cumsum(good) - 1
        problems = {int(i): self._problem(data[starts[i] : scan.ends[i]], counts[i]) for i in np.flatnonzero(~good)}
        if scan.unclosed:
            problems[len(good) - 1] = f"malformed record: a quote is never closed: {_shown(data[starts[-1] :])}"
        return table.take(pa.array(rows, mask=~good)), problems

    def _problem(self, record: bytes, num_fields: int) -> str:
        expected = len(self._header.names)
        return f"malformed record: {num_fields} fields where the header has {expected}: {_shown(record)}"

    def _parse_csv(self, data: bytes, names: list[str]) -> pa.Table:
        if not data:
            return pa.table({name: pa.array([], pa.binary()) for name in names})
        return pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(column_names=self._header.names, block_size=len(data) + 1, use_threads=False),
            pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            pacsv.ConvertOptions(
                check_utf8=False,
                column_types={name: pa.binary() for name in names},
                include_columns=names,
                null_values=[],
                strings_can_be_null=False,
            ),
        )


@dataclass(frozen=True)
class _Header:
    stop: int
    names: list[str]


@dataclass(frozen=True)
class _Scan:
    """Where records end in CSV bytes, and which quotes open or close fields."""

    data: Buffer
    delimiter: int
    ends: Offsets
    quotes: Offsets
    unclosed: bool

    def num_fields(self) -> npt.NDArray[np.int64]:
        delimiters = _outside(positions(self.data, self.delimiter), self.quotes)
        return np.diff(np.searchsorted(delimiters, self.ends), prepend=0) + 1


def _scan(data: Buffer, delimiter: int, *, last: bool) -> _Scan:
    quotes = _field_quotes(data, positions(data, _QUOTE), delimiter)
    breaks = _outside(positions(data, _LF, _CR), quotes)
    # Two breaks side by side enclose a blank line, or are a CRLF.
    breaks = breaks[np.diff(breaks, prepend=-1) > 1]
    ends = breaks + 1
    values = np.frombuffer(data, np.uint8)
    in_sight = breaks[ends < len(values)]
    ends[: len(in_sight)] += (values[in_sight] == _CR) & (values[in_sight + 1] == _LF)
    if len(ends) and not last and ends[-1] == len(values) and values[-1] == _CR:
        ends = ends[:-1]  # a LF may follow
    unclosed = bool(len(quotes) % 2)
    if last and _has_tail(values, int(ends[-1]) if len(ends) else 0):
        ends = np.append(ends, len(values))
    return _Scan(data, delimiter, ends, quotes, unclosed and last)


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


def _is_tsv(path: str) -> bool:
    return path.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv")


def _inferred(cells: pa.ChunkedArray) -> pa.DataType:
    try:
        texts = _trimmed(cells).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.string()
    if texts.null_count == len(texts) or pc.any(pc.match_substring_regex(texts, _NO_NUMBER)).as_py():
        return pa.string()
    return next((type_ for type_ in _INFERRED if _casts(texts, type_)), pa.string())


def _casts(texts: pa.ChunkedArray, to: pa.DataType) -> bool:
    try:
        texts.cast(to)
    except pa.ArrowInvalid:
        return False
    return True


def _trimmed(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cells without the spaces around them; empty ones are null. Invalid UTF-8 stays as it is."""
    # Trimming knows strings only. ASCII spaces are whole bytes in any of them.
    view = pa.chunked_array([chunk.view(pa.string()) for chunk in cells.chunks], pa.string())
    trimmed = pc.ascii_trim_whitespace(view)
    return pc.if_else(pc.equal(pc.binary_length(trimmed), 0), pa.scalar(None, pa.string()), trimmed)


def _shown(record: bytes) -> str:
    return excerpt(record[:_EXCERPT_BYTES].strip(b"\r\n"))
