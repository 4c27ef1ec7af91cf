"""A result table as Parquet files: one a shard, small shards together, each under a name that it keeps.

Which shards share a file follows from their places alone, so that a shard that is
new, changed or gone concerns its own file and no other. What a file was made of
has a name too, by which an unchanged one is known without making it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import InputError
from tidemill.fingerprints import fingerprint
from tidemill.lake import Cursor, DoneShard
from tidemill.lake.tables import identifier
from tidemill.publishing.columns import Column, readable_type
from tidemill.shards import Shard

LAYOUT = 1
"""Of the files: what would be written otherwise from then on."""
FEW_FILES = 128
"""So many small shards lie in files of their own; of more of them, each file has several."""
SMALL_ROWS = 10_000
ROWS_AT_A_TIME = 50_000
ROW_GROUP_ROWS = 100_000


@dataclass(frozen=True)
class DataFile:
    """A file that is to be there: its shards in order, or the rows of a query."""

    path: str
    of: str
    num_rows: int
    shards: tuple[Shard, ...] = ()


def grouped(shards: Sequence[Shard]) -> list[tuple[Shard, ...]]:
    """Shards in the order of their places: large ones by themselves, small ones with their neighbours.

    A shard begins a file where the hash of its place says so: a neighbour that
    comes or goes leaves that as it is (content-defined chunking).
    """
    ordered = sorted(shards, key=lambda shard: (shard.file.path, shard.slice.first_row))
    num_small = sum(_is_small(shard) for shard in ordered)
    modulus = 2 ** max(0, (num_small - 1) // FEW_FILES).bit_length()
    groups: list[list[Shard]] = []
    for shard in ordered:
        joins = groups and _is_small(shard) and _is_small(groups[-1][-1])
        if joins and int(_place(shard), 16) % modulus:
            groups[-1].append(shard)
        else:
            groups.append([shard])
    return list(map(tuple, groups))


def _is_small(shard: Shard) -> bool:
    return shard.slice.num_rows < SMALL_ROWS


def _place(shard: Shard) -> str:
    return fingerprint(shard.file.path, shard.slice.first_row)[:12]


def files_of_shards(
    shards: Sequence[Shard], done: Mapping[str, DoneShard], columns: Sequence[Column], version: str, prefix: str
) -> list[DataFile]:
    """The files of a table; `prefix` is what their names begin with."""
    shown = [column.name for column in columns]
    files = []
    for group in grouped([shard for shard in shards if done[shard.shard_id].num_rows]):
        facts = [done[shard.shard_id] for shard in group]
        made_of = [(row.shard_id, row.request_id, row.kept, row.num_rows) for row in facts]
        of = fingerprint(LAYOUT, version, *shown, *(part for row in made_of for part in row))[:16]
        files.append(DataFile(f"{prefix}-{_place(group[0])}.parquet", of, sum(row.num_rows for row in facts), group))
    return files


def file_of_query(cursor: Cursor, text: str, names: Sequence[str], prefix: str) -> DataFile:
    """The file of a query's rows, known by what they add up to in any order."""
    [(num_rows, total)] = cursor.execute(f"SELECT count(*), sum(hash(t)::HUGEINT) FROM ({text}) t").fetchall()
    of = fingerprint(LAYOUT, "query", *names, num_rows, total or 0)[:16]
    return DataFile(f"{prefix}-{fingerprint('query')[:12]}.parquet", of, int(num_rows))


def table_text(table: str, columns: Sequence[Column], shards: Sequence[Shard] = ()) -> str:
    """SQL: the columns of some shards' rows, in order."""
    names = ", ".join(identifier(column.name) for column in columns)
    ids = ", ".join(f"'{shard.shard_id}'" for shard in shards)
    only = f" WHERE shard_id IN ({ids}) ORDER BY list_position([{ids}], shard_id), row_number" if shards else ""
    return f"SELECT {names} FROM {identifier(table)}{only}"


def write_parquet(cursor: Cursor, text: str, path: Path) -> None:
    """Write what a query gives. The same rows give the same bytes.

    Raises:
        InputError: Parquet cannot hold them.
    """
    reader = cursor.execute(text).to_arrow_reader(ROWS_AT_A_TIME)
    schema = pa.schema([field.with_type(readable_type(field.type)) for field in reader.schema])
    try:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            batches = iter(reader)
            while some := list(islice(batches, max(1, ROW_GROUP_ROWS // ROWS_AT_A_TIME))):
                writer.write_table(pa.Table.from_batches(some).cast(schema), row_group_size=ROW_GROUP_ROWS)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as e:
        raise InputError(f"Parquet cannot hold this: {e}. Leave the column out with --query.") from e
