"""What all text formats share: slices, their contents, resuming, compression."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.formats.sources import MemorySource, compressed, reader_of, slices_and_rows, texts
from tidemill.errors import FileChanged, FormatError, SourceUnavailable
from tidemill.fingerprints import fingerprint
from tidemill.formats import Columns, open_reader
from tidemill.formats.streams import stream as streams
from tidemill.shards import Slice
from tidemill.values.columns import HEAD_BYTES

LINES = st.lists(st.text(st.sampled_from("ab é"), max_size=12), max_size=40)
ENDINGS = ["", ".gz", ".zst", ".bz2", ".xz", ".zip"]
FORMATS = ["csv", "jsonl", "txt"]


def file_of(lines: list[str], format_name: str) -> bytes:
    match format_name:
        case "csv":
            return "".join(["text\n", *(f'"{line}"\n' for line in lines)]).encode()
        case "jsonl":
            return "".join(f'{{"text": "{line}"}}\n' for line in lines).encode()
        case _:
            return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize("format_name", FORMATS)
@given(LINES, st.integers(1, 60))
def test_slices_lie_end_to_end_and_hold_every_record_once(format_name, lines, shard_bytes):
    data = file_of(lines, format_name)
    slices, rows = slices_and_rows(reader_of(data, f"a.{format_name}"), shard_bytes)
    assert texts(rows) == lines
    assert [row["row_number"] for row in rows] == list(range(len(lines)))
    start = len(b"text\n") if format_name == "csv" else 0
    for cut in slices:
        assert cut.start == start
        assert cut.text_bytes == cut.stop - cut.start
        start = cut.stop
    assert not slices or start == len(data)
    assert all(cut.text_bytes >= shard_bytes for cut in slices[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("format_name", FORMATS)
@given(LINES, LINES, st.integers(1, 60))
def test_an_append_leaves_complete_slices_as_they_are(format_name, lines, more, shard_bytes):
    before, _ = slices_and_rows(reader_of(file_of(lines, format_name), f"a.{format_name}"), shard_bytes)
    after, _ = slices_and_rows(reader_of(file_of(lines + more, format_name), f"a.{format_name}"), shard_bytes)
    assert after[: max(0, len(before) - 1)] == before[:-1]


@pytest.mark.parametrize("ending", ["", ".gz"])
@given(LINES, LINES, st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_known_slices_are_given_again_but_for_the_last_one_of_a_file_that_may_have_grown(
    ending, lines, more, shard_bytes, later_bytes, trusted
):
    def data(all_lines: list[str]) -> bytes:
        plain = file_of(all_lines, "jsonl")
        return compressed(plain, ending) if ending else plain

    known, rows = slices_and_rows(reader_of(data(lines), f"a.jsonl{ending}"), shard_bytes)
    grown = lines if trusted else lines + more
    slices, again = slices_and_rows(
        reader_of(data(grown), f"a.jsonl{ending}"), later_bytes, known=known, trusted=trusted
    )
    assert slices == known if trusted else slices[: max(0, len(known) - 1)] == known[:-1]
    assert again[: len(rows)] == rows
    assert texts(again) == grown


def test_slices_are_cut_anew_from_the_first_one_that_changed():
    lines = [f"line {i}" for i in range(50)]
    known, _ = slices_and_rows(reader_of(file_of(lines, "txt"), "a.txt"), 30)
    lines[20] = "changed"
    slices, rows = slices_and_rows(reader_of(file_of(lines, "txt"), "a.txt"), 200, known=known)
    changed = next(cut for cut in known if cut.first_row <= 20 < cut.first_row + cut.num_rows)
    assert [cut for cut in slices if cut in known] == known[: known.index(changed)]
    assert texts(rows) == lines


def test_a_trusted_plain_file_is_read_only_behind_its_last_known_slice():
    data = file_of(["x" * 99] * 100_000, "txt")
    known = list(reader_of(data, "a.txt").slices(shard_bytes=10**6))
    source = MemorySource(data, "a.txt")
    again = list(open_reader("text", source, Columns(("text",))).slices(shard_bytes=10**6, known=known, trusted=True))
    assert again == known
    assert source.bytes_served <= HEAD_BYTES


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("members", [1, 3])
def test_compression_changes_neither_slices_nor_rows(format_name, ending, members):
    data = file_of([f"line {i}" for i in range(1000)], format_name)
    packed = compressed(data, ending, members) if ending else data
    expected = slices_and_rows(reader_of(data, f"a.{format_name}"), 1000)
    assert slices_and_rows(reader_of(packed, f"a.{format_name}{ending}"), 1000) == expected


@pytest.mark.parametrize("ending", ENDINGS[:-1])
def test_one_pass_reads_every_byte_once(ending):
    data = file_of([f"line {i}" for i in range(500_000)], "csv")
    packed = compressed(data, ending) if ending else data
    source = MemorySource(packed, f"a.csv{ending}")
    slices_and_rows(open_reader("csv", source, Columns(("text",))), 2**20)
    assert source.bytes_served == len(packed)


@pytest.mark.parametrize("format_name", ["csv", "jsonl"])
def test_what_a_file_shows_is_found_in_as_much_of_its_front_as_is_asked_for(format_name):
    data = file_of(["a" * 100] * 1000, format_name)
    source = MemorySource(data, f"a.{format_name}")
    reader = open_reader(format_name, source, Columns(("text",), kept=(("text", "kept"),), head_bytes=2**14))
    assert reader.schema().names == ["text"]
    assert source.bytes_served == 2**14
    (cut,) = reader.slices(shard_bytes=2**24)
    assert reader.rows(cut).num_rows == 1000


@pytest.mark.parametrize("ending", ENDINGS)
def test_slices_can_be_read_later_in_any_order(ending):
    data = file_of([f"line {i}" for i in range(1000)], "csv")
    packed = compressed(data, ending) if ending else data
    slices, rows = slices_and_rows(reader_of(packed, f"a.csv{ending}"), 1000)
    later = reader_of(packed, f"a.csv{ending}")
    for cut in [*slices[5:], *slices[:5][::-1]]:
        assert later.rows(cut).to_pylist() == rows[cut.first_row : cut.first_row + cut.num_rows]


def test_a_slice_of_a_plain_file_costs_its_own_bytes_and_the_head():
    data = file_of(["x" * 99] * 200_000, "csv")
    cut = list(reader_of(data, "a.csv").slices(shard_bytes=10**6))[7]
    source = MemorySource(data, "a.csv")
    open_reader("csv", source, Columns(("text",))).rows(cut)
    assert source.bytes_served <= HEAD_BYTES + streams.BLOCK_BYTES


def test_a_slice_behind_the_end_of_a_shrunk_file_is_a_changed_file():
    data = file_of([f"line {i}" for i in range(1000)], "txt")
    *_, cut = reader_of(data, "a.txt").slices(shard_bytes=1000)
    with pytest.raises(FileChanged):
        reader_of(data[: cut.start - 5], "a.txt").rows(cut)


@pytest.mark.parametrize("ending", ENDINGS[1:])
@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_compressed_file_is_a_format_error_that_names_it(ending, damage):
    packed = bytearray(compressed(b"".join(b"%d\n" % (i * 7919) for i in range(50_000)), ending))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[len(packed) // 2 :] = bytes(byte ^ 0x5A for byte in packed[len(packed) // 2 :])
    else:
        packed = bytearray(b"no compressed bytes\n")
    with pytest.raises(FormatError, match=rf"a\.txt{ending} cannot be decompressed"):
        slices_and_rows(reader_of(bytes(packed), f"a.txt{ending}"), 10_000)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("failure", [SourceUnavailable("503", wait_seconds=3.0), ConnectionResetError("reset")])
def test_what_the_source_raises_comes_through_as_it_is(ending, failure):
    data = file_of(["line"] * 10, "txt")
    source = MemorySource(compressed(data, ending) if ending else data, f"a.txt{ending}")
    source.failure = failure
    with pytest.raises(type(failure)) as caught:
        list(open_reader("text", source, Columns(("text",))).slices(shard_bytes=10))
    assert caught.value is failure


@pytest.mark.parametrize("format_name", FORMATS)
def test_empty_files_have_no_slices(format_name):
    for ending in ENDINGS:
        assert slices_and_rows(reader_of(b"", f"a.{format_name}{ending}"), 10) == ([], [])


FORMER = [
    ("a.txt", b"text", b"a\rb\r\nc\n", 2, ["a\rb", "c"], ["a", "b", "c"]),
    ("a.jsonl", b"jsonl", b'{"text":\r"a"}\n{"text": "b"}\r{"text": "c"}', 2, ["a", None], [None, None, "b", "c"]),
    ("a.csv", fingerprint("csv", ",", "text").encode(), b'a\n"b\nc\n', 2, ["a", None], ["a", None, "c"]),
]


@pytest.mark.parametrize(("path", "seed", "body", "num_rows", "former", "now"), FORMER)
def test_a_slice_that_was_cut_when_its_bytes_made_other_records_keeps_them(path, seed, body, num_rows, former, now):
    header = b"text\n" if path == "a.csv" else b""
    start = len(header)
    content = hashlib.sha256(seed + body).hexdigest()[:32]
    cut = Slice(0, num_rows, start, start + len(body), content, len(body))
    rows = reader_of(header + body, path).rows(cut)
    assert (rows.num_rows, rows["text"].to_pylist()) == (num_rows, former)
    assert texts(slices_and_rows(reader_of(header + body, path), 10**6)[1]) == now
    known = [cut, replace(cut, first_row=num_rows, start=cut.stop)]
    assert texts(slices_and_rows(reader_of(header + body, path), 10**6, known=known)[1]) == now


MEMORY = """
import resource, sys
sys.path.insert(0, {root!r})
from tidemill.formats import Columns, open_reader

LINE = b'{{"text": "' + b"x" * 988 + b'"}}\\n'

class Source:
    path, size, content = "a.jsonl", 1001 * 60_000, "c"

    def read(self, start, stop):
        first = start // 1001
        return (LINE * ((stop - start) // 1001 + 2))[start - first * 1001 :][: stop - start]

reader = open_reader("jsonl", Source(), Columns(("text",)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for cut in reader.slices(shard_bytes=4 * 2**20):
    rows += reader.rows(cut).num_rows
assert rows == 60_000, rows
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_large_file_passes_through_little_memory():
    root = str(Path(__file__).parents[3])
    output = subprocess.run(
        [sys.executable, "-c", MEMORY.format(root=root)], capture_output=True, text=True, check=True
    )
    assert int(output.stdout) < 50 * 1024
