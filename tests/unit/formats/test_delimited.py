from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, compressed, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import ConfigError, FileChanged, FormatError, SchemaError
from tidemill.formats import streams

# What trips CSV readers, and surrogates left out: they are no text.
CELLS = st.text(st.sampled_from('a ,"\n\r\té\0؀̈😀'), max_size=8)
RECORDS = st.lists(st.tuples(CELLS, CELLS), max_size=30)
RAW = st.text(st.sampled_from('a,"\n\r'), max_size=40)


def written(records: list[tuple[str, str]], lineterminator: str = "\n") -> bytes:
    out = io.StringIO()
    # The module leaves a bare CR unquoted where lines end with LF, and cannot read that back itself.
    quoting = csv.QUOTE_MINIMAL if lineterminator == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(out, lineterminator=lineterminator, quoting=quoting)
    writer.writerows([("text", "label"), *records])
    return out.getvalue().encode()


@given(RECORDS, st.sampled_from(["\n", "\r\n"]), st.integers(1, 60))
def test_what_pythons_csv_module_writes_is_read_back_exactly(records, lineterminator, shard_bytes):
    reader = reader_of(
        written(records, lineterminator), "a.csv", kept=(("label", "label"),), types=(("label", pa.string()),)
    )
    _, rows = slices_and_rows(reader, shard_bytes)
    assert [(row["text"], row["label"]) for row in rows] == records
    assert [row["row_number"] for row in rows] == list(range(len(records)))
    assert reasons(rows) == [None] * len(records)


@given(RAW, st.integers(1, 30))
@example('5" disk,a\n"b",c\n', 1)
@example('"a"b"c,d\n"e\n",f', 1)
@example("a,b\r\rc,d\r\n\r\n", 1)
@example('a,"', 1)
@example('"a""\n",b\n', 1)
def test_any_text_is_split_into_the_records_that_pythons_csv_module_sees(raw, shard_bytes):
    data = b"text,label\n" + raw.encode()
    # The module takes lines, here ended by CR too; in the middle of one it refuses a CR.
    lines = io.StringIO("text,label\n" + raw, newline="")
    expected = [record for record in csv.reader(lines) if record][1:]
    _, rows = slices_and_rows(reader_of(data, "a.csv", kept=(("label", "label"),)), shard_bytes)
    assert len(rows) == len(expected)
    for row, record in zip(rows, expected, strict=True):
        if len(record) != 2:
            assert "fields where the header has 2" in row["reason"] or "never closed" in row["reason"]
        elif row["reason"] is None:
            assert row["text"] == record[0]
        else:
            assert "never closed" in row["reason"]


