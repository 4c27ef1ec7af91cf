"""JSON arrays: their elements are the rows, as Python's json module reads them, wherever slices are cut."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.formats.sources import MemorySource, compressed, reader_of, reasons, slices_and_rows, texts
from tidemill.errors import FormatError
from tidemill.formats import Columns, open_reader
from tidemill.formats.streams import arrays
from tidemill.formats.streams import stream as streams
from tidemill.values.columns import HEAD_BYTES

KEPT_N = (("n", "n"),)
AWKWARD = st.text(st.sampled_from('a"\\[]{},:\n é\u2028'), max_size=8)
NESTED = st.recursive(AWKWARD | st.integers(-9, 9), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def array_reader(data: bytes, path: str = "a.json", field: str | None = None, **options):
    return open_reader("json", MemorySource(data, path), Columns(text=("text",), field=field, **options))


def rows_of(data: bytes, shard_bytes: int = 100, **options):
    return slices_and_rows(array_reader(data, **options), shard_bytes)[1]


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(st.fixed_dictionaries({"text": AWKWARD, "more": NESTED}), max_size=12),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.integers(1, 60),
    st.integers(1, 40),
    st.sampled_from([None, "data", "data.items"]),
)
def test_what_pythons_json_module_writes_is_read_back_exactly(records, indent, ascii_, shard_bytes, block, field):
    value = records
    for name in reversed(field.split(".") if field else []):
        value = {"[": "]", "before": [1, {"data": [3]}], name: value, "behind": {"}": [records[:2], "]"]}}
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_SCANNED_AT_ONCE", block)
        patch.setattr(arrays, "_SEARCHED_AT_ONCE", block)
        patch.setattr(streams, "BLOCK_BYTES", block + 1)
        slices, rows = slices_and_rows(array_reader(data, field=field), shard_bytes)
    assert texts(rows) == [record["text"] for record in records]
    assert [row["row_number"] for row in rows] == list(range(len(records)))
    assert all(after.start == before.stop for before, after in pairwise(slices))


def test_a_slice_is_read_later_in_any_order_and_stands_where_it_was_cut():
    data = json.dumps([{"text": "good, " * i} for i in range(20)], indent=1).encode()
    slices = list(array_reader(data).slices(shard_bytes=100))
    assert len(slices) > 3
    for cut in reversed(slices):
        assert array_reader(data).rows(cut).num_rows == cut.num_rows
    for trusted in (False, True):
        assert list(array_reader(data).slices(shard_bytes=9, known=slices[:-1], trusted=trusted))[:3] == slices[:3]
    assert list(array_reader(data).slices(shard_bytes=100, known=slices, trusted=True)) == slices


def test_the_same_records_as_lines_and_as_an_array_are_computed_once():
    lines = b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n'
    array = b"[" + lines[:-1].replace(b"\n", b",") + b"]"
    from_lines = list(reader_of(lines, "a.jsonl").slices(shard_bytes=1))
    assert [cut.content for cut in array_reader(array).slices(shard_bytes=1)][:2] == [
        cut.content for cut in from_lines[:2]
    ]


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz", ".zip"])
def test_compressed_arrays_are_cut_as_they_are_without(ending):
    data = json.dumps([{"text": "good, " * i} for i in range(20)], indent=1).encode()
    plain = list(array_reader(data).slices(shard_bytes=100))
    packed = array_reader(compressed(data, ending), f"a.json{ending}")
    assert list(packed.slices(shard_bytes=100)) == plain
    assert [packed.rows(cut).num_rows for cut in reversed(plain)] == [cut.num_rows for cut in reversed(plain)]


@pytest.mark.parametrize("ending", ["", ".gz", ".zip"])
def test_a_slice_costs_one_way_to_it(ending):
    data = json.dumps([{"text": random.Random(i).randbytes(500).hex()} for i in range(8_000)]).encode()
    stored = compressed(data, ending) if ending else data
    *_, cut = array_reader(stored, f"a.json{ending}").slices(shard_bytes=10**6)
    source = MemorySource(stored, f"a.json{ending}")
    open_reader("json", source, Columns(("text",))).rows(cut)
    way = len(stored) if ending else cut.stop - cut.start
    assert source.bytes_served < way + 2 * HEAD_BYTES


def test_what_is_no_object_is_quarantined_in_its_place():
    rows = rows_of(b'[{"text": "a"}, 1, ["x"], {"text": }, "b", {"text": 5}, {"text": "c"}]')
    assert texts(rows) == ["a", None, None, None, None, None, "c"]
    assert reasons(rows)[1:3] == [
        "malformed record: a number, not an object: 1",
        "malformed record: an array, not an object: ['x']",
    ]


@pytest.mark.parametrize(
    "data", [b'[{"text": "a"},]', b'[{"text": "a"}, , {"text": "b"}]', b'[{"text": "b"}, {"text": "a"},\n,\n]']
)
def test_a_comma_too_many_is_a_malformed_record(data):
    assert {reason[:16] for reason in reasons(rows_of(data)) if reason} == {"malformed record"}


@pytest.mark.parametrize("data", [b"", b"[]", b" [ \n ] \n", b"\xef\xbb\xbf[]"])
def test_an_array_without_elements_has_no_slices(data):
    assert list(array_reader(data).slices(shard_bytes=10)) == []
    assert len(array_reader(data).schema()) == 0


def test_a_byte_order_mark_and_utf_16_are_taken():
    data = json.dumps([{"text": "gut é"}], ensure_ascii=False)
    assert texts(rows_of(data.encode("utf-8-sig"))) == texts(rows_of(data.encode("utf-16"))) == ["gut é"]


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        (b'[{"text": "a"}', None, "ends before its JSON array does. It is cut short"),
        (b'[{"text": "a"}, {"text": "b]', None, "ends before its JSON array does"),
        (b'{"data": [{"text": "a"}]', "data", "ends before its JSON array does"),
        (b'[{"text": "a"}] [2]', None, r"holds more than one JSON value: b'\[2\]' follows"),
        (b'{"data": [{"text": "a"}]} {}', "data", "holds more than one JSON value"),
        (
            b'{"text": "a"}\n{"text": "b"}',
            None,
            r'is not a JSON array but begins with an object.*dataset\.field.*dataset\.format = "jsonl"',
        ),
        (b"text", None, "is not a JSON array"),
        (b"[1, 2]", None, r"is an array without objects \(malformed record: a number"),
        (b'{"a": {"b": [1]}, "c": [2]}', "b", r"has no JSON array at 'b'. It has arrays at 'a\.b', 'c'"),
        (b'[{"text": "a"}]', "data", r"is itself a JSON array.* Remove dataset\.field"),
    ],
)
def test_what_is_no_whole_array_is_a_format_error_that_says_what_it_is(data, field, message):
    with pytest.raises(FormatError, match=rf"a\.json {message}"):
        rows_of(data, field=field)


def test_a_file_of_lines_that_is_an_array_is_refused_with_the_option_that_reads_it():
    for data in (b'[\n{"text": "a"},\n{"text": "b"}\n]\n', b'[{"text": "a"}, {"text": "b"}]', b"[\n  {\n"):
        with pytest.raises(FormatError, match=r'one JSON array.*dataset\.format = "json"'):
            reader_of(data, "a.json").schema()
    with pytest.raises(FormatError, match=r"object over several lines.*dataset\.field"):
        reader_of(b'{\n "data": []\n}', "a.json").schema()


LARGE = """
import gzip, io, resource
from tests.unit.formats.test_json_arrays import array_reader
packed = io.BytesIO()
with gzip.open(packed, "wb", compresslevel=1) as file:
    file.write(b"[\\n")
    for _ in range(400):
        file.write((b'{"text":\\n "' + b"x" * 1000 + b'"},\\n') * 100)
    file.write(b'{"text": "z"}]')
reader = array_reader(packed.getvalue(), "a.json.gz")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(reader.rows(cut).num_rows for cut in reader.slices(shard_bytes=2**21))
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_large_array_passes_through_little_memory():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", LARGE], cwd=root, capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 40_001
    assert mebibytes < 50
