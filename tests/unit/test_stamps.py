"""A file that was written to is read again, whatever its size and mtime say."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from tidemill.checkpoints.loading import folder_state
from tidemill.errors import FileChanged
from tidemill.fingerprints import fingerprint
from tidemill.shards import SourceFile
from tidemill.sources import hashes as fingerprints
from tidemill.sources.byte_files import open_source
from tidemill.sources.hashes import hash_files, stamp


@pytest.fixture
def remembers(monkeypatch) -> None:
    """Hashes are remembered at once, though the files are young."""
    monkeypatch.setattr(fingerprints, "SETTLING_NS", 0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def overwrite(path: Path, content: bytes) -> None:
    """In place, size and mtime kept, until the file system's clock has ticked."""
    before, times = stamp(path), path.stat()
    while stamp(path) == before:
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (times.st_size, times.st_mtime_ns, times.st_ino)


@pytest.mark.usefixtures("remembers")
@pytest.mark.parametrize("linked", [False, True])
def test_a_file_overwritten_in_place_with_its_size_and_mtime_kept_is_hashed_again(tmp_path, linked):
    blob = tmp_path / "blob"
    blob.write_bytes(b"before")
    path = tmp_path / "snapshot" if linked else blob
    if linked:
        path.symlink_to(blob)
    assert hash_files([path]) == {str(path): sha256(b"before")}

    overwrite(blob, b"after!")

    assert hash_files([path]) == {str(path): sha256(b"after!")}


def memory(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / "fingerprints.sqlite")


def test_a_hash_remembered_by_size_mtime_and_inode_alone_is_not_trusted(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    hash_files([])
    stat = path.stat()
    with memory(tmp_path / "home") as connection:
        old = f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"
        connection.execute("CREATE TABLE files (path TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT)")
        connection.execute("INSERT INTO files VALUES (?, ?, ?)", (str(path), old, sha256(b"others!")))
        seal = fingerprint(str(path), old, sha256(b"others!"))
        connection.execute("INSERT INTO hashes VALUES (?, ?, ?, ?)", (str(path), old, sha256(b"others!"), seal))
    connection.close()

    assert hash_files([path]) == {str(path): sha256(b"weights")}


def test_a_file_that_was_just_written_is_not_remembered_since_its_times_cannot_tell_the_next_write(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fingerprints, "SETTLING_NS", 10**18)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")

    hash_files([path])

    assert memory(tmp_path / "home").execute("SELECT count(*) FROM hashes").fetchall() == [(0,)]


def test_a_loaded_model_is_told_from_one_whose_blob_was_overwritten_in_place(tmp_path):
    (tmp_path / "blob").write_bytes(b"before")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blob")
    (snapshot / "dangling.json").symlink_to(tmp_path / "gone")
    before = folder_state(snapshot)

    overwrite(tmp_path / "blob", b"after!")

    assert folder_state(snapshot) != before


def test_a_source_file_overwritten_in_place_while_it_is_read_is_a_changed_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}')
    source = open_source(SourceFile("a.jsonl", str(path), 16, "sha256:x", stamp(path)))
    assert source.read(0, 16) == b'{"text": "good"}'

    overwrite(path, b'{"text": "evil"}')

    with pytest.raises(FileChanged):
        source.read(0, 16)
