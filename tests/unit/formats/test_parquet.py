from __future__ import annotations

import datetime
import io
import subprocess
import sys
import uuid
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import MemorySource, all_rows, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import FileChanged, FormatError, SchemaError, SourceUnavailable
from tidemill.formats import Columns, open_reader
from tidemill.formats.columnar.footer import unencoded_bytes
from tidemill.values.types import plain_type


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def parquet_groups(groups: Sequence[Sequence[str | None]], **options: Any) -> bytes:
    """A file with one row group a list."""
    schema = pa.schema([("text", pa.string())])
    out = io.BytesIO()
    with pq.ParquetWriter(out, schema, **options) as writer:
        for group in groups:
            writer.write_table(pa.table({"text": pa.array(group, pa.string())}), row_group_size=max(1, len(group)))
    return out.getvalue()


def random_texts(num: int, size: int) -> list[str]:
    return [f"{i:08d}{i * 2654435761 % 2**32:010d}" * (size // 18) for i in range(num)]


@given(st.lists(st.lists(st.none() | st.text(max_size=30), max_size=20), max_size=8), st.integers(1, 500))
def test_slices_cover_each_row_once_for_any_row_groups(groups, shard_bytes):
    expected = [text for group in groups for text in group]
    slices, rows = slices_and_rows(reader_of(parquet_groups(groups), "a.parquet"), shard_bytes)
    assert texts(rows) == expected
    assert [row["row_number"] for row in rows] == list(range(len(expected)))
    assert reasons(rows) == ["text is null" if text is None else None for text in expected]
    assert [cut.first_row for cut in slices[1:]] == [cut.first_row + cut.num_rows for cut in slices[:-1]]


@given(st.lists(st.integers(0, 30), max_size=5), st.integers(1, 500), st.integers(1, 500), st.integers(0, 10))
def test_known_slices_are_given_again_and_the_rest_is_cut_behind_them(sizes, shard_bytes, later_bytes, num_known):
    groups = [random_texts(size, 36) for size in sizes]
    data = parquet_groups(groups, use_dictionary=False)
    known = list(reader_of(data, "a.parquet").slices(shard_bytes=shard_bytes))[:num_known]
    slices, rows = slices_and_rows(reader_of(data, "a.parquet"), later_bytes, known=known)
    assert slices[: len(known)] == known
    assert texts(rows) == [text for group in groups for text in group]


def test_known_slices_of_another_content_are_cut_anew():
    before = list(reader_of(parquet_groups([["a"] * 9]), "a.parquet").slices(shard_bytes=1))
    after = list(reader_of(parquet_groups([["b"] * 9]), "a.parquet").slices(shard_bytes=10**6, known=before))
    assert [cut.num_rows for cut in after] == [9]


def test_small_row_groups_share_a_slice_and_giant_ones_are_cut_in_equal_row_ranges():
    groups = [random_texts(n, 36) for n in (10, 10, 10, 1000, 10)]
    slices = list(reader_of(parquet_groups(groups, use_dictionary=False), "a.parquet").slices(shard_bytes=5000))
    assert [cut.num_rows for cut in slices] == [30, *[111] * 8, 112, 10]
    assert all(cut.text_bytes < 5000 for cut in slices)


def test_only_the_columns_asked_for_are_read_and_nothing_twice():
    num = 20_000
    table = pa.table(
        {
            "wide": random_texts(num, 1000),
            "text": random_texts(num, 72),
            "more": random_texts(num, 500),
            "id": range(num),
        }
    )
    data = parquet(table, row_group_size=5000, use_dictionary=False, compression="none")
    source = MemorySource(data, "a.parquet")
    reader = open_reader("parquet", source, Columns(text=("text",), kept=(("id", "id"),)))
    slices = list(reader.slices(shard_bytes=150_000))
    footer = int.from_bytes(data[-8:-4], "little") + 8
    assert source.bytes_served == footer
    assert sum(reader.rows(cut).num_rows for cut in slices) == num
    metadata = pq.read_metadata(io.BytesIO(data))
    asked = sum(metadata.row_group(i).column(c).total_compressed_size for i in range(4) for c in (1, 3))
    assert source.bytes_served == asked + footer
    assert asked < len(data) / 15
    ends = [span for span in sorted(source.served) if span[1] < len(data) - footer]
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ends))


