"""Folders: who may look into what Tidemill keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.config import Lake as Section
from tidemill.lake import Lake
from tidemill.places import home, make_folders
from tidemill.sources.hashes import hash_files
from tidemill.storage.store import Store


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


MAKERS = {
    "a lake": lambda: Lake(Section()).close(),
    "a store": lambda: Store(str(home() / "store"), max_bytes=1),
    "the memory of hashes": lambda: hash_files([__file__]),
    "a folder deep in it": lambda: make_folders(home() / "logs" / "today"),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.usefixtures("umask")
def test_whatever_makes_tidemills_home_makes_it_its_owners_alone(maker):
    MAKERS[maker]()

    assert mode(home()) == 0o700


def test_the_home_below_the_current_folder_is_its_owners_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("TIDEMILL_HOME")
    monkeypatch.chdir(tmp_path)

    Lake(Section()).close()

    assert mode(tmp_path / ".tidemill") == 0o700


def test_a_home_that_was_there_keeps_its_mode(tmp_path):
    home().mkdir(mode=0o750)

    make_folders(home() / "store")

    assert mode(home()) == 0o750


def test_a_folder_elsewhere_is_made_as_the_user_makes_folders(tmp_path, umask):
    make_folders(tmp_path / "shared" / "lake")

    assert mode(tmp_path / "shared" / "lake") == 0o777 & ~umask
    assert not home().exists()
