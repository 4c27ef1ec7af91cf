"""Rows that are pairs of texts: alike in every format, and a row without one of them says which it lacks."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tests.unit.formats.sources import MemorySource, all_rows, reader_of
from tidemill.errors import SchemaError
from tidemill.formats import Columns, PartitionedReader, open_reader, partitions_of

TABLE = pa.table({"n": ["a1", "a2"], "text": ["good", "bad"], "b": ["very", ""], "c": ["x", "y"]})


def encoded(path: str) -> bytes:
    if path.endswith((".parquet", ".arrow")):
        sink = pa.BufferOutputStream()
        if path.endswith(".parquet"):
            pq.write_table(TABLE, sink)
        else:
            feather.write_feather(TABLE, sink, compression="uncompressed")
        return sink.getvalue().to_pybytes()
    if path.endswith(".csv"):
        return b"n,text,b,c\na1,good,very,x\na2,bad,,y\n"
    return b'{"n": "a1", "text": "good", "b": "very", "c": "x"}\n{"n": "a2", "text": "bad", "b": "", "c": "y"}\n'


@pytest.mark.parametrize("path", ["a.parquet", "a.arrow", "a.csv", "a.jsonl"])
def test_every_format_gives_two_texts_of_which_one_may_be_empty(path):
    rows = all_rows(encoded(path), path, pair=("b",), kept=(("n", "kept.n"),))

    assert [(row["text"], row["text_pair"], row["reason"], row["kept.n"]) for row in rows] == [
        ("good", "very", None, "a1"),
        ("bad", "", None, "a2"),
    ]
    assert list(rows[0]) == ["row_number", "text", "text_pair", "reason", "kept.n"]


def test_several_columns_of_the_second_text_are_joined_as_those_of_the_first():
    rows = all_rows(encoded("a.csv"), "a.csv", text=["n", "text"], pair=("b", "c"), separator=" | ")

    assert [(row["text"], row["text_pair"]) for row in rows] == [("a1 | good", "very | x"), ("a2 | bad", " | y")]


def test_a_null_text_of_a_pair_is_named_and_its_row_has_neither():
    lines = b'{"a": "x", "b": null}\n{"a": null, "b": "y"}\n{"a": null, "b": null}\n{"a": "x", "b": "y"}\n'

    rows = all_rows(lines, "a.jsonl", text="a", pair=("b",))

    assert [row["reason"] for row in rows] == ["text_pair is null", "text is null", "text is null", None]
    assert [(row["text"], row["text_pair"]) for row in rows] == [(None, None)] * 3 + [("x", "y")]


def test_a_second_text_that_is_not_utf8_is_named():
    rows = all_rows(b"a,b\nx,\xff\nx,y\n", "a.csv", text="a", pair=("b",))

    assert rows[0]["reason"].startswith("text_pair is not valid UTF-8 at byte 0")
    assert rows[1]["reason"] is None


@pytest.mark.parametrize("path", ["a.parquet", "a.csv", "a.jsonl"])
def test_a_second_column_that_is_missing_is_refused_by_its_option(path):
    with pytest.raises(SchemaError, match=r"no column 'd'\. It has: .*\. Set dataset\.text_pair to one of them\."):
        check(path, "d")


def test_a_second_column_of_numbers_is_refused_by_its_option():
    table = pa.table({"text": ["good"], "n": [1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)

    with pytest.raises(SchemaError, match=r"text column 'n' has type int64.* as dataset\.text_pair: text\."):
        check("a.parquet", "n", sink.getvalue().to_pybytes())


def check(path: str, pair: str, data: bytes | None = None) -> None:
    from tidemill.values.rows import check_columns

    columns = Columns(("text",), pair=(pair,))
    reader = reader_of(data or encoded(path), path, pair=(pair,))
    check_columns(reader.schema(), columns, path)


def test_the_columns_of_folders_stand_beside_pairs_of_texts():
    source = MemorySource(encoded("a.csv"), "a.csv")
    columns = Columns(("text",), pair=("b",), kept=(("day", "kept.day"),))
    reader = PartitionedReader(lambda own: open_reader("csv", source, own), columns, partitions_of("/day=1/a.csv"))

    (cut,) = reader.slices(shard_bytes=2**20)

    rows = reader.rows(cut)
    assert rows.column_names == ["row_number", "text", "text_pair", "reason", "kept.day"]
    assert rows["text_pair"].to_pylist() == ["very", ""]


def test_the_size_of_a_slice_counts_both_texts():
    (alone,) = reader_of(encoded("a.parquet"), "a.parquet").slices(shard_bytes=2**20)
    (pair,) = reader_of(encoded("a.parquet"), "a.parquet", pair=("b",)).slices(shard_bytes=2**20)

    assert pair.text_bytes > alone.text_bytes


@pytest.mark.parametrize("path", ["a.parquet", "a.jsonl"])
def test_both_texts_may_lie_within_one_column(path):
    turns = [[{"says": "a question"}, {"says": "an answer"}], [{"says": "a question"}]]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"turns": turns}), sink)
    lines = b"".join(json.dumps({"turns": each}).encode() + b"\n" for each in turns)
    data = sink.getvalue().to_pybytes() if path.endswith(".parquet") else lines

    rows = all_rows(data, path, text="turns[0].says", pair=("turns[1].says",))

    assert [(row["text"], row["text_pair"]) for row in rows] == [("a question", "an answer"), (None, None)]
    assert [row["reason"] for row in rows] == [None, "text_pair is null"]
