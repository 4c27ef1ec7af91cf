from __future__ import annotations

import csv
import hashlib
import io
from typing import Literal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, compressed, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import ConfigError, FileChanged, FormatError, SchemaError
from tidemill.fingerprints import fingerprint
from tidemill.formats.streams import stream as streams

N = (("n", "n"),)
LABEL = (("label", "label"),)

# What trips CSV readers, and surrogates left out: they are no text.
CELLS = st.text(st.sampled_from('a ,"\n\r\té\0؀̈😀'), max_size=8)
RECORDS = st.lists(st.tuples(CELLS, CELLS), max_size=30)
RAW = st.text(st.sampled_from('a,"\n\r'), max_size=40)


def written(records: list[tuple[str, str]], lineterminator: str = "\n") -> bytes:
    out = io.StringIO()
    # The module leaves a bare CR unquoted where lines end with LF, and cannot read that back itself.
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL if lineterminator == "\r\n" else csv.QUOTE_ALL
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


def is_unclosed(raw: str) -> bool:
    """Whether a field is open at the end: then another quote and a line more change what comes before."""
    closed = list(csv.reader(io.StringIO(raw + "\nlast,line", newline="")))
    return not closed or closed[-1] != ["last", "line"]


@given(RAW, st.integers(1, 30))
@example('5" disk,a\n"b",c\n', 1)
@example('"a"b"c,d\n"e\n",f', 1)
@example("a,b\r\rc,d\r\n\r\n", 1)
@example('"a""\n",b\n', 1)
def test_any_text_is_split_into_the_records_that_pythons_csv_module_sees(raw, shard_bytes):
    data = b"text,label\n" + raw.encode()
    # The module takes lines, here ended by CR too; in the middle of one it refuses a CR.
    lines = io.StringIO("text,label\n" + raw, newline="")
    assume(not is_unclosed(raw))
    expected = [record for record in csv.reader(lines) if record][1:]
    _, rows = slices_and_rows(reader_of(data, "a.csv", kept=(("label", "label"),)), shard_bytes)
    assert len(rows) == len(expected)
    for row, record in zip(rows, expected, strict=True):
        if len(record) != 2:
            assert "fields where the header has 2" in row["reason"] or "text follows the quote" in row["reason"]
        elif row["reason"] is None:
            assert row["text"] == record[0]
        else:
            assert "text follows the quote" in row["reason"]


