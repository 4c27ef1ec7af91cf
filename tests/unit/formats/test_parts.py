"""Rows whose columns stay apart: a text is the JSON of their values, alike in every format."""

from __future__ import annotations

import io
import json

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, reader_of, reasons, texts
from tests.unit.formats.test_json_arrays import rows_of
from tests.unit.formats.test_paths import file_of
from tidemill.encoding.text_hashes import text_hashes
from tidemill.errors import SchemaError
from tidemill.values.columns import Columns
from tidemill.values.rows import check_columns

CHATS = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "hi"\n'}],
    [{"role": "user", "content": "é 😀 <|im_end|>"}],
]
PATHS = ["a.parquet", "a.arrow", "a.csv", "a.jsonl"]


def encoded(records, path):
    if path.endswith(".csv"):
        lines = [",".join(records[0])]
        for record in records:
            cells = (value if isinstance(value, str) else json.dumps(value) for value in record.values())
            lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
        return "\n".join(lines).encode() + b"\n"
    return file_of(records, path.rpartition(".")[2])


def parts(rows):
    return [None if text is None else json.loads(text) for text in texts(rows)]


@pytest.mark.parametrize("path", PATHS)
def test_every_format_keeps_the_columns_of_a_text_apart(path):
    records = [{"title": 'A "film"', "body": "Good,\nvery."}, {"title": "é", "body": ""}]

    rows = all_rows(encoded(records, path), path, text=["title", "body"], as_parts=True)

    assert parts(rows) == [['A "film"', "Good,\nvery."], ["é", ""]]
    assert reasons(rows) == [None, None]
    assert texts(rows)[1] == '["é",""]'


@pytest.mark.parametrize("path", PATHS)
def test_a_column_that_is_kept_too_is_kept_as_it_is(path):
    rows = all_rows(
        encoded([{"id": "a", "title": "b"}], path), path, text=["id", "title"], kept=(("id", "id"),), as_parts=True
    )

    assert parts(rows) == [["a", "b"]]
    assert [row["id"] for row in rows] == ["a"]


@pytest.mark.parametrize("path", PATHS)
def test_every_format_gives_a_list_of_messages_as_it_is(path):
    rows = all_rows(encoded([{"messages": chat} for chat in CHATS], path), path, text="messages", as_parts=True)

    assert parts(rows) == [[chat] for chat in CHATS]
    assert texts(rows) == [orjson.dumps([chat]).decode() for chat in CHATS]


def test_an_array_of_json_gives_them_as_its_lines_would():
    rows = rows_of(json.dumps([{"text": chat} for chat in CHATS]).encode(), as_parts=True)

    assert parts(rows) == [[chat] for chat in CHATS]


def test_a_line_of_text_is_a_part_of_its_own():
    assert parts(all_rows(b"a line\n\nanother\n", "a.txt", as_parts=True)) == [["a line"], [""], ["another"]]


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_whatever_the_texts_are_they_come_back_from_their_json(pairs):
    records = [{"a": a, "b": b} for a, b in pairs]

    for path in ("a.parquet", "a.jsonl"):
        assert parts(all_rows(encoded(records, path), path, text=["a", "b"], as_parts=True)) == [list(p) for p in pairs]


@pytest.mark.parametrize("path", ["a.parquet", "a.jsonl"])
def test_a_row_with_a_null_column_has_no_text_and_says_which(path):
    records = [{"a": "x", "b": None}, {"a": None, "b": "y"}, {"a": "x", "b": "y"}]

    rows = all_rows(encoded(records, path), path, text=["a", "b"], as_parts=True)

    assert reasons(rows) == ["b is null", "a is null", None]
    assert parts(rows) == [None, None, ["x", "y"]]


@pytest.mark.parametrize("path", ["a.parquet", "a.jsonl"])
def test_what_a_message_has_no_value_for_is_no_part_of_it(path):
    chats = [[{"role": "user", "content": "x", "name": None}], [{"role": "user", "content": "y", "name": "z"}]]

    rows = all_rows(encoded([{"chat": chat} for chat in chats], path), path, text="chat", as_parts=True)

    assert parts(rows) == [[[{"role": "user", "content": "x"}]], [[{"role": "user", "content": "y", "name": "z"}]]]


@pytest.mark.parametrize("path", ["a.parquet", "a.jsonl"])
def test_numbers_and_booleans_are_parts_as_they_are_written(path):
    records = [{"title": "A film", "stars": 4, "score": 0.25, "seen": True}]

    rows = all_rows(encoded(records, path), path, text=["title", "stars", "score", "seen"], as_parts=True)

    assert parts(rows) == [["A film", "4", "0.25", "true"]]


def test_a_cell_that_is_no_list_of_messages_among_others_is_quarantined():
    data = encoded([{"messages": CHATS[0]}] * 3, "a.csv") + b'hello\n"[{""role"": 1}]"\n'

    rows = all_rows(data, "a.csv", text="messages", as_parts=True)

    assert reasons(rows)[:3] == [None] * 3
    assert reasons(rows)[3:] == ["messages is no list of messages, as most of the file's first rows have it"] * 2
    assert parts(rows)[3:] == [None, None]


def test_a_text_among_others_that_looks_like_messages_is_text():
    looks = json.dumps(CHATS[0])

    rows = all_rows(encoded([{"text": "hello"}, {"text": looks}], "a.csv"), "a.csv", as_parts=True)

    assert parts(rows) == [["hello"], [looks]]


def test_an_object_where_a_text_or_messages_are_read_is_quarantined():
    values = ['"x"', '{"role": "user"}', r'"\ud800"', r'[{"role": "user", "content": "\ud800"}]']
    lines = "".join(f'{{"text": {value}}}\n' for value in values)

    rows = all_rows(lines.encode(), "a.jsonl", as_parts=True)

    assert parts(rows) == [["x"], None, None, None]
    _, of_object, of_text, of_messages = map(str, reasons(rows))
    assert of_object.startswith("text is an object, not a string")
    assert "surrogate" in of_text
    assert of_messages.startswith("text cannot be read")


def test_text_of_a_message_that_is_not_utf8_is_quarantined_alone():
    contents = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    struct = pa.StructArray.from_arrays([pa.array(["user", "user"]), contents], ["role", "content"])
    table = pa.table({"messages": pa.ListArray.from_arrays([0, 1, 2], struct)})
    out = io.BytesIO()
    pq.write_table(table, out)

    rows = all_rows(out.getvalue(), "a.parquet", text="messages", as_parts=True)

    assert parts(rows) == [[[{"role": "user", "content": "good"}]], None]
    assert reasons(rows)[1] == "messages holds a string that is not valid UTF-8"


def test_a_column_of_lists_of_texts_is_refused():
    data = encoded([{"words": ["a", "b"]}], "a.parquet")

    with pytest.raises(
        SchemaError, match=r"'words' has type list<.*>, not string\. Choose .* of strings or of chats as"
    ):
        check_columns(reader_of(data, "a.parquet").schema(), Columns(("words",), as_parts=True), "a.parquet")


def test_a_hash_of_parts_tells_where_one_ends_and_the_next_begins():
    records = [{"a": "x", "b": "yz"}, {"a": "xy", "b": "z"}]
    rows = all_rows(encoded(records, "a.csv"), "a.csv", text=["a", "b"], as_parts=True)

    first, second = text_hashes(pa.array(texts(rows))).to_pylist()

    assert first != second
