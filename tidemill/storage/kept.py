"""What was measured on this machine once, kept for the next process: JSON files in a folder of `TIDEMILL_HOME`.

Removing them makes whoever needs them measure again. Two processes that measure
at one time each keep what they found, and the later file stays.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tidemill.places import home, make_folders, published


def read_kept(name: str) -> Any:
    """What is kept under a name, as it was written or as anybody has changed it; None where nothing can be read."""
    try:
        return json.loads(_path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def keep(name: str, facts: object) -> None:
    """Not being able to keep it costs the next process a measurement, and no more."""
    path = _path(name)
    with suppress(OSError):
        make_folders(path.parent)
        with published(path) as unpublished:
            unpublished.write_text(json.dumps(facts), encoding="utf-8")


def _path(name: str) -> Path:
    return home() / "calibrations" / f"{name}.json"
