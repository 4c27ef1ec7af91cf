"""What a file is, by its name and its first bytes: which options read it as its author meant it.

A guess, for people to look at: `tidemill init` writes it into the pipeline file.
What readers do is said by the pipeline file alone.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import orjson

from tidemill.errors import FormatError
from tidemill.formats.names import format_of, is_tsv
from tidemill.formats.streams.arrays import first_array_of_objects
from tidemill.formats.streams.encodings import UTF8, marked_encoding
from tidemill.formats.streams.source import ByteSource
from tidemill.formats.streams.stream import SourceBytes
from tidemill.values.columns import HEAD_BYTES

_MAGIC = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_LONGEST_MAGIC = 8
_DELIMITERS = ",;\t|"
_LOOKED_AT = 100
_LEAST_AGREEING = 0.9
_NUMBER = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?%?\s*|\d{4}-\d\d-\d\d.*")
_C1_CONTROLS = re.compile(rb"[\x80-\x9f]")
"""In latin-1 they are control characters, which no text has; in cp1252 they are quotes and dashes."""


@dataclass(frozen=True)
class Detected:
    """How to read a file. The fields that have the names of keys of `[dataset]` are their values."""

    format: str
    """`parquet`, `arrow`, `csv`, `jsonl`, `json` or `text`."""
    encoding: str = UTF8
    """Of text: UTF-8 also where a byte order mark says it all."""
    delimiter: str = ","
    header: bool = True
    """Whether the first record of a CSV file names the columns."""
    field: str | None = None
    """Where the array of records is, if it is not the JSON file's value itself."""

    def options(self, path: str) -> dict[str, Any]:
        """The keys of `[dataset]` that have to be set for a file of this name, with their values."""
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "format"}
        default = {item.name: item.default for item in fields(self) if item.name != "format"}
        if self.delimiter == "\t" and is_tsv(path):
            default["delimiter"] = "\t"
        said = {"format": self.format} if self.format != _format_by_name(path) and self.field is None else {}
        return said | {name: value for name, value in found.items() if value != default[name]}


def detect(path: str, head: bytes) -> Detected:
    """What a file of this name is that begins with `head`, decompressed; a last line in it may be cut.

    Raises:
        FormatError: neither its name nor its bytes say a format that can be read.
    """
    if magic := next((magic for magic in _MAGIC if head.startswith(magic)), None):
        return Detected(_MAGIC[magic])
    by_name = _format_by_name(path)
    if by_name in ("parquet", "arrow"):
        return Detected(by_name)
    encoding = _encoding(head)
    text = _text(head, encoding)
    written = UTF8 if marked_encoding(head) else encoding
    begins_as_json = text.lstrip()[:1] in ("[", "{")
    if by_name in ("jsonl", "json") or (by_name is None and begins_as_json):
        return _json(text, written)
    if by_name == "text":
        return Detected("text", written)
    if by_name is None and not _separated(text):
        raise FormatError(f"{path} is in no format that can be told. Set dataset.format.")
    return _csv(text, written, path)


def detect_file(source: ByteSource) -> Detected:
    """The same of a file as it is stored, also compressed.

    Raises:
        FormatError: as for `detect`; or it cannot be decompressed.
    """
    first = source.read(0, min(_LONGEST_MAGIC, source.size))
    if first.startswith(tuple(_MAGIC)):
        return detect(source.path, first)
    stored = SourceBytes(source)
    return detect(stored.name, stored.head_as_encoded(HEAD_BYTES))


def _format_by_name(path: str) -> str | None:
    try:
        return format_of(path)
    except FormatError:
        return None


def _encoding(head: bytes) -> str:
    if marked := marked_encoding(head):
        return marked
    if (width := _zeros(head)) is not None:
        return width
    try:
        head[: len(head) - _cut_character(head)].decode()
    except UnicodeDecodeError:
        return _single_byte_encoding(head)
    return UTF8


def _single_byte_encoding(head: bytes) -> str:
    if not _C1_CONTROLS.search(head):
        return "latin-1"
    try:
        head.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _zeros(head: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of Western text is zero."""
    sample = head[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) <= len(sample) // 8:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _cut_character(head: bytes) -> int:
    """How many bytes at the end begin a character of UTF-8 whose rest is missing."""
    for back in range(1, min(4, len(head)) + 1):
        byte = head[-back]
        if byte & 0xC0 != 0x80:
            length = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
            return back if length > back else 0
    return 0


def _text(head: bytes, encoding: str) -> str:
    text = head.decode(encoding, "replace").removeprefix("\ufeff")
    return text[:-1] if text.endswith("\ufffd") else text


def _json(text: str, encoding: str) -> Detected:
    """Lines, where the first one is an object by itself; else an array, by itself or within an object."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or (len(lines) > 1 and _is_object(lines[0])):
        return Detected("jsonl", encoding)
    if text.lstrip().startswith("["):
        is_lines = len(lines) > 1 and all(_is_json(line) for line in lines[: min(len(lines) - 1, _LOOKED_AT)])
        return Detected("jsonl" if is_lines else "json", encoding)
    field = first_array_of_objects(text.encode(UTF8, "surrogatepass"))
    if _is_object(lines[0]) and field is None:
        return Detected("jsonl", encoding)
    return Detected("json" if field else "jsonl", encoding, field=field)


def _is_object(line: str) -> bool:
    return line.lstrip().startswith("{") and _is_json(line)


def _is_json(line: str) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _csv(text: str, encoding: str, path: str) -> Detected:
    delimiter = _separated(text)
    if delimiter is None:
        delimiter = "\t" if is_tsv(path) else ","
    return Detected("csv", encoding, delimiter, _has_header(list(_records(text, delimiter))))


def _separated(text: str) -> str | None:
    """The character by which most records have as many fields as the first, and more than one."""
    best = (0.0, 0)
    found = None
    for delimiter in _DELIMITERS:
        counts = [len(record) for record in _records(text, delimiter)]
        if not counts or counts[0] < 2:
            continue
        agreeing = counts.count(counts[0]) / len(counts)
        score = (round(agreeing, 1), counts[0])
        if agreeing >= _LEAST_AGREEING and score > best:
            best, found = score, delimiter
    return found


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    """The first records; the last one of the text may be cut, and is left out where there are others."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        records = [record for record in islice(reader, _LOOKED_AT + 1) if record]
    except csv.Error:
        return iter(())
    return iter(
        records[:_LOOKED_AT] if len(records) > _LOOKED_AT or text.endswith(("\n", "\r")) else records[:-1] or records
    )


def _has_header(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first record looks otherwise than those below: no number stands over numbers."""
    if len(records) < 2:
        return True
    first, *others = records
    for place, cell in enumerate(first):
        below = Counter(bool(_NUMBER.fullmatch(row[place])) for row in others if len(row) > place and row[place])
        if _NUMBER.fullmatch(cell) and below[True] > below[False]:
            return False
    return True
