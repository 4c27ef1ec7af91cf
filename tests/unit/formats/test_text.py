from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, reader_of, reasons, texts
from tidemill.errors import FormatError, SchemaError
from tidemill.formats import format_of


def test_a_row_is_a_line_without_its_newline():
    data = b"one\r\n\n  \ntwo\rthree\r"
    assert texts(all_rows(data, "a.txt")) == ["one", "", "  ", "two", "three"]
    assert texts(all_rows(data + b"\n", "a.txt")) == ["one", "", "  ", "two", "three"]
    assert texts(all_rows(b"\n", "a.txt")) == [""]
    assert texts(all_rows(b"good\rbad\rfine\r", "a.txt")) == ["good", "bad", "fine"]


def test_only_the_breaks_that_open_knows_end_a_line():
    line = "a\fb\vc\x1cd\x85e\u2028f"
    assert texts(all_rows(f"{line}\n{line}\r".encode(), "a.txt")) == [line, line]


@given(st.text(st.sampled_from("a\n\r é")), st.integers(1, 20))
def test_lines_are_the_same_wherever_slices_are_cut(text, shard_bytes):
    expected = [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]
    assert texts(all_rows(text.encode(), "a.txt", shard_bytes)) == expected


@pytest.mark.parametrize(("path", "data"), [("a.txt", b"a%sb%s"), ("a.jsonl", b'{"text": "a"}%s{"text": "b"}%s')])
def test_only_a_file_with_lone_returns_is_another_content_than_before(path, data):
    def content(newline: bytes) -> str:
        (cut,) = reader_of(data % (newline, newline), path).slices(shard_bytes=100)
        return cut.content

    seed = b"text" if path == "a.txt" else b"jsonl"
    for newline in (b"\n", b"\r\n"):
        assert content(newline) == hashlib.sha256(seed + data % (newline, newline)).hexdigest()[:32]
    assert content(b"\r") != hashlib.sha256(seed + data % (b"\r", b"\r")).hexdigest()[:32]


def test_invalid_bytes_spoil_only_their_line():
    rows = all_rows(b"a\nb\xc3\nc\n", "a.txt", kept=(("text", "line"),))
    assert texts(rows) == ["a", None, "c"]
    assert [row["line"] for row in rows] == ["a", "b�", "c"]
    assert reasons(rows)[1] == "text is not valid UTF-8 at byte 1; dataset.encoding says how the files are encoded"


def test_a_byte_order_mark_is_no_text_and_nul_bytes_are():
    assert texts(all_rows(b"\xef\xbb\xbfa\0\n", "a.txt")) == ["a\0"]


def test_the_only_column_is_text():
    with pytest.raises(SchemaError, match=r"has no column 'body'\. It has: text"):
        list(reader_of(b"a\n", "a.txt", "body").slices(shard_bytes=1))


@pytest.mark.parametrize(
    ("path", "format_name"),
    [
        ("a/b.parquet", "parquet"),
        ("A.CSV", "csv"),
        ("a.tsv.gz", "csv"),
        ("a.json", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("a.jsonl.gz", "jsonl"),
        ("a.text", "text"),
        ("a.txt.zst", "text"),
    ],
)
def test_the_format_goes_by_the_file_name(path, format_name):
    assert format_of(path) == format_name


@pytest.mark.parametrize("path", ["a", "a.pdf", "a.gz", "a.parquet.gz", "parquet", "a.csv.lz4"])
def test_other_names_are_refused_with_the_readable_ones(path):
    with pytest.raises(
        FormatError,
        match=r"\.parquet, \.arrow, \.feather, \.ipc, \.csv, \.tsv, \.jsonl, \.ndjson, \.json, \.txt, \.text",
    ):
        format_of(path)
