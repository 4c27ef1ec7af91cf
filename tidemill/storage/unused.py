"""Which of the things that can be made again may go: unused for a month, left unfinished, or more than fits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

UNUSED_SECONDS = 30 * 86_400
"""What nobody has used for so long, nobody waits for."""
PARTIAL = ".partial"


def unused(found: Iterable[tuple[float, Path, int]], *, max_bytes: int, min_age_seconds: float) -> dict[Path, int]:
    """Path → bytes of what may go, of times of last use, paths and bytes; the longest unused first.

    Nothing that was used or begun in the last `min_age_seconds` is among them.
    """
    now, by_age = time.time(), sorted(found)
    over, may_go = sum(num_bytes for _, _, num_bytes in by_age) - max_bytes, {}
    for used, path, num_bytes in by_age:
        is_old = now - used > UNUSED_SECONDS or path.name.endswith(PARTIAL)
        if now - used > min_age_seconds and (is_old or over > 0):
            may_go[path] = num_bytes
            over -= num_bytes
    return may_go
