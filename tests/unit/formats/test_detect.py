"""What files are guessed to be, and that what is guessed reads them."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import pytest

from tests.unit.formats.sources import MemorySource, compressed
from tidemill.errors import FormatError
from tidemill.formats import detect, detect_file

RECORDS = [{"id": i, "text": f"good, number {i}"} for i in range(30)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
CSV = "id{0}text{0}born\n1{0}gut{0}2024-01-01\n2{0}schön, sagt er{0}2024-01-02\n3{0}„übel“{0}2024-01-03\n"


def options(path: str, data: bytes) -> dict[str, object]:
    return detect_file(MemorySource(data, path)).options(path)


@pytest.mark.parametrize("path", ["a.jsonl", "a.json", "a.ndjson", "a"])
def test_lines_of_json_need_nothing_said_unless_the_name_says_no_format(path):
    assert options(path, LINES) == ({"format": "jsonl"} if path == "a" else {})


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_json_is_told_from_lines_also_within_objects(indent):
    assert options("a.json", json.dumps(RECORDS, indent=indent).encode()) == {"format": "json"}
    nested = {"version": [1], "about": {"tags": ["x"]}, "data": {"items": RECORDS}}
    assert options("a.json", json.dumps(nested, indent=indent).encode()) == {"field": "data.items"}


def test_one_record_a_line_within_brackets_is_an_array():
    assert options("a.json", b'[\n{"text": "a"},\n{"text": "b"}\n]\n') == {"format": "json"}


def test_an_array_whose_end_is_not_in_sight_is_one():
    assert options("a.json", json.dumps(RECORDS).encode()[:200]) == {"format": "json"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_by_which_records_have_equally_many_fields(delimiter):
    data = CSV.format(delimiter).replace(", sagt", " sagt").encode()
    assert options("a.csv", data) == ({} if delimiter == "," else {"delimiter": delimiter})
    assert options("a.tsv", data) == ({} if delimiter in ",\t" else {"delimiter": delimiter})


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", None),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("cp1252", "cp1252"),
    ],
)
def test_the_encoding_is_said_where_no_mark_says_it(encoding, said):
    found = options("a.csv", CSV.format(";").encode(encoding))
    assert found == {"delimiter": ";"} | ({"encoding": said} if said else {})


def test_western_text_without_the_characters_of_windows_is_latin_1():
    assert options("a.txt", "schön\n".encode("latin-1")) == {"encoding": "latin-1"}


def test_a_character_that_is_cut_at_the_end_of_what_is_seen_is_still_utf8():
    whole = "id,text\n1,schön\n2,größer".encode()
    for stop in range(20, len(whole) + 1):
        assert detect("a.csv", whole[:stop]).encoding == "utf-8"


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (b"id,text\n1,a\n2,b\n", True),
        (b"1,a\n2,b\n3,c\n", False),
        (b"a,b\nc,d\n", True),
        (b"2024-01-01,a\n2024-01-02,b\n", False),
        (b"name,2023,2024\nx,1,2\ny,,\n", False),
        (b"text\na\n", True),
    ],
)
def test_a_first_record_with_numbers_over_numbers_is_no_header(data, header):
    assert detect("a.csv", data).header is header


def test_a_name_without_a_format_is_looked_through_and_what_cannot_be_told_is_said():
    assert detect("a.data", CSV.format("\t").encode()).delimiter == "\t"
    with pytest.raises(FormatError, match=r"a\.data is in no format that can be told. Set dataset\.format"):
        detect("a.data", b"some words\nand more\n")


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz"])
def test_compressed_files_are_looked_into(ending):
    assert options(f"a.csv{ending}", compressed(CSV.format(";").encode(), ending)) == {"delimiter": ";"}


def test_an_archive_is_what_the_file_in_it_is():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("folder/reviews.csv", CSV.format(";"))
    assert detect_file(MemorySource(packed.getvalue(), "reviews.zip")).format == "csv"


def test_binary_formats_go_by_their_first_bytes():
    assert detect("a", b"PAR1\0\0").format == "parquet"
    assert detect("a.arrow", b"\xff\xff\xff\xff\x10\0\0\0").format == "arrow"
    assert detect_file(MemorySource(b"ARROW1\0\0more", "a.feather")).format == "arrow"


def test_a_damaged_file_says_so():
    with pytest.raises(FormatError, match=r"a\.csv\.gz cannot be decompressed"):
        options("a.csv.gz", gzip.compress(LINES)[:40])
