"""How a file's bytes become rows: one module a format, one line each in `FORMATS`.

A reader cuts its file into slices and reads a slice's rows. Every format gives
the same table of rows: `row_number` (int64, the record's number in the file,
malformed records included), `text` (string) and, where a row is a pair of texts,
`text_pair` (string), `reason` (string: why this row cannot be processed, else
null), then the key and kept columns under their names in the table. A row with a
reason has null texts and keeps what cells it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tidemill.formats.columnar.arrow import ArrowReader
from tidemill.formats.columnar.parquet import ParquetReader
from tidemill.formats.delimited import CsvReader
from tidemill.formats.detect import Detected, detect, detect_file
from tidemill.formats.json_arrays import JsonArrayReader
from tidemill.formats.jsonl import JsonlReader
from tidemill.formats.names import format_of, is_tsv, says_nothing
from tidemill.formats.partitions import PartitionedReader, identity_of, partitions_of
from tidemill.formats.reader import Reader
from tidemill.formats.streams.source import ByteSource
from tidemill.formats.streams.stream import inner_name
from tidemill.formats.text import TextReader
from tidemill.values.columns import KEPT_PREFIX, Columns
from tidemill.values.rows import check_columns, settle_schema
from tidemill.values.types import check_fields, check_type, plain_type, without_nulls

__all__ = [
    "COLUMNAR",
    "FORMATS",
    "KEPT_PREFIX",
    "ByteSource",
    "Columns",
    "Detected",
    "PartitionedReader",
    "Reader",
    "check_columns",
    "check_fields",
    "check_type",
    "detect",
    "detect_file",
    "format_of",
    "identity_of",
    "inner_name",
    "is_tsv",
    "open_reader",
    "partitions_of",
    "plain_type",
    "says_nothing",
    "settle_schema",
    "without_nulls",
]

FORMATS: Mapping[str, Callable[[ByteSource, Columns], Reader]] = {
    "parquet": ParquetReader,
    "arrow": ArrowReader,
    "csv": CsvReader,
    "jsonl": JsonlReader,
    "json": JsonArrayReader,
    "text": TextReader,
}
COLUMNAR = frozenset({"parquet", "arrow"})
"""Formats whose slices come from an index, without reading rows."""


def open_reader(format_name: str, source: ByteSource, columns: Columns) -> Reader:
    """A reader of `source`. Nothing is read yet. Compression goes by the file name."""
    return FORMATS[format_name](source, columns)