@settings(max_examples=40)
@given(RECORDS, st.integers(1, 40), st.integers(1, 40))
def test_slices_do_not_depend_on_how_the_file_is_read_and_rows_do_not_depend_on_slices(records, shard_bytes, block):
    data = written(records)
    expected = slices_and_rows(reader_of(data, "a.csv"), shard_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        patch.setattr(streams, "HEAD_BYTES", block + 3)
        assert slices_and_rows(reader_of(data, "a.csv"), shard_bytes) == expected
    assert all_rows(data, "a.csv") == expected[1]


def test_a_stray_quote_swallows_nothing():
    data = b'text,label\n5" disk,1\n3.5" disk,2\n"x"y"z,3\nlast,4\n'
    assert texts(all_rows(data, "a.csv")) == ['5" disk', '3.5" disk', 'xy"z', "last"]


def test_records_with_the_wrong_number_of_fields_are_quarantined_in_their_place():
    data = b"text,label\na,1\nb\nc,3,4\nd\xff\n\ne,5\n"
    rows = all_rows(data, "a.csv", kept=(("label", "label"),))
    assert texts(rows) == ["a", None, None, None, "e"]
    assert [row["label"] for row in rows] == [1, None, None, None, 5]
    assert rows[1]["reason"] == "malformed record: 1 fields where the header has 2: 'b'"
    assert rows[2]["reason"] == "malformed record: 3 fields where the header has 2: 'c,3,4'"
    assert [row["row_number"] for row in rows] == [0, 1, 2, 3, 4]


def test_a_quote_that_is_never_closed_is_one_bad_record_at_the_end():
    rows = all_rows(b'text,label\na,1\n"b,2\nc,3\n', "a.csv")
    assert texts(rows) == ["a", None]
    assert rows[1]["reason"].startswith("malformed record: a quote is never closed: '\"b,2")


def test_a_record_beyond_all_measure_is_an_error_that_names_the_row(monkeypatch):
    monkeypatch.setattr("tidemill.formats.records.MAX_RECORD_BYTES", 10_000)
    data = b'text\na\n"' + b"b\n" * 100_000
    with pytest.raises(FormatError, match="record 1, which begins at byte 7,"):
        list(reader_of(data, "a.csv").slices(shard_bytes=1))


def test_bytes_that_are_no_utf8_are_quarantined_with_their_place():
    rows = all_rows(b"text,key\nfine,a\nbad\xff,b\nfine,c\xff\n\xed\xa0\x80,d\n", "a.csv", kept=(("key", "key"),))
    assert texts(rows) == ["fine", None, None, None]
    assert [row["key"] for row in rows] == ["a", "b", "c�", "d"]
    assert reasons(rows)[1:] == [
        "text is not valid UTF-8 at byte 3",
        "key is not valid UTF-8 at byte 1",
        "text is not valid UTF-8 at byte 0 (a lone surrogate)",
    ]


def test_types_are_found_in_the_first_records_and_empty_cells_are_null():
    data = (
        b"text,int,float,bool,date,time,zip,huge,none,word\n"
        b"1,1,1.5,true,2026-01-31,2026-01-31T10:00:00,00501,123456789012345678901,,NA\n"
        b"2,,,,,,,,,\n"
        b"3, 7 ,nan,False,2026-02-01,2026-01-31 10:00:00.5,1,5,,x\n"
    )
    names = ["int", "float", "bool", "date", "time", "zip", "huge", "none", "word"]
    reader = reader_of(data, "a.csv", kept=tuple((name, name) for name in names))
    types = dict(zip(reader.schema().names, reader.schema().types, strict=True))
    string = pa.string()
    assert list(types.values()) == [
        *(string, pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us")),
        *(string, string, string, string),
    ]
    _, rows = slices_and_rows(reader, 2**20)
    assert [row["int"] for row in rows] == [1, None, 7]
    assert [row["bool"] for row in rows] == [True, None, False]
    assert [row["zip"] for row in rows] == ["00501", "", "1"]
    assert [row["word"] for row in rows] == ["NA", "", "x"]
    assert texts(rows) == ["1", "2", "3"]
    assert reasons(rows) == [None, None, None]


def test_a_cell_that_does_not_fit_its_columns_type_is_quarantined_with_the_way_out():
    data = b"text,n\na,1\nb,two\nc,3\nd,\xff\n"
    rows = all_rows(data, "a.csv", kept=(("n", "number"),), types=(("n", pa.int64()),))
    assert [row["number"] for row in rows] == [1, None, 3, None]
    assert texts(rows) == ["a", None, "c", None]
    assert rows[1]["reason"] == "n = 'two' is not int64; dataset.types can settle the column's type"


def test_a_column_may_be_both_text_and_kept():
    rows = all_rows(b"text,n\n 1 ,2\n", "a.csv", text=("text", "n"), kept=(("text", "body"), ("n", "n")))
    assert rows == [{"row_number": 0, "text": " 1 \n2", "reason": None, "body": " 1 ", "n": "2"}]


def test_a_byte_order_mark_is_no_part_of_the_first_name():
    assert texts(all_rows(b"\xef\xbb\xbftext\na\n", "a.csv")) == ["a"]


def test_empty_and_blank_cells_nul_bytes_and_huge_cells_survive():
    huge = "ü" * 5_000_000
    data = f'text,n\n"",1\n   ,2\n\0,3\n{huge},4\n'.encode()
    assert texts(all_rows(data, "a.csv", shard_bytes=100)) == ["", "   ", "\0", huge]


def test_a_tsv_file_is_separated_by_tabs_and_any_file_by_what_the_pipeline_says():
    assert texts(all_rows(b"text\tn\na,b\tc\n", "a.tsv.gz".removesuffix(".gz"))) == ["a,b"]
    assert texts(all_rows(b"text;n\na,b;c\n", "a.csv", delimiter=";")) == ["a,b"]
    with pytest.raises(ConfigError, match=r"dataset\.delimiter"):
        reader_of(b"", "a.csv", delimiter='"')


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"text,text\n", "repeats the names 'text'"),
        (b",\n1,2\n", "names no columns"),
        (b"\n\n", "no header line"),
        (b"t\xff\n", "not CSV in UTF-8"),
        (b"\xff\xfet\0", "is UTF-16"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(header, message):
    with pytest.raises(FormatError, match=message):
        reader_of(header, "a.csv").schema()


def test_one_unnamed_column_is_what_pandas_writes_for_its_index():
    assert texts(all_rows(b",text\n0,a\n1,b\n", "a.csv")) == ["a", "b"]


def test_a_missing_column_is_refused_with_the_nearest_ones_first():
    with pytest.raises(SchemaError, match=r"a\.csv has no column 'txt'\. It has: text, id, label"):
        list(reader_of(b"id,label,text\n", "a.csv", "txt").slices(shard_bytes=1))


@pytest.mark.parametrize("data", [b"", b"text\n", b"text", b"text\r\n\r\n"])
def test_a_file_without_records_has_no_slices(data):
    assert list(reader_of(data, "a.csv").slices(shard_bytes=10)) == []


def test_the_header_is_part_of_a_slices_content_and_the_path_is_not():
    def content(data: bytes, path: str = "a.csv", **options: str) -> str:
        return next(iter(reader_of(data, path, **options).slices(shard_bytes=100))).content

    assert content(b"text,n\na,b\n") == content(b"text,n\na,b\n", "b.csv")
    assert content(b"text,n\na,b\n") != content(b"n,text\na,b\n")
    assert content(compressed(b"text,n\na,b\n", ".gz"), "a.csv.gz") == content(b"text,n\na,b\n")


def test_a_later_slice_of_a_changed_file_is_not_taken_for_the_one_that_was_cut():
    data = written([(f"text {i}", "x") for i in range(100)])
    *_, cut, _ = reader_of(data, "a.csv").slices(shard_bytes=100)
    with pytest.raises(FileChanged, match=r"a\.csv no longer holds"):
        reader_of(data.replace(b"text 9", b"TEXT 9"), "a.csv").rows(cut)
