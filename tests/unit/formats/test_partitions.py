"""Columns that folders give: in every format, beside the file's own, and part of what a slice is."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pytest

from tests.unit.formats.sources import MemorySource
from tidemill.errors import SchemaError
from tidemill.formats import Columns, PartitionedReader, open_reader, partitions_of
from tidemill.shards import SourceFile

TABLE = pa.table({"id": ["1", "2"], "text": ["good", "bad"], "own": ["x", "y"]})


def encoded(format_name: str) -> bytes:
    if format_name == "parquet":
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(TABLE, sink)
        return sink.getvalue().to_pybytes()
    if format_name == "text":
        return b"good\nbad\n"
    if format_name == "csv":
        return b"id,text,own\n1,good,x\n2,bad,y\n"
    return b'{"id": "1", "text": "good", "own": "x"}\n{"id": "2", "text": "bad", "own": "y"}\n'


def open_in(folder: str, format_name: str, columns: Columns) -> PartitionedReader:
    source = MemorySource(encoded(format_name), "a")
    return PartitionedReader(partial(open_reader, format_name, source), columns, partitions_of(f"{folder}/a"))


def kept(*names: str, **options) -> Columns:
    return Columns(("text",), kept=tuple((name, f"kept.{name}") for name in names), **options)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/data/day=2024-01-01/a.parquet", {"day": "2024-01-01"}),
        ("s3://bucket/x=1/deep/y=a%20b%2Fc/a.csv", {"x": "1", "y": "a b/c"}),
        ("/data/day=__HIVE_DEFAULT_PARTITION__/a.csv", {"day": None}),
        ("/data/day=/a.csv", {"day": ""}),
        ("/data/x=1/x=2/a=b.csv", {"x": "2"}),
        ("/data/=1/a.csv", {}),
        ("https://host/a.csv?x=1/y", {}),
        ("zip://x=1/a.csv::s3://bucket/y=2/all.zip", {"x": "1"}),
    ],
)
def test_folders_give_columns_by_name(url, expected):
    assert partitions_of(url) == expected


@pytest.mark.parametrize("format_name", ["parquet", "csv", "jsonl", "text"])
def test_every_format_has_the_columns_of_its_folders_in_the_order_asked_for(format_name):
    own = ["own"] if format_name != "text" else []
    reader = open_in("/day=2024-01-01/none=__HIVE_DEFAULT_PARTITION__", format_name, kept("day", *own, "none"))
    assert [field.type for field in reader.schema() if field.name in ("day", "none")] == [pa.string()] * 2
    [cut] = reader.slices(shard_bytes=1000)
    rows = reader.rows(cut)
    assert rows.column_names[3:] == [f"kept.{name}" for name in ("day", *own, "none")]
    assert rows["kept.day"].to_pylist() == ["2024-01-01"] * 2
    assert rows["kept.none"].to_pylist() == [None] * 2
    assert rows["text"].to_pylist() == ["good", "bad"]


@pytest.mark.parametrize("format_name", ["parquet", "csv", "jsonl"])
def test_a_column_that_the_file_has_itself_wins(format_name):
    reader = open_in("/own=z/day=1", format_name, kept("own", "day"))
    [cut] = reader.slices(shard_bytes=1000)
    assert reader.rows(cut)["kept.own"].to_pylist() == ["x", "y"]
    assert reader.rows(cut)["kept.day"].to_pylist() == ["1", "1"]


@pytest.mark.parametrize("format_name", ["parquet", "csv", "jsonl", "text"])
def test_the_same_bytes_in_two_folders_are_two_contents_and_slices_once_cut_stand(format_name):
    reader = open_in("/day=1", format_name, kept("day"))
    [cut] = reader.slices(shard_bytes=1000)
    [other] = open_in("/day=2", format_name, kept("day")).slices(shard_bytes=1000)
    assert cut.content != other.content
    again = open_in("/day=1", format_name, kept("day"))
    assert list(again.slices(shard_bytes=1, known=[cut], trusted=True)) == [cut]
    assert again.rows(cut).num_rows == 2


def test_a_folder_becomes_the_type_that_is_asked_for_or_is_refused():
    reader = open_in("/day=7", "csv", kept("day", types=(("day", pa.int64()),)))
    [cut] = reader.slices(shard_bytes=1000)
    assert reader.rows(cut)["kept.day"].to_pylist() == [7, 7]
    wrong = open_in("/day=today", "csv", kept("day", types=(("day", pa.int64()),)))
    with pytest.raises(SchemaError, match="The folder day=today gives no int64"):
        wrong.rows(next(wrong.slices(shard_bytes=1000)))


def test_what_identifies_the_bytes_says_nothing_of_folders_and_quotes():
    assert SourceFile("a", "a", 1, "sha256:1;folders=2;quote=").stored == "sha256:1"
