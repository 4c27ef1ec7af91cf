from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import FormatError, SchemaError

KEPT_N = (("n", "n"),)


@given(st.lists(st.tuples(st.text(max_size=10), st.none() | st.integers(-(2**63), 2**63 - 1))), st.booleans())
def test_what_pythons_json_module_writes_is_read_back_exactly(records, ensure_ascii):
    lines = [json.dumps({"text": text, "n": n}, ensure_ascii=ensure_ascii) for text, n in records]
    rows = all_rows("\n".join(lines).encode(), "a.jsonl", shard_bytes=50, kept=KEPT_N, types=(("n", pa.int64()),))
    assert [(row["text"], row["n"]) for row in rows] == records


ODD_LINES = [
    "",
    " ",
    "\t \r",
    "\r",
    "{",
    "[]",
    '{"text": "a"}',
    ' {"text": "b"} ',
    '{"text": 1}',
    '{"text": "c\u2028"}',
]


@given(st.lists(st.sampled_from(ODD_LINES), max_size=30), st.integers(1, 60), st.booleans())
def test_records_are_the_lines_that_are_not_blank_wherever_slices_are_cut(lines, shard_bytes, newline):
    lines = ['{"text": "first"}', *lines]
    data = ("\n".join(lines) + "\n" * newline).encode()
    expected = [line for line in lines if line.strip()]
    slices, rows = slices_and_rows(reader_of(data, "a.jsonl"), shard_bytes)
    assert [row["row_number"] for row in rows] == list(range(len(expected)))
    good = {'{"text": "first"}': "first", ODD_LINES[6]: "a", ODD_LINES[7]: "b", ODD_LINES[9]: "c\u2028"}
    assert texts(rows) == [good.get(line) for line in expected]
    assert all(after.start == before.stop for before, after in pairwise(slices))


def test_malformed_records_are_quarantined_in_their_place_and_blank_lines_are_none():
    lines = [
        '{"text": "a"}',
        "",
        "{broken",
        "  ",
        "[1]",
        "null",
        '{"text": 5}',
        '{"text": null}',
        "{}",
        '{"text": "b"}',
    ]
    rows = all_rows("\r\n".join(lines).encode(), "a.jsonl")
    assert [row["row_number"] for row in rows] == list(range(8))
    assert texts(rows) == ["a", None, None, None, None, None, None, "b"]
    assert reasons(rows)[1].startswith("malformed record: Expecting property name")
    assert "'{broken" in reasons(rows)[1]
    assert reasons(rows)[2:7] == [
        "malformed record: an array, not an object: [1]",
        "malformed record: null, not an object: None",
        "text is a number, not a string: 5",
        "text is null",
        "text is null",
    ]


def test_bytes_that_are_no_utf8_and_lone_surrogates_are_quarantined_and_the_key_is_kept():
    lines = [b'{"text": "a", "id": "1"}', b'{"text": "b\xff", "id": "2"}', rb'{"text": "c\ud800", "id": "3"}']
    lines += [rb'{"text": "d", "id": "4\udfff"}', rb'{"text": "e", "id": "5", "other": "\ud800"}']
    rows = all_rows(b"\n".join(lines), "a.jsonl", kept=(("id", "id"),))
    assert texts(rows) == ["a", None, None, None, "e"]
    assert [row["id"] for row in rows] == ["1", "2", "3", "4�", "5"]
    assert reasons(rows)[1].startswith("malformed record: not valid UTF-8 at byte 11")
    assert reasons(rows)[2:4] == [
        "text holds a lone surrogate at character 1",
        "id holds a lone surrogate at character 1",
    ]


def test_nested_values_are_kept_and_a_missing_key_is_null():
    lines = [{"text": "a", "n": {"tags": ["x"], "deep": {"f": 1.5}}}, {"text": "b"}, {"text": "c", "n": {"tags": []}}]
    rows = all_rows("\n".join(map(json.dumps, lines)).encode(), "a.jsonl", kept=KEPT_N)
    assert [row["n"] for row in rows] == [
        {"tags": ["x"], "deep": {"f": 1.5}},
        None,
        {"tags": [], "deep": None},
    ]


