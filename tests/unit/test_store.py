"""A store file is there whole or not at all, and is checked when it is read."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage import damages
from tests.pipelines import ROOT
from tidemill.errors import LimitExceeded, PlaceUnusable, StoreFileInvalid
from tidemill.storage.store import LISTED_SECONDS, REMADE, SMALL_BYTES, YOUNG_SECONDS, Kind, Store, StoreFile

FILE = StoreFile("tokens", "abc")
TABLE = pa.table({"row_number": [1, 2, 3], "token_ids": pa.array([[1, 2], None, []], pa.list_(pa.int32()))})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path), max_bytes=10_000)


def later(store: Store) -> Store:
    """The same store as another process sees it, which has read nothing of it."""
    return Store(store._root, max_bytes=store.max_bytes)


def path_of(store: Store, file: StoreFile) -> Path:
    return Path(store._path(file))


def test_what_was_written_is_read_back_with_its_facts(store):
    store.write(FILE, TABLE, {"seconds": "1.5"})
    assert store.read(FILE).equals(TABLE)
    assert store.read_with_facts(FILE)[1] == {"seconds": "1.5"}


LARGE = pa.table({"text": ["x" * SMALL_BYTES]})


@pytest.mark.parametrize("table", [TABLE, LARGE], ids=["small", "large"])
def test_what_was_found_whole_is_not_read_a_second_time_to_be_used(store, table):
    store.write(FILE, table)
    other = later(store)
    assert other.has(FILE)
    path_of(store, FILE).unlink()
    assert other.read(FILE).equals(table)


def test_a_large_file_is_in_memory_until_it_is_read_and_a_small_one_until_it_is_removed(store):
    for table in (TABLE, LARGE):
        store.write(FILE, table)
        store.has(FILE)
        store.read(FILE)
        path_of(store, FILE).write_bytes(b"damaged")
        assert store.has(FILE) is (table is TABLE)
        path_of(store, FILE).unlink()
        assert not store.has(FILE)


def test_what_is_in_memory_of_files_found_whole_is_bounded(store, monkeypatch):
    monkeypatch.setattr("tidemill.storage.store.KEPT_BYTES", 2 * LARGE.nbytes + 4096)
    files = [StoreFile("rows", str(i)) for i in range(3)]
    for file in files:
        store.write(file, LARGE)
        assert store.has(file)
        path_of(store, file).write_bytes(b"damaged")
    assert [store.has(file) for file in files] == [False, True, True]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=30), st.integers(0, 10), st.integers(0, 10))
def test_any_slice_of_any_column_passes_its_own_check(store, texts, start, length):
    table = pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))}).slice(start, length)
    store.write(FILE, table)
    assert store.read(FILE).equals(table)


NESTED = pa.table(
    {
        "row_number": pa.array(range(8), pa.int64()),
        "text": pa.array(["a", None, "", "long " * 20, *"bcde"]),
        "label": pa.array(["good", "bad"] * 4).dictionary_encode(),
        "kept": pa.array([{"when": i, "tags": ["x"] * i} for i in range(8)]),
    }
)


def test_any_of_1200_damages_is_found(store):
    """Of the bytes of a file there is none, be it of the schema, the footer or the checksum, that may change."""
    store.write(FILE, NESTED, {"ledger": '{"num_tokens": 5}'})
    path, chance = path_of(store, FILE), random.Random(0)
    body = path.read_bytes()
    missed, num_tried = [], 0
    while num_tried < 1200:
        for kind, damaged in damages(body, chance).items():
            path.write_bytes(damaged)
            num_tried += 1
            if later(store).has(FILE):
                missed.append(kind)
            with pytest.raises(StoreFileInvalid):
                later(store).read(FILE)
    assert not missed


def test_a_file_cut_anywhere_is_as_good_as_none(store):
    store.write(FILE, TABLE)
    body = path_of(store, FILE).read_bytes()
    for keep in range(len(body)):
        path_of(store, FILE).write_bytes(body[:keep])
        assert not later(store).has(FILE), keep


@pytest.mark.parametrize("other", [StoreFile("tokens", "def"), StoreFile("rows", "abc")])
def test_a_file_under_another_ones_name_is_refused(store, other):
    store.write(FILE, TABLE)
    path_of(store, other).write_bytes(path_of(store, FILE).read_bytes())
    with pytest.raises(StoreFileInvalid, match="not what was written under its name"):
        store.read(other)


def test_a_file_that_an_older_tidemill_wrote_is_made_again(store):
    with pa.ipc.new_file(path_of(store, FILE), TABLE.schema, metadata={"rows": "3", "fingerprint": "abc"}) as writer:
        writer.write_table(TABLE)
    assert not store.has(FILE)
    store.write(FILE, TABLE)
    assert store.read(FILE).equals(TABLE)


def unreadable(path: Path) -> None:
    """A loop of links: not even root can read it."""
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    (path / "inner").mkdir(parents=True)


@pytest.mark.parametrize("put", [unreadable, folder])
def test_what_lies_in_a_files_place_is_replaced(store, put: Callable[[Path], None]):
    put(path_of(store, FILE))
    with pytest.raises(StoreFileInvalid, match="cannot be read"):
        store.read(FILE)
    store.write(FILE, TABLE)
    assert store.read(FILE).equals(TABLE)
    store.remove(FILE)
    put(path_of(store, FILE))
    store.remove(FILE)


def test_a_missing_file_may_be_removed(store):
    store.remove(FILE)
    with pytest.raises(StoreFileInvalid, match="missing"):
        store.read(FILE)


def test_a_write_that_fails_leaves_nothing_and_names_the_place_and_the_option(store, tmp_path):
    """The limit on a file's size fails a write in its middle, as a full disk does, whoever the user is."""
    write = (
        "import pyarrow as pa; from tidemill.storage.store import Store, StoreFile; "
        "table = pa.table({'n': range(10**5)}); "
        f"Store({str(tmp_path)!r}, max_bytes=10**9).write(StoreFile('rows', 'x'), table)"
    )
    done = subprocess.run(
        ["bash", "-c", 'trap "" XFSZ; ulimit -f 100; exec "$0" -c "$1"', sys.executable, write],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert "PlaceUnusable" in done.stderr
    assert "File too large. Check store.path." in done.stderr
    assert not list(tmp_path.rglob("*.partial"))
    assert not store.names("rows")


def test_a_store_that_is_removed_under_a_run_is_made_again(store, tmp_path):
    shutil.rmtree(tmp_path)
    assert not store.has(FILE)
    assert store.names("tokens") == set()
    store.write(FILE, TABLE)
    assert store.read(FILE).equals(TABLE)


def test_a_store_that_cannot_be_written_ends_in_one_message(store, tmp_path):
    (tmp_path / "tokens").rmdir()
    (tmp_path / "tokens").write_text("a file in the folder's place")
    with pytest.raises(PlaceUnusable, match=r"tokens cannot be used.*store\.path"):
        store.write(FILE, TABLE)
    assert not list(tmp_path.glob("*.partial"))


def test_the_oldest_files_are_evicted_and_needed_or_young_ones_never(store):
    files = [StoreFile("rows", str(i)) for i in range(4)]
    for age, file in enumerate(reversed(files)):
        store.write(file, TABLE)
        old = path_of(store, file).stat().st_mtime - 2 * YOUNG_SECONDS - age
        os.utime(path_of(store, file), (old, old))
    size = path_of(store, files[0]).stat().st_size
    store.max_bytes = 4 * size
    assert store.make_room(2 * size, needed={files[0].name})
    assert [store.has(file) for file in files] == [True, False, False, True]
    store.write(files[1], TABLE)
    store.write(files[2], TABLE)
    assert not store.make_room(2 * size, needed={file.name for file in (files[0], files[3])})
    assert all(store.has(file) for file in files)


def test_a_store_that_is_far_from_full_is_listed_once_in_a_while_and_not_for_every_shard(tmp_path, monkeypatch):
    now = [0.0]
    listed: list[float] = []
    store = Store(str(tmp_path), max_bytes=1000, clock=lambda: now[0])

    def look() -> Iterator[tuple[str, float, int]]:
        listed.append(now[0])
        return iter(())

    monkeypatch.setattr(store, "_listed", look)
    for _ in range(5):
        assert store.make_room(100)
    assert len(listed) == 1
    assert store.make_room(100)  # What room was made for may be there by now: half of the store.
    assert len(listed) == 2
    now[0] += LISTED_SECONDS
    assert store.make_room(100)
    assert len(listed) == 3


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


def test_what_a_model_wrote_is_no_leftover_though_the_store_may_evict_it(store):
    kinds: tuple[Kind, ...] = ("rows", "written")
    for kind in kinds:
        store.write(StoreFile(kind, "old"), pa.table({"n": [1]}))

    assert set(store.unneeded((), older_than_seconds=0, kinds=REMADE)) == {"rows/old.arrow"}
    assert set(store.unneeded((), older_than_seconds=0)) == {f"{kind}/old.arrow" for kind in kinds}
    assert store.make_room(store.max_bytes, released=[f"{kind}/old.arrow" for kind in kinds])
    assert store.names("written") == set()
