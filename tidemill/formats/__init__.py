"""How a file's bytes become rows: one module a format, one line each in `FORMATS`.

A reader cuts its file into slices and reads a slice's rows. Every format gives
the same table of rows: `row_number` (int64, the record's number in the file,
malformed records included), `text` (string), `reason` (string: why this row
cannot be processed, else null), then the key and kept columns under their names
in the table. A row with a reason has a null text and keeps what cells it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tidemill.errors import FormatError
from tidemill.formats.columnar.parquet import ParquetReader
from tidemill.formats.delimited import CsvReader
from tidemill.formats.jsonl import JsonlReader
from tidemill.formats.partitions import PartitionedReader, identity_of, partitions_of
from tidemill.formats.reader import Reader
from tidemill.formats.streams.source import ByteSource
from tidemill.formats.streams.stream import COMPRESSIONS
from tidemill.formats.text import TextReader
from tidemill.values.columns import KEPT_PREFIX, Columns
from tidemill.values.rows import check_columns, settle_schema
from tidemill.values.types import check_fields, check_type, plain_type, without_nulls

__all__ = [
    "FORMATS",
    "KEPT_PREFIX",
    "ByteSource",
    "Columns",
    "PartitionedReader",
    "Reader",
    "check_columns",
    "check_fields",
    "check_type",
    "format_of",
    "identity_of",
    "open_reader",
    "partitions_of",
    "plain_type",
    "settle_schema",
    "without_nulls",
]

FORMATS: Mapping[str, Callable[[ByteSource, Columns], Reader]] = {
    "parquet": ParquetReader,
    "csv": CsvReader,
    "jsonl": JsonlReader,
    "text": TextReader,
}

_ENDINGS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
    ".text": "text",
}


def format_of(path: str) -> str:
    """The format that a file's name says; text formats may also be compressed.

    Raises:
        FormatError: the name says none.
    """
    name = path.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    for ending, format_name in _ENDINGS.items():
        if name.endswith(ending) and (format_name != "parquet" or name == path.lower()):
            return format_name
    raise FormatError(
        f"{path}: the file name says no format that can be read. Readable are {', '.join(_ENDINGS)}; "
        f"the text formats also with {' or '.join(COMPRESSIONS)} behind. Set dataset.format if the name misleads."
    )


def open_reader(format_name: str, source: ByteSource, columns: Columns) -> Reader:
    """A reader of `source`. Nothing is read yet. Compression goes by the file name."""
    return FORMATS[format_name](source, columns)