def test_slices_of_a_giant_row_group_can_be_read_in_any_order():
    data = parquet_groups([random_texts(5000, 72)], use_dictionary=False)
    slices, rows = slices_and_rows(reader_of(data, "a.parquet"), 30_000)
    assert len(slices) > 10
    reader = reader_of(data, "a.parquet")
    for cut in [slices[7], slices[8], slices[2], slices[-1], slices[2]]:
        assert reader.rows(cut).to_pylist() == rows[cut.first_row : cut.first_row + cut.num_rows]


@pytest.mark.parametrize(
    "type_",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_every_kind_of_string_is_text(type_):
    values = ["", "  ", "\0", "אבג", "é", None, "x" * 10_000_000]
    column = pa.array(values).cast(type_) if not pa.types.is_dictionary(type_) else pa.array(values).dictionary_encode()
    data = parquet(pa.table({"text": column}), row_group_size=3)
    reader = reader_of(data, "a.parquet", kept=(("text", "body"),))
    assert reader.schema().types == [pa.string()]
    (cut,) = reader.slices(shard_bytes=2**30)
    table = reader.rows(cut)
    assert table.schema.types == [pa.int64(), pa.string(), pa.string(), pa.string()]
    assert table["text"].to_pylist() == table["body"].to_pylist() == values


def test_several_text_columns_are_joined_and_null_only_if_all_are():
    table = pa.table({"a": ["x", None, None, ""], "b": ["y", "z", None, None]})
    rows = all_rows(parquet(table), "a.parquet", text=("a", "b"), separator=" | ")
    assert texts(rows) == ["x | y", " | z", None, " | "]
    assert reasons(rows) == [None, None, "text is null", None]


def test_kept_columns_pass_through_unchanged_under_their_new_names():
    moment = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": ["a", "b"],
            "tags": pa.array([["x", None], None], pa.list_(pa.string())),
            "meta": [{"n": 1, "deep": {"f": [1.5]}}, None],
            "when": pa.array([moment, None], pa.timestamp("us", "UTC")),
            "raw": pa.array([b"\xff", None], pa.binary()),
            "f": pa.array([1.5, None], pa.float32()),
        }
    )
    names = table.schema.names[1:]
    reader = reader_of(parquet(table), "a.parquet", kept=tuple((name, f"my_{name}") for name in names))
    (cut,) = reader.slices(shard_bytes=2**20)
    rows = reader.rows(cut)
    assert rows.schema.names[3:] == [f"my_{name}" for name in names]
    assert rows.select(range(3, 8)).rename_columns(names).equals(table.select(names))


VECTOR = pa.list_(pa.float16(), 2)
HALVES = [np.array(pair, np.float16) for pair in ([1, 2], [0.5, 4])]


@pytest.mark.parametrize(
    ("type_", "values", "kept"),
    [
        (VECTOR, [HALVES[0], None, HALVES[1]], [[1.0, 2.0], None, [0.5, 4.0]]),
        (pa.float16(), [HALVES[1][0], None, HALVES[0][1]], [0.5, None, 2.0]),
        (
            pa.struct([("v", VECTOR), ("s", pa.string())]),
            [{"v": HALVES[0], "s": "x"}, None, {"v": None, "s": "y"}],
            [{"v": [1.0, 2.0], "s": "x"}, None, {"v": None, "s": "y"}],
        ),
        (pa.list_(VECTOR), [[HALVES[0], None], None, []], [[[1.0, 2.0], None], None, []]),
        (pa.map_(pa.string(), VECTOR), [[("k", HALVES[0])], None, []], [[("k", [1.0, 2.0])], None, []]),
    ],
    ids=str,
)
def test_lists_of_a_fixed_size_and_halves_are_kept_widened_at_any_depth(type_, values, kept):
    data = parquet(pa.table({"text": ["a", "b", "c"], "v": pa.array(values, type_)}), row_group_size=2)
    reader = reader_of(data, "a.parquet", kept=(("v", "v"),))
    (cut,) = reader.slices(shard_bytes=2**20)
    rows = reader.rows(cut)
    assert rows["v"].to_pylist() == kept
    assert rows.schema.field("v").type == reader.schema().field("v").type == plain_type(type_)
    assert rows["reason"].null_count == 3


