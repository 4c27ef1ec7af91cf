"""A store file is there whole or not at all, and is checked when it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.errors import LimitExceeded, StoreFileInvalid
from tidemill.store import YOUNG_SECONDS, Store, StoreFile

FILE = StoreFile("tokens", "abc")
TABLE = pa.table({"row_number": [1, 2, 3], "token_ids": pa.array([[1, 2], None, []], pa.list_(pa.int32()))})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path), max_bytes=10_000)


def path_of(store: Store, file: StoreFile) -> Path:
    return Path(store._path(file))


def test_what_was_written_is_read_back_with_its_facts(store):
    store.write(FILE, TABLE, {"seconds": "1.5"})
    assert store.read(FILE).equals(TABLE)
    assert store.read_with_facts(FILE)[1] == {"seconds": "1.5"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=30), st.integers(0, 10), st.integers(0, 10))
def test_any_slice_of_any_column_passes_its_own_check(store, texts, start, length):
    table = pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))}).slice(start, length)
    store.write(FILE, table)
    assert store.read(FILE).equals(table)


def test_a_changed_byte_is_found(store):
    store.write(FILE, TABLE)
    body = bytearray(path_of(store, FILE).read_bytes())
    body[body.index(b"\x01\x00\x00\x00\x02\x00\x00\x00")] ^= 4
    path_of(store, FILE).write_bytes(body)
    with pytest.raises(StoreFileInvalid, match="checksum"):
        store.read(FILE)
    assert not store.has(FILE)


def test_a_file_under_another_ones_name_is_refused(store):
    store.write(FILE, TABLE)
    other = StoreFile("tokens", "def")
    path_of(store, other).write_bytes(path_of(store, FILE).read_bytes())
    with pytest.raises(StoreFileInvalid, match="not what its name says"):
        store.read(other)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_or_missing_file_is_as_good_as_none(store, keep):
    store.write(FILE, TABLE)
    path_of(store, FILE).write_bytes(path_of(store, FILE).read_bytes()[:keep])
    assert not store.has(FILE)
    store.remove(FILE)
    store.remove(FILE)
    assert not store.has(FILE)


def test_the_oldest_files_are_evicted_and_needed_or_young_ones_never(store):
    files = [StoreFile("rows", str(i)) for i in range(4)]
    size = 0
    for age, file in enumerate(reversed(files)):
        size = store.write(file, TABLE)
        old = path_of(store, file).stat().st_mtime - 2 * YOUNG_SECONDS - age
        os.utime(path_of(store, file), (old, old))
    store.max_bytes = 4 * size
    assert store.make_room(2 * size, needed={files[0].name})
    assert [store.has(file) for file in files] == [True, False, False, True]
    store.write(files[1], TABLE)
    store.write(files[2], TABLE)
    assert not store.make_room(2 * size, needed={file.name for file in (files[0], files[3])})
    assert all(store.has(file) for file in files)


def test_a_shard_larger_than_the_store_is_refused_with_the_options(store):
    with pytest.raises(LimitExceeded, match=r"store\.max_bytes"):
        store.make_room(20_000)


def test_what_a_killed_process_left_unpublished_is_swept_after_a_day(store, tmp_path):
    for name, age in ((".new.partial", 0), (".old.partial", 25 * 3600)):
        (tmp_path / name).write_bytes(b"half")
        when = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (when, when))
    store.sweep()
    assert [path.name for path in tmp_path.glob("*.partial")] == [".new.partial"]