@pytest.mark.parametrize(
    ("type_", "fitting", "given_back", "unfitting"),
    [
        (pa.int64(), "1", 1, "2.5"),
        (pa.int64(), '"7"', 7, "true"),
        (pa.int64(), "3.0", 3, '"x"'),
        (pa.float64(), "1", 1.0, '"x"'),
        (pa.bool_(), "true", True, "1"),
        (pa.list_(pa.int64()), "[1]", [1], "1"),
        (pa.timestamp("s"), '"1970-01-01T00:00:00"', datetime(1970, 1, 1), '"soon"'),
    ],
)
def test_a_cell_that_does_not_fit_its_columns_type_is_quarantined(type_, fitting, given_back, unfitting):
    data = f'{{"text": "a", "n": {fitting}}}\n{{"text": "b", "n": {unfitting}}}\n{{"text": "c"}}\n'.encode()
    rows = all_rows(data, "a.jsonl", kept=KEPT_N, types=(("n", type_),))
    assert [row["n"] for row in rows] == [given_back, None, None]
    assert texts(rows) == ["a", None, "c"]
    assert rows[1]["reason"].endswith(f"is not {type_}; dataset.types can settle the column's type")


def test_numbers_in_a_column_of_strings_are_kept_as_their_json():
    data = b'{"text": "a", "n": "x"}\n{"text": "b", "n": 1.0}\n{"text": "c", "n": [true]}\n'
    assert [row["n"] for row in all_rows(data, "a.jsonl", kept=KEPT_N)] == ["x", "1.0", "[true]"]


def test_types_are_found_in_the_first_records():
    data = b'{"text": "a", "n": 1, "f": 1, "s": "x", "none": null, "tags": []}\n{"f": 2.5, "b": true, "mixed": 1}\n'
    data += b'{"mixed": "x"}\n'
    string = pa.string()
    types = [string, pa.int64(), pa.float64(), string, string, pa.list_(string), pa.bool_(), string]
    assert reader_of(data, "a.jsonl").schema().types == types


def test_not_a_number_is_a_number():
    rows = all_rows(b'{"text": "a", "n": 1.5}\n{"text": "b", "n": NaN}\n', "a.jsonl", kept=KEPT_N)
    assert str(rows[1]["n"]) == "nan"
    assert texts(rows) == ["a", "b"]


def test_a_column_that_comes_late_needs_a_settled_type():
    data = b'{"text": "a"}\n' * 100_000 + b'{"text": "b", "n": 1}\n'
    with pytest.raises(SchemaError, match="has no column 'n'"):
        all_rows(data, "a.jsonl", kept=KEPT_N)
    assert all_rows(data, "a.jsonl", kept=KEPT_N, types=(("n", pa.int64()),))[-1]["n"] == 1


def test_a_text_column_without_strings_is_refused_by_its_type():
    with pytest.raises(SchemaError, match=r"text column 'n' has type int64, not string.*: text"):
        list(reader_of(b'{"text": "a", "n": 1}\n', "a.jsonl", "n").slices(shard_bytes=1))


@pytest.mark.parametrize(("data", "what"), [(b'[{"text": "a"}]', "one JSON array"), (b"text\na\n", "not JSON Lines")])
def test_a_file_that_is_not_json_lines_is_refused(data, what):
    with pytest.raises(FormatError, match=what):
        list(reader_of(data, "a.json").slices(shard_bytes=1))


def test_texts_survive_exactly():
    awkward = ["", "  ", "\0", "אבג", "é", "\u2028\u0085", "x" * 10_000_000]
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in awkward)
    _, rows = slices_and_rows(reader_of(lines.encode(), "a.jsonl"), 50)
    assert texts(rows) == awkward