def test_a_kept_column_that_is_missing_or_null_typed_in_a_file_is_null_there():
    types = (("v", pa.struct([("a", pa.string()), ("b", pa.int64())])),)
    values = [{"b": 1, "a": None}, None]
    for v in ({}, {"v": pa.nulls(2)}, {"v": pa.array(values)}, {"v": pa.array([{"b": 1}, None])}):
        rows = all_rows(parquet(pa.table({"text": ["x", "y"], **v})), "a.parquet", kept=(("v", "v"),), types=types)
        assert [row["v"] for row in rows] == (
            [{"a": None, "b": 1}, None] if v and v["v"].type != pa.null() else [None] * 2
        )
        assert reasons(rows) == [None, None]


def test_a_field_that_the_table_lacks_is_not_dropped():
    data = parquet(pa.table({"text": ["x"], "v": [[{"a": 1, "b": 2}]]}))
    types = (("v", pa.list_(pa.struct([("a", pa.int64())]))),)
    with pytest.raises(SchemaError, match="column 'v' has type"):
        all_rows(data, "a.parquet", kept=(("v", "v"),), types=types)


def test_an_integer_that_no_double_holds_is_quarantined():
    data = parquet(pa.table({"text": ["x", "y"], "v": pa.array([2**53, 2**53 + 1])}))
    rows = all_rows(data, "a.parquet", kept=(("v", "v"),), types=(("v", pa.float64()),))
    assert [row["v"] for row in rows] == [2.0**53, None]
    assert rows[1]["reason"].startswith(f"v = {2**53 + 1} is not double")


def test_a_widened_column_is_still_checked_for_strings_that_are_no_utf8():
    struct = pa.StructArray.from_arrays([invalid_strings([b"a", b"\xff"]), pa.array([1, 2], pa.int8())], ["s", "n"])
    types = (("v", pa.struct([("s", pa.string()), ("n", pa.int64())])),)
    rows = all_rows(parquet(pa.table({"text": ["x", "y"], "v": struct})), "a.parquet", kept=(("v", "v"),), types=types)
    assert [row["v"] for row in rows] == [{"s": "a", "n": 1}, None]
    assert reasons(rows) == [None, "v holds a string that is not valid UTF-8"]


def test_names_that_are_there_twice_matter_only_where_they_are_asked_for():
    data = parquet(pa.Table.from_arrays([[1], ["t"], [2], [3], [4]], names=["id", "text", "z", "z", "TEXT"]))
    assert all_rows(data, "a.parquet", kept=(("id", "id"),))[0]["text"] == "t"
    with pytest.raises(SchemaError, match=r"a\.parquet has 2 columns named 'z'"):
        all_rows(data, "a.parquet", kept=(("z", "z"),))


def invalid_strings(values: list[bytes]) -> pa.Array:
    return pa.array(values, pa.binary()).view(pa.string())


def test_strings_that_are_no_utf8_are_quarantined_wherever_they_are():
    table = pa.table(
        {
            "text": invalid_strings([b"a", b"b\xff", b"c", b"d"]),
            "key": invalid_strings([b"1", b"2", b"3\xed\xa0\x80", b"4"]),
            "tags": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4]), invalid_strings([b"x", b"y", b"z", b"\xff"])),
        }
    )
    rows = all_rows(parquet(table), "a.parquet", kept=(("key", "key"), ("tags", "tags")))
    assert texts(rows) == ["a", None, None, None]
    assert [row["key"] for row in rows] == ["1", "2", "3���", "4"]
    assert [row["tags"] for row in rows] == [["x"], ["y"], ["z"], None]
    assert reasons(rows) == [
        None,
        "text is not valid UTF-8 at byte 1",
        "key is not valid UTF-8 at byte 1 (a lone surrogate)",
        "tags holds a string that is not valid UTF-8",
    ]


def test_a_cell_that_does_not_fit_the_settled_type_is_quarantined():
    data = parquet(pa.table({"text": ["a", "b"], "n": pa.array([1, 2**40])}))
    rows = all_rows(data, "a.parquet", kept=(("n", "n"),), types=(("n", pa.int32()),))
    assert [row["n"] for row in rows] == [1, None]
    assert reasons(rows) == [None, f"n = {2**40} is not int32; dataset.types can settle the column's type"]


def test_a_nested_cell_that_does_not_fit_the_settled_type_is_quarantined():
    data = parquet(pa.table({"text": ["a", "b"], "n": pa.array([[1], [2**40]])}))
    rows = all_rows(data, "a.parquet", kept=(("n", "n"),), types=(("n", pa.list_(pa.int32())),))
    assert [row["n"] for row in rows] == [[1], None]
    assert texts(rows) == ["a", None]


