"""Models that were converted for an engine, a folder each in one of `TIDEMILL_HOME`.

Removing one makes the next process convert again. A folder's time is when it was last used.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import xxhash

from tidemill.places import home, make_folders
from tidemill.storage.unused import PARTIAL, unused

SUMS = "sums.json"
READ_BYTES = 2**22


def conversion_folder(name: str) -> Path:
    return home() / "conversions" / name


def is_kept(name: str) -> bool:
    """Whether there is a conversion of that name, and every byte of it is as it was written."""
    folder = conversion_folder(name)
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        is_whole = bool(sums) and all(_sum(folder / file) == expected for file, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False
    if is_whole:
        with suppress(OSError):
            os.utime(folder)
    return is_whole


def keep_conversion(name: str, write: Callable[[Path], None]) -> None:
    """Keep what `write` writes to a folder that it makes; what is there and is not whole is removed.

    Nothing is left of one that fails.

    Raises:
        OSError: it cannot be written.
    """
    folder = conversion_folder(name)
    make_folders(folder.parent)
    unpublished = folder.parent / f".{secrets.token_hex(8)}{PARTIAL}"
    try:
        write(unpublished)
        sums = {file.name: _sum(file) for file in sorted(unpublished.iterdir())}
        (unpublished / SUMS).write_text(json.dumps(sums), encoding="utf-8")
        _publish(unpublished, name)
    finally:
        shutil.rmtree(unpublished, ignore_errors=True)


def unused_conversions(*, max_bytes: int, min_age_seconds: float) -> dict[Path, int]:
    """Folder → bytes of what may go; each is made again in less than the model takes to load."""
    used = ((_last_used(folder), folder, _num_bytes(folder)) for folder in _folders())
    found = ((when, folder, num_bytes) for when, folder, num_bytes in used if when is not None)
    return unused(found, max_bytes=max_bytes, min_age_seconds=min_age_seconds)


def remove_conversions(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _folders() -> list[Path]:
    try:
        return [folder for folder in conversion_folder("").iterdir() if folder.is_dir()]
    except OSError:
        return []


def _last_used(folder: Path) -> float | None:
    try:
        return folder.stat().st_mtime
    except OSError:
        return None


def _num_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total


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