@settings(max_examples=40)
@given(RECORDS, st.integers(1, 40), st.integers(1, 40))
def test_slices_do_not_depend_on_how_the_file_is_read_and_rows_do_not_depend_on_slices(records, shard_bytes, block):
    data = written(records)
    expected = slices_and_rows(reader_of(data, "a.csv"), shard_bytes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        assert slices_and_rows(reader_of(data, "a.csv", head_bytes=block + 3), shard_bytes) == expected
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


@pytest.mark.parametrize("shard_bytes", [1, 12, 10_000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_a_quote_that_is_never_closed_spoils_its_line_alone(newline, shard_bytes):
    lines = [b"text,label", b"a,1", b'"x marks,2', *(b"fine,%d" % i for i in range(20)), b'say ""hi"",4', b'"",5']
    slices, rows = slices_and_rows(reader_of(newline.join(lines) + newline, "a.csv", kept=LABEL), shard_bytes)
    assert texts(rows) == ["a", None, *["fine"] * 20, 'say ""hi""', ""]
    assert rows[1]["reason"] == (
        'malformed record: a quote is never closed: \'"x marks,2\'; dataset.quote = "" reads quotes as text'
    )
    assert reasons(rows)[2:] == [None] * 22
    assert sum(cut.num_rows for cut in slices) == 24


def test_a_quote_that_opens_again_and_is_never_closed_spoils_its_line_alone():
    assert texts(all_rows(b'text,label\n"a ""b"",1\nc,2\n', "a.csv")) == [None, "c"]
    assert texts(all_rows(b'text,label\n"""\nc,2\n', "a.csv")) == [None, "c"]


def test_a_slice_with_a_quote_that_is_never_closed_is_another_content_than_before():
    def content(line: bytes) -> str:
        return next(iter(reader_of(b"text,label\n" + line, "a.csv").slices(shard_bytes=1))).content

    def before(line: bytes) -> str:
        seed = fingerprint("csv", ",", "text", "label").encode()
        return hashlib.sha256(seed + line).hexdigest()[:32]

    for line in (b"a,1\n", b'"a",1\n', b'5" disk,1\n', b'"a",""\n', b'x,"a,"\n'):
        assert content(line) == before(line)
    assert content(b'"a,1\n') != before(b'"a,1\n')


def test_what_follows_the_quote_that_closes_several_lines_makes_them_suspect():
    data = b'text,label\n"x marks,1\nfine,2\n"the spot",3\n"two\nlines",4\n"x"y,5\n'
    rows = all_rows(data, "a.csv")
    assert texts(rows) == [None, "two\nlines", "xy"]
    assert rows[0]["reason"].startswith(
        "malformed record of 3 lines: text follows the quote that closes a field of several lines: "
    )
    assert rows[0]["reason"].endswith('; dataset.quote = "" reads quotes as text')


def test_without_a_quote_character_quotes_are_text():
    data = b'id\ttext\n1\t"x marks\n2\tfine\n3\tthe spot"\n4\t""\n'
    assert texts(all_rows(data, "a.tsv", quote="")) == ['"x marks', "fine", 'the spot"', '""']
    assert texts(all_rows(b"text,n\n'a,b',1\n\"c,2\n", "a.csv", quote="'")) == ["a,b", '"c']


def test_another_quote_makes_another_content_of_the_same_bytes():
    contents = [
        next(iter(reader_of(b"text\na\n", "a.csv", quote=quote).slices(shard_bytes=1))).content
        for quote in ('"', "", "'")
    ]
    assert len(set(contents)) == 3


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
        "text is not valid UTF-8 at byte 3; dataset.encoding says how the files are encoded",
        "key is not valid UTF-8 at byte 1; dataset.encoding says how the files are encoded",
        "text is not valid UTF-8 at byte 0 (a lone surrogate)",
    ]


def test_types_are_found_in_the_first_records_and_empty_cells_are_null():
    data = (
        b"text,int,float,bool,date,time,zip,huge,none,word\n"
        b"1,1,1.5,true,2026-01-31,2026-01-31 10:00:00,00501,123456789012345678901,,NA\n"
        b"2,,,,,,,,,\n"
        b"3,-7,nan,false,2026-02-01,2026-01-31 10:00:00.5,1,5,,x\n"
    )
    names = ["int", "float", "bool", "date", "time", "zip", "huge", "none", "word"]
    reader = reader_of(data, "a.csv", kept=tuple((name, name) for name in names))
    types = dict(zip(reader.schema().names, reader.schema().types, strict=True))
    string = pa.string()
    assert list(types.values()) == [
        *(string, pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us")),
        *(string, string, pa.null(), string),
    ]
    _, rows = slices_and_rows(reader, 2**20)
    assert [row["int"] for row in rows] == [1, None, -7]
    assert [row["bool"] for row in rows] == [True, None, False]
    assert [row["zip"] for row in rows] == ["00501", "", "1"]
    assert [row["word"] for row in rows] == ["NA", "", "x"]
    assert texts(rows) == ["1", "2", "3"]
    assert reasons(rows) == [None, None, None]


NAMES_NOT_NUMBERS = (
    *("+491701234567", "32E0134", "1e5", "1e+16", "1E5", "123456789012345678901", "9223372036854775808", "1.10"),
    *("007", "00", "-0", "+5", ".5", "5.", "1_000", "0x1F", "0xFFFFFFFF", " 5", "5 ", "\t5", "1.0000000000000000001"),
    *("0.00001", "1e-05", "1000000000000000.0", "NaN", "NULL", "True", "TRUE", "T", "yes", "2024-1-2"),
    *("2026-01-31T10:00:00", "2026-01-31 10:00", "2026-01-31 10:00:00.500", "2026-01-31 10:00:00Z"),
    *("2026-01-31 10:00:00+00", "2026-01-31T10:00:00.5+02:00", "   "),
)
NUMBERS = {
    pa.int64(): ["0", "-1", "9223372036854775807", "-9223372036854775808"],
    pa.float64(): ["0.0", "-0.5", "1.1", "0.0001", "123456789.125", "nan", "-inf", "5.0"],
    pa.bool_(): ["true", "false"],
    pa.date32(): ["2026-01-31", "0001-01-01", "1969-12-31"],
    pa.timestamp("us"): ["2026-01-31 10:00:00", "1969-12-31 23:59:59.000001", "2026-01-31 00:00:00"],
    pa.timestamp("ns"): ["2026-01-31 10:00:00.123456789"],
}


@pytest.mark.parametrize("cell", NAMES_NOT_NUMBERS)
def test_a_column_with_a_cell_that_no_number_gives_back_is_text(cell):
    data = f'text,n\na,"{cell}"\nb,5\n'.encode()
    assert [row["n"] for row in all_rows(data, "a.csv", kept=N)] == [cell, "5"]


@pytest.mark.parametrize("type_", NUMBERS, ids=str)
def test_cells_are_of_a_type_if_a_query_shows_them_as_they_were_written(type_):
    data = "text,n\n" + "".join(f'a,"{cell}"\n' for cell in NUMBERS[type_])
    reader = reader_of(data.encode(), "a.csv", kept=N)
    assert reader.schema().field("n").type == type_
    (cut,) = reader.slices(shard_bytes=2**20)
    rows = reader.rows(cut)
    assert shown(rows) == NUMBERS[type_]
    assert rows["reason"].null_count == len(rows)


@pytest.mark.parametrize("cell", NAMES_NOT_NUMBERS)
@pytest.mark.parametrize("type_", NUMBERS, ids=str)
def test_a_later_cell_that_its_type_would_not_give_back_is_quarantined_unless_the_type_was_declared(type_, cell):
    data = f'text,n\na,"{NUMBERS[type_][0]}"\nb,"{cell}"\nc,\n'.encode()
    rows = all_rows(data, "a.csv", kept=N, types=(("n", type_),))
    assert texts(rows) == ["a", None, "c"]
    assert rows[1]["reason"].startswith(f"n = {cell!r} ")
    assert rows[1]["reason"].endswith("; dataset.types can settle the column's type")
    assert (rows[1]["n"], rows[2]["n"]) == (None, None)


def test_integers_among_doubles_are_doubles_but_not_in_a_key():
    data = b"text,n\na,1\nb,2.5\nc,-70000000000\n"
    assert [row["n"] for row in all_rows(data, "a.csv", kept=N)] == [1.0, 2.5, -7e10]
    assert [row["n"] for row in all_rows(data, "a.csv", kept=N, num_keys=1)] == ["1", "2.5", "-70000000000"]
    late = all_rows(data, "a.csv", kept=N, types=(("n", pa.float64()),), num_keys=1)
    assert late[0]["reason"] == "n = '1' would become 1.0 as double; dataset.types can settle the column's type"
    beyond = all_rows(b"text,n\na,9007199254740993\nb,2.5\n", "a.csv", kept=N)
    assert [row["n"] for row in beyond] == ["9007199254740993", "2.5"]


def test_a_declared_type_converts_what_it_can():
    rows = all_rows(b"text,n\na, 007 \nb,   \nc,x\n", "a.csv", kept=N, types=(("n", pa.int64()),), converted=("n",))
    assert [row["n"] for row in rows] == [7, None, None]
    assert texts(rows) == ["a", "b", None]


CELL = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(repr),
    st.decimals(allow_nan=False, places=2).map(str),
    st.booleans().map(str),
    st.dates().map(str),
    st.datetimes().map(str),
    st.from_regex(r"[+-]?[0-9.eET: -]{1,6}", fullmatch=True),
    st.sampled_from([*NAMES_NOT_NUMBERS, *(cell for cells in NUMBERS.values() for cell in cells)]),
)


@pytest.mark.parametrize("num_keys", [0, 1])
@given(st.lists(CELL, min_size=1, max_size=4), st.lists(CELL, max_size=4))
def test_what_is_kept_is_shown_as_it_was_written_or_the_row_is_quarantined(num_keys, first, later):
    """But for integers among doubles, which are those numbers; not as keys, where `1` and `1.0` are two."""

    def lines(cells: list[str]) -> bytes:
        return ("text,n\n" + "".join(f'a,"{cell}"\n' for cell in cells)).encode()

    to = reader_of(lines(first), "a.csv", kept=N, num_keys=num_keys).schema().field("n").type
    reader = reader_of(lines(first + later), "a.csv", kept=N, types=(("n", to),), num_keys=num_keys)
    (cut,) = reader.slices(shard_bytes=2**20)
    rows = reader.rows(cut)
    for cell, kept, reason in zip(first + later, shown(rows), rows["reason"].to_pylist(), strict=True):
        is_widened = to == pa.float64() and not num_keys and kept == f"{cell}.0" and str(int(cell)) == cell
        assert kept == cell or is_widened or reason is not None
    assert rows["reason"].to_pylist()[: len(first)] == [None] * len(first)


def shown(rows: pa.Table) -> list[str | None]:
    """The kept column as a query shows it."""
    return [text for (text,) in duckdb.sql("SELECT n::VARCHAR FROM rows").fetchall()]


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
    with pytest.raises(ConfigError, match=r"dataset\.delimiter = '\"' must be another character than dataset\.quote"):
        reader_of(b"", "a.csv", delimiter='"')
    with pytest.raises(ConfigError, match=r"dataset\.quote = '\\n'"):
        reader_of(b"", "a.csv", quote="\n")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b",\n1,2\n", "names no columns"),
        (b"\n\n", "no header line"),
        (b"t\xff\n", r"not text in UTF-8, at byte 1\. Set dataset\.encoding"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(header, message):
    with pytest.raises(FormatError, match=message):
        reader_of(header, "a.csv").schema()


def test_a_name_that_is_there_twice_is_refused_only_where_it_is_asked_for():
    data = b"text,x,x,,\na,1,2,3,4\n"
    assert texts(all_rows(data, "a.csv")) == ["a"]
    with pytest.raises(SchemaError, match=r"a\.csv has 2 columns named 'x'"):
        all_rows(data, "a.csv", kept=(("x", "x"),))
    with pytest.raises(SchemaError, match=r"a\.csv has 2 columns named ''"):
        all_rows(data, "a.csv", kept=(("", "index"),))


def test_trailing_columns_without_names_are_ignored():
    assert texts(all_rows(b"v1,v2,,,\nham,see you,,,\nspam,free entry,,,\n", "a.csv", text="v2")) == [
        "see you",
        "free entry",
    ]


def test_blanks_around_a_name_are_part_of_it():
    data = b"id, text, rating\n1, good, 5\n"
    rows = all_rows(data, "a.csv", text=" text", kept=((" rating", "rating"),))
    assert (rows[0]["text"], rows[0]["rating"]) == (" good", " 5")
    with pytest.raises(SchemaError, match=r"has no column 'text'\. It has: ' text', "):
        all_rows(data, "a.csv")


def test_a_kept_column_that_a_file_lacks_is_null_there_if_its_type_is_settled():
    rows = all_rows(b"text\na\n", "a.csv", kept=N, types=(("n", pa.int64()),))
    assert (rows[0]["n"], rows[0]["reason"]) == (None, None)
    with pytest.raises(SchemaError, match="has no column 'n'"):
        all_rows(b"text\na\n", "a.csv", kept=N, types=(("n", pa.int64()),), num_keys=1)


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


ESCAPED = st.lists(st.lists(st.text(st.sampled_from('ab,"\\\n é'), max_size=6), min_size=2, max_size=2), max_size=20)


@given(ESCAPED, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.integers(1, 60))
def test_what_pythons_csv_module_writes_with_an_escape_is_read_back_exactly(
    records, lineterminator, doubled, quoted, shard_bytes
):
    data = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    options = {"escapechar": "\\", "doublequote": doubled, "quoting": quoting, "lineterminator": lineterminator}
    csv.writer(data, **options).writerows([["text", "n"], *records])
    expected = list(csv.reader(io.StringIO(data.getvalue(), newline=""), escapechar="\\"))[1:]
    reader = reader_of(data.getvalue().encode(), "a.csv", escape="\\", kept=(("n", "n"),), types=(("n", pa.string()),))
    _, rows = slices_and_rows(reader, shard_bytes)
    assert [[row["text"], row["n"]] for row in rows] == [record for record in expected if record]


def test_escaped_quotes_delimiters_and_newlines_are_text():
    data = b'text,n\n"say \\"hi\\"",1\na\\,b,2\nc\\\nd,3\n\\"e,4\nf\\\\,5\n'
    rows = all_rows(data, "a.csv", escape="\\", kept=(("n", "n"),))
    assert texts(rows) == ['say "hi"', "a,b", "c\nd", '"e', "f\\"]
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5]


def test_a_small_file_without_quotes_is_read_as_a_large_one():
    """Few records without anything special are split without a parser: not those with an escape or no header."""
    for options in ({"escape": "\\"}, {"header": False, "names": ("text", "n")}):
        head = b"" if "header" in options else b"text,n\n"
        few = head + b"a\\,b,1\n" if "escape" in options else b"a,1\nb,2\n"
        rows = all_rows(few, "a.csv", kept=(("n", "n"),), **options)
        many = all_rows(few + b"c,3\n" * 10_000, "a.csv", kept=(("n", "n"),), **options)
        assert rows == many[: len(rows)]
        assert len(many) == len(rows) + 10_000


def test_an_escape_makes_another_content_of_the_same_bytes():
    data = b"text\na\n"
    [plain] = reader_of(data, "a.csv").slices(shard_bytes=10)
    [escaped] = reader_of(data, "a.csv", escape="\\").slices(shard_bytes=10)
    assert plain.content != escaped.content


def test_without_a_header_columns_are_named_by_their_places_or_as_the_pipeline_says():
    data = b"\xef\xbb\xbfa,1\nb,2\n"
    kept = (("column1", "column1"),)
    rows = all_rows(data, "a.csv", text="column0", header=False, kept=kept)
    assert [(row["row_number"], row["text"], row["column1"]) for row in rows] == [(0, "a", 1), (1, "b", 2)]
    assert texts(all_rows(data, "a.csv", header=False, names=("text", "n"))) == ["a", "b"]


def test_names_replace_those_of_the_header():
    assert texts(all_rows(b"x,x\na,1\n", "a.csv", names=("text", "n"))) == ["a"]
    with pytest.raises(FormatError, match=r"2 columns in its first record, and dataset\.names has 1\. Name each"):
        all_rows(b"x,x\na,1\n", "a.csv", names=("text",))


def test_the_same_records_under_the_same_names_are_computed_once():
    [with_header] = reader_of(b"text,n\na,1\n", "a.csv").slices(shard_bytes=10)
    [without] = reader_of(b"a,1\n", "a.csv", header=False, names=("text", "n")).slices(shard_bytes=10)
    assert with_header.content == without.content


@pytest.mark.parametrize("option", ["quote", "escape"])
def test_characters_that_would_mean_two_things_are_refused(option):
    with pytest.raises(
        ConfigError, match=rf"dataset\.delimiter = ';' must be another character than dataset\.{option}"
    ):
        reader_of(b"text\n", "a.csv", **{"delimiter": ";", option: ";"})
    with pytest.raises(ConfigError, match=r"dataset\.escape = '\"' is dataset\.quote too"):
        reader_of(b"text\n", "a.csv", escape='"')