def test_a_column_whose_type_cannot_become_the_settled_one_is_a_schema_error():
    reader = reader_of(
        parquet(pa.table({"text": ["a"], "n": [[1]]})), "a.parquet", kept=(("n", "n"),), types=(("n", pa.int64()),)
    )
    (cut,) = reader.slices(shard_bytes=2**20)
    with pytest.raises(SchemaError, match="column 'n' has type list"):
        reader.rows(cut)


@pytest.mark.parametrize("type_", [pa.int64(), pa.binary(3), pa.uuid(), pa.list_(pa.string())], ids=str)
def test_a_text_column_that_holds_no_strings_is_refused(type_):
    data = parquet(pa.table({"n": pa.array([None], type_), "other": ["a"]}))
    with pytest.raises(SchemaError, match=r"the text column 'n' has type .* not string.*: other"):
        list(reader_of(data, "a.parquet", "n").slices(shard_bytes=1))


def test_a_column_named_with_a_dot_or_inside_another_is_told_apart():
    table = pa.table({"a": [{"b": "inner"}], "a.b": ["outer"], "text": ["t"]})
    rows = all_rows(parquet(table), "a.parquet", kept=(("a.b", "outer"), ("a", "whole")))
    assert (rows[0]["outer"], rows[0]["whole"]) == ("outer", {"b": "inner"})
    (row,) = all_rows(parquet(table.select(["a", "text"])), "a.parquet", kept=(("a.b", "outer"),))
    assert row["outer"] == "inner"


@pytest.mark.parametrize("groups", [[], [[]], [[], []]])
def test_a_file_without_rows_has_no_slices(groups):
    assert list(reader_of(parquet_groups(groups), "a.parquet").slices(shard_bytes=10)) == []


SOUND = parquet_groups([random_texts(1000, 72)], use_dictionary=False, compression="none")


