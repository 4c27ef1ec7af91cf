"""The memory of hashes is a cache: whatever happens to it, files are hashed right."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.damage import damages
from tests.processes import Process
from tidemill.places import home
from tidemill.sources import hashes as fingerprints
from tidemill.sources.hashes import hash_files

NAMES = ("a", "b", "c")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """path → SHA-256, all of them remembered, however young."""
    monkeypatch.setattr(fingerprints, "SETTLING_NS", -(10**18))
    expected = {}
    for name in NAMES:
        path = tmp_path / name
        path.write_text(name * 100)
        expected[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    fingerprints._tell.cache_clear()
    assert hash_files(expected) == expected
    return expected


def memory() -> Path:
    return home() / "fingerprints.sqlite"


def test_it_is_right_and_made_again_whatever_is_damaged(files):
    whole, chance = memory().read_bytes(), random.Random(0)
    for _ in range(4):
        for kind, damaged in damages(whole, chance).items():
            memory().write_bytes(damaged)
            assert hash_files(files) == files, kind
            assert hash_files(files) == files, kind


def test_a_hash_that_changed_in_its_place_is_not_believed(files):
    with sqlite3.connect(memory()) as connection:
        connection.execute("UPDATE hashes SET sha256 = 'f' || substr(sha256, 2), stamp = stamp")
        connection.execute("UPDATE hashes SET sha256 = 'e' || substr(sha256, 2) WHERE path LIKE '%a'")
    connection.close()
    assert hash_files(files) == files


def another_shape(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE hashes (path TEXT)")
    connection.close()


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def a_file_for_its_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")


def a_journal_of_garbage(path: Path) -> None:
    path.with_name(f"{path.name}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"garbage" * 200)


@pytest.mark.parametrize(
    ("damage", "is_told"),
    [(another_shape, False), (a_folder, True), (a_file_for_its_folder, True), (a_journal_of_garbage, False)],
)
def test_what_lies_in_its_place_fails_nothing_and_is_told_once(files, caplog, damage: Callable[[Path], None], is_told):
    damage(memory())
    assert hash_files(files) == files
    assert hash_files(files) == files
    told = [record.message for record in caplog.records if "memory of hashes" in record.message]
    assert len(told) == int(is_told)


def test_a_memory_that_another_process_holds_is_done_without(files, monkeypatch, caplog):
    monkeypatch.setattr(fingerprints, "LOCKED_SECONDS", 0.01)
    holder = sqlite3.connect(memory(), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert hash_files(files) == files
    finally:
        holder.close()
    assert "locked" in caplog.text
    assert memory().stat().st_size > 0
    assert hash_files(files) == files


def hashed(home_folder: str, paths: list[str]) -> dict[str, str]:
    import os

    os.environ["TIDEMILL_HOME"] = home_folder
    return hash_files(paths)


def test_processes_that_find_it_damaged_at_one_time_are_all_right(files):
    memory().write_bytes(b"garbage" * 1000)
    processes = [Process(hashed, str(home()), list(files)) for _ in range(4)]
    assert [process.result() for process in processes] == [files] * 4
