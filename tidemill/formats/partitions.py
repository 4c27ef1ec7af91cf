"""Columns that a file's folders give, as in `day=2024-01-01/a.parquet`: of text, the same in all of the file's rows.

A column that the file itself has wins over the one of its folder, as a file is
nearer to its rows. Where it is kept, what the folders say is part of what a
slice is: the same bytes in two folders are two contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from urllib.parse import unquote

import pyarrow as pa

from tidemill.errors import SchemaError
from tidemill.fingerprints import fingerprint
from tidemill.formats.reader import Reader
from tidemill.shards import PLACED, Slice
from tidemill.values.columns import Columns

_NULL = "__HIVE_DEFAULT_PARTITION__"


def partitions_of(url: str) -> dict[str, str | None]:
    """Name → value of the folders `name=value` above a file, percent-decoded; the nearest folder wins."""
    *folders, _ = url.partition("::")[0].partition("?")[0].split("/")
    pairs = [folder.partition("=") for folder in folders]
    return {unquote(name): None if value == _NULL else unquote(value) for name, found, value in pairs if name and found}


def identity_of(partitions: Mapping[str, str | None]) -> str:
    """What goes behind a content, so that other folders make another one; nothing where they say nothing."""
    pairs = [part for name, value in sorted(partitions.items()) for part in (name, value is None, value)]
    return f"{PLACED}{fingerprint(*pairs)[:16]}" if partitions else ""


class PartitionedReader:
    """A reader of any format, with the columns of the file's folders beside the file's own."""

    def __init__(
        self, open_file: Callable[[Columns], Reader], columns: Columns, partitions: Mapping[str, str | None]
    ) -> None:
        self._open, self._columns, self._all_partitions = open_file, columns, partitions
        self._identity = identity_of(partitions)
        self._bare = open_file(_without(columns, partitions))

    def schema(self) -> pa.Schema:
        own = self._file.schema()
        beside = [pa.field(name, pa.string()) for name in self._partitions]
        return pa.schema([*own, *beside]) if len(own) else own

    def common_type(self, a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
        return self._bare.common_type(a, b)

    def gives_back(self, name: str, to: pa.DataType) -> bool:
        return name in self._partitions or self._file.gives_back(name, to)

    def slices(self, *, shard_bytes: int, known: Sequence[Slice] = (), trusted: bool = False) -> Iterator[Slice]:
        bare = [self._bare_slice(cut) for cut in known]
        for cut in self._file.slices(shard_bytes=shard_bytes, known=bare, trusted=trusted):
            yield replace(cut, content=cut.content + self._identity)

    def rows(self, cut: Slice) -> pa.Table:
        rows = self._file.rows(self._bare_slice(cut))
        for source, name in self._columns.kept:
            if source in self._partitions:
                rows = rows.append_column(name, pa.repeat(self._value(source), rows.num_rows))
        own = [name for name in ("row_number", "text", "text_pair", "reason") if name in rows.column_names]
        return rows.select([*own, *(name for _, name in self._columns.kept)])

    def reads_apart(self, cut: Slice) -> bool:
        return self._file.reads_apart(self._bare_slice(cut))

    @cached_property
    def _file(self) -> Reader:
        """The file, asked for those of the columns that are its own."""
        own = self._all_partitions.keys() - self._partitions.keys()
        if own.isdisjoint(self._columns.sources):
            return self._bare
        return self._open(_without(self._columns, self._partitions))

    @cached_property
    def _partitions(self) -> dict[str, str | None]:
        """The folders' columns that the file does not have itself."""
        own = self._bare.schema().names
        return {name: value for name, value in self._all_partitions.items() if name not in own}

    def _value(self, source: str) -> pa.Scalar:
        to = dict(self._columns.types).get(source, pa.string())
        value = pa.scalar(self._partitions[source], pa.string())
        try:
            return value.cast(to)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            raise SchemaError(
                f"The folder {source}={self._partitions[source]} gives no {to}, which the column {source!r} is. "
                f'Set dataset.types.{source} = "string", or leave it out of dataset.keep and dataset.key.'
            ) from e

    def _bare_slice(self, cut: Slice) -> Slice:
        return replace(cut, content=cut.content.removesuffix(self._identity))


def _without(columns: Columns, names: Mapping[str, object]) -> Columns:
    kept = [(source, name, number < columns.num_keys) for number, (source, name) in enumerate(columns.kept)]
    left = [(source, name, is_key) for source, name, is_key in kept if source not in names]
    return replace(
        columns,
        kept=tuple((source, name) for source, name, _ in left),
        num_keys=sum(is_key for *_, is_key in left),
        types=tuple((name, to) for name, to in columns.types if name not in names),
    )