@pytest.mark.parametrize(
    "data",
    [b"", b"PAR1", SOUND[:-1], SOUND[: len(SOUND) // 2], SOUND[:-8] + b"\xff\xff\xff\x7fPAR1", b"text\na\nb\nc\nd\n"],
    ids=["empty", "magic only", "a byte short", "half", "footer too long", "csv"],
)
def test_what_is_no_whole_parquet_file_is_a_format_error_that_names_it(data):
    with pytest.raises(FormatError, match=r"a\.parquet"):
        reader_of(data, "a.parquet").schema()


def test_a_corrupt_footer_or_page_is_a_format_error():
    footer_start = len(SOUND) - 8 - int.from_bytes(SOUND[-8:-4], "little")
    with pytest.raises(FormatError, match=r"a\.parquet is not a sound Parquet file"):
        reader_of(SOUND[:footer_start] + b"\xff" * 20 + SOUND[footer_start + 20 :], "a.parquet").schema()
    reader = reader_of(SOUND[:4] + b"\xff" * 2000 + SOUND[2004:], "a.parquet")
    (cut,) = reader.slices(shard_bytes=10**9)
    with pytest.raises(FormatError, match=r"a\.parquet is not a sound Parquet file"):
        reader.rows(cut)


def test_a_page_that_does_not_match_its_checksum_is_a_format_error():
    data = parquet_groups([["some text"] * 9], use_dictionary=False, compression="none", write_page_checksum=True)
    reader = reader_of(data.replace(b"some text", b"SOME TEXT", 5), "a.parquet")
    (cut,) = reader.slices(shard_bytes=10**9)
    with pytest.raises(FormatError, match="CRC"):
        reader.rows(cut)


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_bytes_that_are_utf8_are_text(type_):
    table = pa.table({"text": pa.array(["é".encode(), b"b\xff", None], type_)})
    rows = all_rows(parquet(table), "a.parquet")
    assert texts(rows) == ["é", None, None]
    assert reasons(rows) == [None, "text is not valid UTF-8 at byte 1", "text is null"]


@pytest.mark.parametrize("type_", [pa.large_string(), pa.string_view()], ids=str)
def test_strings_that_are_no_utf8_are_found_in_every_kind_of_string(type_):
    table = pa.table({"text": pa.array([b"a", b"b\xff"], pa.binary()).view(pa.string()).cast(type_)})
    assert reasons(all_rows(parquet(table), "a.parquet")) == [None, "text is not valid UTF-8 at byte 1"]


def test_a_text_column_of_nulls_alone_has_no_text_and_is_no_error():
    rows = all_rows(parquet(pa.table({"text": pa.nulls(3)})), "a.parquet")
    assert reasons(rows) == ["text is null"] * 3


def test_extension_types_are_read_as_what_they_are_stored_as_but_for_a_uuid():
    table = pa.table({"text": pa.array(['{"a": 1}'], pa.json_()), "uuid": pa.array([b"0" * 16], pa.uuid())})
    rows = all_rows(parquet(table), "a.parquet", kept=(("uuid", "uuid"),))
    assert (rows[0]["text"], rows[0]["uuid"]) == ('{"a": 1}', uuid.UUID(bytes=b"0" * 16))


@pytest.mark.parametrize("failure", [SourceUnavailable("503", wait_seconds=3.0), ConnectionResetError("reset")])
def test_what_the_source_raises_comes_through_as_it_is_and_the_next_call_may_succeed(failure):
    source = MemorySource(SOUND, "a.parquet")
    reader = open_reader("parquet", source, Columns(("text",)))
    source.failure = failure
    with pytest.raises(type(failure)) as caught:
        reader.schema()
    assert caught.value is failure
    source.failure = None
    cuts = list(reader.slices(shard_bytes=30_000))
    source.failure = failure
    with pytest.raises(type(failure)) as caught:
        reader.rows(cuts[0])
    assert caught.value is failure
    source.failure = None
    assert [reader.rows(cut).num_rows for cut in cuts] == [cut.num_rows for cut in cuts]


def test_rows_of_another_files_slice_are_refused():
    (cut,) = reader_of(parquet_groups([["a"]]), "a.parquet").slices(shard_bytes=1)
    with pytest.raises(FileChanged, match=r"a\.parquet is not the file"):
        reader_of(parquet_groups([["b"]]), "a.parquet").rows(cut)


def test_texts_that_repeat_count_as_what_they_take_in_memory():
    data = parquet(pa.table({"text": random_texts(10, 1000) * 500, "id": range(5000)}))
    assert len(data) < 50_000
    slices, rows = slices_and_rows(reader_of(data, "a.parquet"), 10**6)
    assert [cut.num_rows for cut in slices] == [1000] * 5
    assert sum(cut.text_bytes for cut in slices) == sum(len(row["text"]) for row in rows)


@given(st.lists(st.tuples(st.text(max_size=20), st.lists(st.text(max_size=5), max_size=3)), min_size=1, max_size=20))
def test_decoded_sizes_in_the_footer_are_those_of_the_strings(values):
    schema = pa.schema([("text", pa.string()), ("n", pa.int64()), ("tags", pa.list_(pa.string()))])
    table = pa.table([[v[0] for v in values], range(len(values)), [v[1] for v in values]], schema=schema)
    data = parquet(table, row_group_size=3)
    expected = [
        [sum(len(t.encode()) for t, _ in group), None, sum(len(tag.encode()) for _, tags in group for tag in tags)]
        for group in (values[start : start + 3] for start in range(0, len(values), 3))
    ]
    assert unencoded_bytes(data[-8 - int.from_bytes(data[-8:-4], "little") : -8]) == expected


MEMORY = """
import os, resource, sys
sys.path.insert(0, {root!r})
import pyarrow as pa
from tidemill.formats import Columns, open_reader

class Source:
    path, content = {file!r}, "c"
    size = os.path.getsize(path)
    file = open(path, "rb")

    def read(self, start, stop):
        self.file.seek(start)
        return self.file.read(stop - start)

reader = open_reader("parquet", Source(), Columns(("text",), kept=(("id", "id"),)))
cuts = list(reader.slices(shard_bytes={shard_bytes}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for cut in cuts:
    rows += reader.rows(cut).num_rows
print(len(cuts), rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_giant_row_group_passes_through_little_memory(tmp_path, compression):
    file = tmp_path / "giant.parquet"
    table = pa.table({"text": random_texts(40_000, 1000), "id": range(40_000)})
    pq.write_table(table, file, row_group_size=40_000, use_dictionary=False, compression=compression)
    code = MEMORY.format(root=str(Path(__file__).parents[3]), file=str(file), shard_bytes=4 * 2**20)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    num_slices, num_rows, kilobytes = map(int, output.split())
    assert (num_slices, num_rows) == (10, 40_000)
    assert kilobytes < 25 * 1024
