"""Arrow files and streams: the rows that pyarrow reads, of the columns asked for, or what is wrong with them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from tests.unit.formats.sources import MemorySource, all_rows, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import FileChanged, FormatError, SchemaError, SourceUnavailable
from tidemill.formats import Columns, open_reader

WRITERS = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}


def arrow(table: pa.Table, kind: str = "stream", rows: int = 100, **options: Any) -> bytes:
    out = io.BytesIO()
    with WRITERS[kind](out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return out.getvalue()


def batches_of(groups: Sequence[Sequence[str | None]], kind: str) -> bytes:
    schema, out = pa.schema([("text", pa.string())]), io.BytesIO()
    with WRITERS[kind](out, schema) as writer:
        for group in groups:
            writer.write_batch(pa.record_batch([pa.array(group, pa.string())], schema=schema))
    return out.getvalue()


MANY = pa.table(
    {
        "id": range(1000),
        "text": [f"good {i}" for i in range(1000)],
        "n": pa.nulls(1000),
        "flag": [True, None] * 500,
        "list": [[i, i + 1] for i in range(1000)],
        "large": pa.array([["x"]] * 1000, pa.large_list(pa.large_string())),
        "struct": [{"a": i, "b": {"c": "x"}} for i in range(1000)],
        "name": pa.array(["q", "r"] * 500).dictionary_encode(),
        "vector": pa.array([[1.0, 2.0]] * 1000, pa.list_(pa.float32(), 2)),
        "map": pa.array([[("k", 1)]] * 1000, pa.map_(pa.string(), pa.int64())),
        "bytes": pa.array([b"x"] * 1000, pa.binary(1)),
        "last": [f"z{i}" for i in range(1000)],
    }
)
VIEWS = MANY.select(["text", "id"]).append_column("view", pa.array(["a view of text"] * 1000, pa.string_view()))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.lists(st.none() | st.text(max_size=30), max_size=20), max_size=8),
    st.integers(1, 500),
    st.sampled_from(sorted(WRITERS)),
)
def test_slices_cover_each_row_once_for_any_batches(groups, shard_bytes, kind):
    expected = [text for group in groups for text in group]
    data = batches_of(groups, kind)
    slices, rows = slices_and_rows(reader_of(data, "a.arrow"), shard_bytes)
    assert texts(rows) == expected
    assert [row["row_number"] for row in rows] == list(range(len(expected)))
    again = reader_of(data, "a.arrow")
    assert [again.rows(cut).num_rows for cut in reversed(slices)] == [cut.num_rows for cut in reversed(slices)]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("table", [MANY, VIEWS], ids=["many", "views"])
def test_every_column_alone_is_what_pyarrow_reads(kind, compression, table):
    data = arrow(table, kind, compression=compression)
    for name in table.column_names:
        rows = all_rows(data, "a.arrow", kept=((name, "kept"),), shard_bytes=3000)
        assert texts(rows) == table["text"].to_pylist()
        assert [row["kept"] for row in rows] == table[name].to_pylist()


@pytest.mark.parametrize("kind", WRITERS)
def test_dictionaries_that_grow_or_change_between_batches_are_followed(kind):
    batches = [["a", "b"], ["a", "b", "c"]] if kind == "file" else [["a", "b"], ["a", "b", "c"], ["x"]]
    out = io.BytesIO()
    schema = pa.schema([("text", pa.string()), ("name", pa.dictionary(pa.int32(), pa.string()))])
    with WRITERS[kind](out, schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as writer:
        for names in batches:
            column = pa.DictionaryArray.from_arrays(pa.array(range(len(names)), pa.int32()), pa.array(names))
            writer.write_batch(pa.record_batch([pa.array(names), column], schema=schema))
    rows = all_rows(out.getvalue(), "a.arrow", kept=(("name", "name"),), shard_bytes=1)
    assert [row["name"] for row in rows] == [name for names in batches for name in names]


def test_feather_is_read_and_its_first_version_says_what_to_do():
    out = io.BytesIO()
    feather.write_feather(MANY.select(["text", "id"]), out)
    assert texts(all_rows(out.getvalue(), "a.feather")) == MANY["text"].to_pylist()
    with pytest.raises(FormatError, match=r"a\.feather is Feather of version 1\. Write it again"):
        all_rows(b"FEA1" + bytes(60) + b"FEA1", "a.feather")


def test_what_datasets_saves_is_read(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "lab": datasets.ClassLabel(names=["a", "b"])})
    saved = datasets.Dataset.from_dict({"text": MANY["text"].to_pylist(), "lab": [0, 1] * 500}, features)
    saved.save_to_disk(tmp_path / "d")
    [path] = (tmp_path / "d").glob("*.arrow")
    rows = all_rows(path.read_bytes(), path.name, kept=(("lab", "lab"),))
    assert [(row["text"], row["lab"]) for row in rows] == [(row["text"], row["lab"]) for row in saved]


@pytest.mark.parametrize("kind", WRITERS)
def test_only_the_columns_asked_for_are_read(kind):
    blobs = pa.array([b"x" * 10_000] * 1000)
    data = arrow(MANY.select(["text"]).append_column("blob", blobs), kind, rows=250)
    source = MemorySource(data, "a.arrow")
    assert len(slices_and_rows(open_reader("arrow", source, Columns(("text",))), 10**6)[1]) == 1000
    assert source.bytes_served < len(data) / 10


def test_a_slice_of_text_is_about_as_large_as_asked_also_where_it_is_compressed():
    table = pa.table({"text": [f"{i:08d}" * 100 for i in range(1000)]})
    for compression in (None, "zstd"):
        slices, _ = slices_and_rows(reader_of(arrow(table, rows=10, compression=compression), "a.arrow"), 80_000)
        assert 9 <= len(slices) <= 13


def test_known_slices_stand_while_the_file_is_the_same():
    data = arrow(MANY)
    slices = list(reader_of(data, "a.arrow").slices(shard_bytes=2000))
    assert list(reader_of(data, "a.arrow").slices(shard_bytes=10, known=slices)) == slices
    with pytest.raises(FileChanged):
        reader_of(arrow(MANY.slice(1)), "a.arrow").rows(slices[0])


def test_strings_that_are_no_utf8_are_quarantined_row_by_row():
    column = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    rows = all_rows(arrow(pa.table({"text": column})), "a.arrow")
    assert texts(rows) == ["a", None, "c"]
    assert reasons(rows)[1] == "text is not valid UTF-8 at byte 0"


def test_columns_that_are_not_there_or_hold_no_strings_are_refused():
    with pytest.raises(SchemaError, match="has no column 'txt'"):
        all_rows(arrow(MANY), "a.arrow", text="txt")
    with pytest.raises(SchemaError, match="has type int64, not string"):
        all_rows(arrow(MANY), "a.arrow", text="id")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
def test_a_file_that_is_cut_short_is_an_error_and_never_a_short_result(kind, share):
    data = arrow(MANY, kind)
    with pytest.raises(FormatError, match=r"a\.arrow is not a sound Arrow file or stream"):
        all_rows(data[: int(len(data) * share)], "a.arrow")


def test_a_stream_that_ends_between_two_batches_lacks_its_end():
    whole = arrow(MANY)
    without_end = whole[:-8]
    with pytest.raises(FormatError, match="its end is missing, as if its writer had been stopped"):
        all_rows(without_end, "a.arrow")


@pytest.mark.parametrize("data", [b"", b"text\n", b"PAR1" + bytes(40), bytes(40), b"\xff" * 40])
def test_what_is_no_arrow_is_a_format_error(data):
    with pytest.raises(FormatError, match=r"a\.arrow is not a sound Arrow file or stream"):
        all_rows(data, "a.arrow")


@settings(max_examples=150)
@given(st.data(), st.sampled_from(sorted(WRITERS)), st.sampled_from([None, "zstd"]), st.booleans())
def test_changed_bytes_give_rows_or_a_format_error_and_nothing_else(draw, kind, compression, views):
    table = MANY.slice(0, 40).append_column("view", VIEWS["view"].slice(0, 40)) if views else MANY.slice(0, 40)
    data = bytearray(arrow(table, kind, rows=20, compression=compression))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        rows = all_rows(bytes(data), "a.arrow", kept=tuple((name, f"kept.{name}") for name in table.column_names))
    except (FormatError, SchemaError):
        rows = []
    assert all(row["text"] is not None or row["reason"] for row in rows)


def test_what_the_source_raises_comes_through_as_it_is():
    source = MemorySource(arrow(MANY), "a.arrow")
    source.failure = SourceUnavailable("503")
    with pytest.raises(SourceUnavailable):
        open_reader("arrow", source, Columns(("text",))).schema()


MEMORY = """
import resource
from tests.unit.formats.test_arrow import arrow, pa
from tests.unit.formats.sources import MemorySource
from tidemill.formats import Columns, open_reader
texts = pa.array(["x" * 1000] * 1000)
data = arrow(pa.table({"text": pa.chunked_array([texts] * 60)}), rows=1000)
reader = open_reader("arrow", MemorySource(data, "a.arrow"), Columns(("text",)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(reader.rows(cut).num_rows for cut in reader.slices(shard_bytes=2**22))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_large_file_passes_through_little_memory():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=root, capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 60_000
    assert mebibytes < 60
