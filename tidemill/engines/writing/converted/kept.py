"""Conversions on disk, a folder each in one of `TIDEMILL_HOME`. Removing them makes the next process convert again."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import xxhash

from tidemill.places import home, make_folders

SUMS = "sums.json"
READ_BYTES = 2**22


def conversion_folder(name: str) -> Path:
    return home() / "conversions" / name


def is_kept(name: str) -> bool:
    """Whether there is a conversion of that name, and every byte of it is as it was written."""
    folder = conversion_folder(name)
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        return bool(sums) and all(_sum(folder / file) == expected for file, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def keep_conversion(name: str, write: Callable[[Path], None]) -> None:
    """Keep what `write` writes to a folder that it makes; what is there and is not whole is removed.

    Nothing is left of one that fails.

    Raises:
        OSError: it cannot be written.
    """
    folder = conversion_folder(name)
    make_folders(folder.parent)
    unpublished = folder.parent / f".{secrets.token_hex(8)}.partial"
    try:
        write(unpublished)
        sums = {file.name: _sum(file) for file in sorted(unpublished.iterdir())}
        (unpublished / SUMS).write_text(json.dumps(sums), encoding="utf-8")
        _publish(unpublished, name)
    finally:
        shutil.rmtree(unpublished, ignore_errors=True)


def _publish(unpublished: Path, name: str) -> None:
    """Of two processes that convert at one time, the later leaves what the earlier published."""
    if is_kept(name):
        return
    shutil.rmtree(conversion_folder(name), ignore_errors=True)
    unpublished.rename(conversion_folder(name))


def _sum(file: Path) -> str:
    found = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while piece := opened.read(READ_BYTES):
            found.update(piece)
    return found.hexdigest()
