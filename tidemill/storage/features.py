"""What encoders made of texts for trainings, a file an encoder in `features` of `TIDEMILL_HOME`.

Removing one makes the next training compute it again. A file's time is when it was last used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tidemill.places import home
from tidemill.storage.unused import unused


def features_file(name: str) -> Path:
    return home() / "features" / f"{name}.arrow"


def note_use(path: Path) -> None:
    with suppress(OSError):
        os.utime(path)


def unused_features(*, max_bytes: int, min_age_seconds: float) -> dict[Path, int]:
    """File → bytes of what may go."""
    found = []
    for path in features_file("any").parent.glob("*"):
        with suppress(OSError):
            facts = path.stat()
            found.append((facts.st_mtime, path, facts.st_size))
    return unused(found, max_bytes=max_bytes, min_age_seconds=min_age_seconds)


def remove_features(files: Iterable[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
