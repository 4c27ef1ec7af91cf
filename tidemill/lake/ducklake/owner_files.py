"""The owner file that a lake leaves where its data lies: its name is the lake's, and it says what the catalog is.

It outlives the catalog, so that an emptied catalog is told from one that never held a lake.
"""

from __future__ import annotations

import csv
from pathlib import Path

from tidemill.errors import LakeError

PREFIX = "tidemill-lake-"


def owner_files_in(data: str) -> dict[str, str | None]:
    """Name of each owner file in a data folder → the catalog that it says; None of one that an older Tidemill left."""
    if "://" in data:
        return _owner_files_at(data)
    folder = Path(data)
    names = [path.name for path in folder.iterdir() if path.name.startswith(PREFIX)] if folder.is_dir() else []
    return {name: _catalog((folder / name).read_text(encoding="utf-8")) for name in names}


def _owner_files_at(address: str) -> dict[str, str | None]:
    from tidemill.storage.addresses import open_address, translated

    file_system, root = open_address(address, "lake.data", LakeError)
    with translated(address, "lake.data", LakeError):
        try:
            paths = [path for path in file_system.ls(root, detail=False) if _name(path).startswith(PREFIX)]
        except FileNotFoundError:
            return {}
        return {_name(path): _catalog(file_system.cat_file(path).decode()) for path in paths}


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _catalog(text: str) -> str | None:
    return next((row.get("catalog") for row in csv.DictReader(text.splitlines())), None)
