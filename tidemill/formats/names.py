"""Which format a file's name says."""

from __future__ import annotations

from pathlib import PurePath

from tidemill.errors import FormatError
from tidemill.formats.streams.compressions import COMPRESSIONS, compression_of, without_compression

_COLUMNAR = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow"}
_TEXTUAL = {
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
    name = without_compression(path.lower())
    endings = _TEXTUAL if compression_of(path) else _COLUMNAR | _TEXTUAL
    for ending, format_name in endings.items():
        if name.endswith(ending):
            return format_name
    raise FormatError(
        f"{path}: the file name says no format that can be read. Readable are {', '.join(_COLUMNAR | _TEXTUAL)}; "
        f"the text formats also with {', '.join(COMPRESSIONS)} behind. Set dataset.format if the name misleads."
    )


def says_nothing(path: str) -> bool:
    """Whether it is a ZIP archive whose name says no format: that of the file within does, see `inner_name`."""
    return path.lower().endswith(".zip") and not PurePath(without_compression(path)).suffix


def is_tsv(path: str) -> bool:
    """Whether its fields are separated by tabs, unless something else is said."""
    return without_compression(path.lower()).endswith(".tsv")
