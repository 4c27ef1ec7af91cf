"""A source in memory that counts what it serves."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import lzma
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import zstandard

from tidemill.formats import Columns, Reader, format_of, open_reader
from tidemill.shards import Slice


class MemorySource:
    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path
        self.size = len(data)
        self.content = hashlib.sha256(data).hexdigest()
        self.served: list[tuple[int, int]] = []
        self.failure: Exception | None = None

    @property
    def bytes_served(self) -> int:
        return sum(stop - start for start, stop in self.served)

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= self.size, f"[{start}, {stop}) lies outside of the file"
        if self.failure is not None:
            raise self.failure
        self.served.append((start, stop))
        return self.data[start:stop]


def reader_of(data: bytes, path: str, text: str | Sequence[str] = "text", **options: Any) -> Reader:
    columns = Columns(text=(text,) if isinstance(text, str) else tuple(text), **options)
    return open_reader(format_of(path), MemorySource(data, path), columns)


def slices_and_rows(reader: Reader, shard_bytes: int, **options: Any) -> tuple[list[Slice], list[dict[str, Any]]]:
    """All slices, each read as soon as it is given, and all rows."""
    slices, rows = [], []
    for cut in reader.slices(shard_bytes=shard_bytes, **options):
        table = reader.rows(cut)
        assert table.num_rows == cut.num_rows
        table.validate(full=True)
        slices.append(cut)
        rows += table.to_pylist()
    return slices, rows


def all_rows(data: bytes, path: str, shard_bytes: int = 2**24, **options: Any) -> list[dict[str, Any]]:
    return slices_and_rows(reader_of(data, path, **options), shard_bytes)[1]


def texts(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["text"] for row in rows]


def reasons(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["reason"] for row in rows]


def compressed(data: bytes, ending: str, members: int = 1) -> bytes:
    """`data` as gzip members, Zstandard frames or their like, split evenly; a ZIP archive has one."""
    if ending == ".zip":
        return zipped(data)
    packers: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".zst": zstandard.ZstdCompressor().compress,
        ".bz2": functools.partial(bz2.compress, compresslevel=1),
        ".xz": functools.partial(lzma.compress, preset=0),
    }
    pack = packers[ending]
    size = max(1, -(-len(data) // members))
    return b"".join(pack(data[start : start + size]) for start in range(0, max(len(data), 1), size))


def zipped(data: bytes, *names: str) -> bytes:
    """An archive with the same data under each of the names."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("data",):
            archive.writestr(name, data)
    return packed.getvalue()


def types_of(table: pa.Table) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in table.schema}
