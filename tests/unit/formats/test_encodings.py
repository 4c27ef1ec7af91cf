"""Text files in any encoding give the rows that the same text in UTF-8 gives, or say what is none."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import all_rows, compressed, reader_of, reasons, slices_and_rows, texts
from tidemill.formats.streams import stream as streams

ENCODINGS = ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037", "utf-7"]
EASTERN = ["shift_jis", "gb18030", "big5", "euc_kr", "iso2022_jp"]


def file_of(lines: list[str], format_name: str) -> str:
    match format_name:
        case "csv":
            return "".join(["text\n", *(f'"{line}"\n' for line in lines)])
        case "jsonl":
            return "".join(f'{{"text": "{line}"}}\n' for line in lines)
        case _:
            return "".join(f"{line}\n" for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["csv", "jsonl", "txt"])
@given(
    st.lists(st.text(st.sampled_from("ab éÄß,"), max_size=12), min_size=1, max_size=20),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["", ".gz", ".xz"]),
    st.integers(1, 60),
    st.integers(1, 20),
)
def test_any_encoding_gives_the_slices_and_rows_of_utf_8(format_name, lines, encoding, ending, shard_bytes, block):
    text, path = file_of(lines, format_name), f"a.{format_name}{ending}"
    stored = compressed(text.encode(encoding), ending) if ending else text.encode(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block)
        slices, rows = slices_and_rows(reader_of(stored, path, encoding=encoding, head_bytes=block + 3), shard_bytes)
        expected = slices_and_rows(reader_of(text.encode(), f"a.{format_name}", head_bytes=block + 3), shard_bytes)
        again = reader_of(stored, path, encoding=encoding, head_bytes=block + 3)
        assert [again.rows(cut).to_pylist() for cut in reversed(slices)][::-1] == [
            [row for row in rows if cut.first_row <= row["row_number"] < cut.first_row + cut.num_rows] for cut in slices
        ]
    assert (slices, rows) == expected


@pytest.mark.parametrize("encoding", EASTERN)
def test_encodings_of_several_bytes_a_character_are_read(encoding):
    words = {"gb18030": "好评", "big5": "好評", "euc_kr": "좋은"}.get(encoding, "良い")
    stored = f"text\n{words}\nfine\n".encode(encoding)
    assert texts(all_rows(stored, "a.csv", encoding=encoding)) == [words, "fine"]


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("said", ["utf-8", "cp1252"])
@pytest.mark.parametrize("ending", ["", ".zst"])
def test_a_byte_order_mark_wins_over_what_is_said(mark, encoding, said, ending):
    stored = mark + "text,n\nschön,1\n".encode(encoding)
    stored = compressed(stored, ending) if ending else stored
    assert texts(all_rows(stored, f"a.csv{ending}", encoding=said)) == ["schön"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_mark_before_text_of_a_known_byte_order_is_no_part_of_it(encoding):
    assert texts(all_rows("\ufefftext\ngut\n".encode(encoding), "a.csv", encoding=encoding)) == ["gut"]


def test_bytes_that_are_none_in_the_encoding_spoil_their_row_alone():
    rows = all_rows(b"text,n\na,1\nb\x81,2\nc\x80,3\n", "a.csv", encoding="cp1252", kept=(("n", "n"),))
    assert texts(rows) == ["a", None, "c€"]
    assert reasons(rows)[1] == "text is not valid cp1252; dataset.encoding says how the files are encoded"
    assert [row["n"] for row in rows] == [1, 2, 3]
    lines = all_rows(b'{"text": "a"}\n{"text": "\x81"}\n', "a.jsonl", encoding="cp1252")
    assert texts(lines) == ["a", None]
    assert "not valid cp1252; dataset.encoding" in str(reasons(lines)[1])


def test_a_file_of_utf_16_that_ends_within_a_character_spoils_its_last_row():
    rows = all_rows("gut\nschön".encode("utf-16")[:-1], "a.txt")
    assert texts(rows) == ["gut", None]


def test_a_file_that_is_not_utf_8_names_the_option_that_reads_it():
    rows = all_rows("text\nschön\n".encode("latin-1"), "a.csv")
    assert reasons(rows) == ["text is not valid UTF-8 at byte 3; dataset.encoding says how the files are encoded"]
