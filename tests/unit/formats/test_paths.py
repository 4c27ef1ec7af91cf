"""Texts and kept columns within nested ones, by a path."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import MemorySource, all_rows, reader_of, reasons, texts
from tidemill.errors import SchemaError
from tidemill.formats import Columns, open_reader
from tidemill.values.paths import column_at, steps_of, type_at, value_at

FORMATS = ["parquet", "arrow", "jsonl"]
RECORDS: list[dict[str, Any]] = [
    {"id": 1, "turns": [{"role": "user", "content": "good"}, {"role": "model", "content": "bad"}], "meta": {"by": "x"}},
    {"id": 2, "turns": [{"role": "user", "content": None}], "meta": {"by": None}},
    {"id": 3, "turns": [], "meta": None},
    {"id": 4, "turns": None, "meta": {"by": "y"}},
]


def file_of(records: Sequence[dict[str, Any]], format_name: str) -> bytes:
    if format_name == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    out, table = io.BytesIO(), pa.Table.from_pylist(list(records))
    if format_name == "arrow":
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("text", ("text",)),
        ("a.b", ("a", "b")),
        ("turns[0].content", ("turns", 0, "content")),
        ("turns[-1][2]", ("turns", -1, 2)),
        ("the text.its title", ("the text", "its title")),
        ('"a.b"."c[0]"', ("a.b", "c[0]")),
        ('a."say ""so"""', ("a", 'say "so"')),
        *((path, None) for path in ("", ".a", "a.", "a..b", "[0]", "a[", "a[x]", "a[]", "a]", '"a', '"a"b', 'a"b"')),
    ],
)
def test_a_path_is_names_and_numbers_of_items(path, steps):
    assert steps_of(path) == steps


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("turns[0].content", ["good", None, None, None]),
        ("turns[-1].content", ["bad", None, None, None]),
        ("turns[1].role", ["model", None, None, None]),
        ("meta.by", ["x", None, None, "y"]),
        ('"meta"."by"', ["x", None, None, "y"]),
    ],
)
def test_a_text_within_a_column_is_null_where_the_path_leads_nowhere(format_name, path, found):
    rows = all_rows(file_of(RECORDS, format_name), f"a.{format_name}", text=path)
    assert texts(rows) == found
    assert reasons(rows) == [None if text else "text is null" for text in found]


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_is_kept_may_lie_within_a_column_too_and_beside_all_of_it(format_name):
    kept = (("meta.by", "by"), ("turns", "turns"), ("turns[0].role", "role"))
    rows = all_rows(file_of(RECORDS, format_name), f"a.{format_name}", text="turns[0].content", kept=kept)
    assert [row["by"] for row in rows] == ["x", None, None, "y"]
    assert [row["role"] for row in rows] == ["user", "user", None, None]
    assert [row["turns"] for row in rows] == [record["turns"] for record in RECORDS]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_column_of_that_very_name_wins(format_name):
    data = file_of([{"a": {"b": "within"}, "a.b": "beside"}], format_name)
    assert texts(all_rows(data, f"a.{format_name}", text="a.b")) == ["beside"]
    assert texts(all_rows(data, f"a.{format_name}", text='a."b"')) == ["within"]


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("turns[0].contnet", "'turns[0]' has no field 'contnet'. It has: role, content. Change 'turns[0].contnet'"),
        ("turns.content", "'turns' is a list, with items such as 'turns[0]'"),
        ("meta.by.name", "'meta.by' is string, which has no fields"),
        ("id[0]", "'id' is int64, which has no items"),
        ("nobody.by", "has no column 'nobody.by'. It has: "),
        ("turns[0]", "the text column 'turns[0]' has type struct<"),
    ],
)
def test_a_path_that_leads_nowhere_in_any_row_is_refused_with_what_there_is(format_name, path, said):
    with pytest.raises(SchemaError) as refused:
        all_rows(file_of(RECORDS, format_name), f"a.{format_name}", text=path)
    assert said in str(refused.value)
    assert "dataset.text" in str(refused.value)


@pytest.mark.parametrize("format_name", FORMATS)
def test_lists_that_are_empty_in_all_of_a_file_are_no_fault(format_name):
    rows = all_rows(file_of([{"turns": []}, {"turns": None}], format_name), f"a.{format_name}", text="turns[0].content")
    assert reasons(rows) == ["text is null"] * 2


def test_numbers_within_columns_keep_their_digits_and_a_text_that_is_none_its_reason():
    data = b'{"m": {"n": 1e400, "t": "x"}}\n{"m": {"n": 12345678901234567890123, "t": 5}}\n'
    rows = all_rows(data, "a.jsonl", text="m.t", kept=(("m.n", "n"),))
    assert [row["n"] for row in rows] == ["1e400", "12345678901234567890123"]
    assert reasons(rows) == [None, "m.t is a number, not a string: 5"]


def test_of_a_nested_parquet_column_only_what_the_path_leads_through_is_read():
    turns = [[{"content": f"text {i}", "image": bytes(10_000)}] for i in range(100)]
    table = pa.table({"turns": turns, "other": ["x" * 10_000] * 100})
    out = io.BytesIO()
    pq.write_table(table, out, compression="none", use_dictionary=False)
    source = MemorySource(out.getvalue(), "a.parquet")
    reader = open_reader("parquet", source, Columns(("turns[0].content",)))
    (cut,) = reader.slices(shard_bytes=2**30)
    assert reader.rows(cut)["text"].to_pylist() == [f"text {i}" for i in range(100)]
    assert source.bytes_served < 20_000
    assert cut.text_bytes < 5_000


@given(
    st.lists(st.none() | st.lists(st.none() | st.fixed_dictionaries({"a": st.none() | st.text(max_size=3)}))),
    st.integers(-3, 3),
    st.integers(0, 3),
)
def test_arrow_and_python_find_the_same_behind_a_path(lists, number, start):
    type_ = pa.list_(pa.struct([("a", pa.string())]))
    steps = ("v", number, "a")
    column = pa.chunked_array([pa.array(lists, type_), pa.array(lists, type_).slice(start)])
    found = column_at(column, steps).to_pylist()
    assert found == [value_at({"v": value}, steps) for value in lists + lists[start:]]
    assert type_at(type_, steps) == pa.string()


@pytest.mark.parametrize("type_", [pa.list_(pa.string(), 2), pa.large_list(pa.string())], ids=str)
def test_lists_of_any_kind_have_items(type_):
    out = io.BytesIO()
    pq.write_table(pa.table({"v": pa.array([["a", "b"], None], type_)}), out)
    assert texts(all_rows(out.getvalue(), "a.parquet", text="v[-1]")) == ["b", None]


def test_a_format_without_nested_columns_has_no_paths():
    with pytest.raises(SchemaError, match="'meta' is string, which has no fields"):
        list(reader_of(b"meta,id\nx,1\n", "a.csv", text="meta.by").slices(shard_bytes=1))
