"""What each compression has of its own: windows, archives, and what follows the end of a stream."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard

from tests.unit.formats.sources import MemorySource, all_rows, compressed, texts, zipped
from tidemill.errors import FormatError
from tidemill.formats import format_of, inner_name, says_nothing

LINES = b"".join(b"line %d\n" % i for i in range(2000))


@pytest.mark.parametrize("window_log", [27, 31])
def test_zstandard_with_a_long_window_is_read(window_log):
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frame = packer.compress(LINES) + packer.flush()
    # The byte of the header that says which window the frame must be given.
    packed = frame[:5] + bytes([(window_log - 10) << 3]) + frame[6:]
    assert zstandard.get_frame_parameters(packed).window_size == 2**window_log
    assert len(all_rows(packed, "a.txt.zst")) == 2000


def test_a_frame_of_zstandard_that_is_to_be_skipped_is():
    skippable = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"index"
    packed = skippable + zstandard.compress(LINES) + skippable
    assert len(all_rows(packed, "a.txt.zst")) == 2000


def test_xz_may_be_padded_with_zeros_between_and_behind_its_streams():
    packed = lzma.compress(LINES) + bytes(8) + lzma.compress(LINES) + bytes(4)
    assert len(all_rows(packed, "a.txt.xz")) == 4000


def test_the_older_lzma_container_is_read_by_the_name_xz():
    assert len(all_rows(lzma.compress(LINES, lzma.FORMAT_ALONE), "a.txt.xz")) == 2000


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("behind", [b"more", LINES])
def test_what_follows_a_stream_and_is_none_is_an_error_and_no_end(ending, behind):
    with pytest.raises(FormatError, match=rf"a\.txt{ending} cannot be decompressed"):
        all_rows(compressed(LINES, ending) + behind, f"a.txt{ending}")


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("missing", [1, 3, 9])
def test_a_last_stream_that_lacks_its_end_is_an_error(ending, missing):
    packed = compressed(LINES, ending, members=3)
    with pytest.raises(FormatError, match=rf"a\.txt{ending} cannot be decompressed"):
        all_rows(packed[:-missing], f"a.txt{ending}")


@pytest.mark.parametrize("name", ["data", "folder/reviews.csv", "x.tsv"])
def test_an_archive_is_named_by_itself_where_its_name_says_a_format(name):
    assert format_of("reviews.csv.zip") == "csv"
    assert not says_nothing("reviews.csv.zip")
    assert texts(all_rows(zipped(b"text,n\na,1\n", name), "reviews.csv.zip")) == ["a"]


def test_an_archive_whose_name_says_nothing_is_named_by_the_file_in_it():
    assert says_nothing("reviews.zip")
    assert (
        inner_name(MemorySource(zipped(b"", "folder/reviews.csv", "README.md"), "reviews.zip")) == "folder/reviews.csv"
    )


def test_a_file_in_an_archive_may_itself_be_compressed():
    assert len(all_rows(zipped(gzip.compress(LINES), "a.txt.gz"), "a.txt.zip")) == 2000
    assert len(all_rows(zipped(bz2.compress(LINES), "a.txt.bz2"), "a.txt.zip")) == 2000


def test_an_archive_within_an_archive_is_refused():
    with pytest.raises(FormatError, match=r"a\.txt\.zip holds another archive, b\.zip\. Unpack it"):
        all_rows(zipped(zipped(LINES), "b.zip"), "a.txt.zip")


def test_what_an_archive_has_beside_its_data_is_passed_over():
    names = ("__MACOSX/._a.txt", ".DS_Store", "README.txt", "LICENSE", "a.txt")
    assert len(all_rows(zipped(LINES, *names), "a.txt.zip")) == 2000


def test_an_archive_of_several_files_is_refused_with_their_names_and_the_way_out():
    with pytest.raises(
        FormatError, match=r'holds 2 files: a\.csv, b\.csv\..*dataset\.path = "zip://\*\*/\*\.csv::\.\.\./x\.csv\.zip"'
    ):
        all_rows(zipped(b"text\na\n", "a.csv", "b.csv"), "x.csv.zip")
    with pytest.raises(FormatError, match="holds no data file"):
        all_rows(zipped(b"", "README.md"), "x.csv.zip")


def test_a_byte_that_changed_in_an_archive_is_an_error():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.txt", LINES)
    damaged = packed.getvalue().replace(b"line 1000\n", b"line 1009\n")
    with pytest.raises(FormatError, match=r"a\.txt\.zip cannot be decompressed: Bad CRC-32"):
        all_rows(damaged, "a.txt.zip")


def test_an_archive_with_a_password_says_so():
    packed = bytearray(zipped(LINES, "a.txt"))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(header) + flags] |= 1
    with pytest.raises(FormatError, match=r"a\.txt\.zip cannot be unpacked: .*password required"):
        all_rows(bytes(packed), "a.txt.zip")


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz", ".zip"])
def test_a_compressed_file_under_a_name_that_hides_it_is_named_for_what_it_is(ending):
    with pytest.raises(FormatError, match=r"a\.txt is (compressed by|a ZIP).* Give it the fitting ending"):
        all_rows(compressed(LINES, ending), "a.txt")


BOMB = """
import resource, sys
from tests.unit.formats.sources import MemorySource, compressed
from tidemill.formats import Columns, open_reader
line = b"x" * 999 + b"\\n"
packed = compressed(line * 10_000, sys.argv[1]) * 30
reader = open_reader("text", MemorySource(packed, "a.txt" + sys.argv[1]), Columns(("text",)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(cut.num_rows for cut in reader.slices(shard_bytes=2**20))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("ending", [".zst", ".bz2", ".xz"])
def test_bytes_that_become_thousands_of_times_as_many_pass_through_little_memory(ending):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", BOMB, ending]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 300_000
    assert mebibytes < 100
