"""Which rows are learned from and which are measured by: a text stands on one side, whatever else is in the data."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, counted

HELD_OUT_WORDS = frozenset(["true", "1", "test", "validation", "valid", "dev", "eval", "held_out", "held-out"])
"""What a column says of a row that is measured by, in small letters."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Indices of rows; of those that are neither, `num_dropped` were dropped as duplicates of held-out rows."""

    train: list[int]
    held_out: list[int]
    num_dropped: int = 0


def normalised(text: str) -> str:
    """A text as duplicates are known by: compatible characters, case and blanks count for nothing.

    >>> normalised("Ｈello  World\\n") == normalised("hello world")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split(
    texts: Sequence[str],
    held_out: float | Sequence[Any],
    *,
    groups: Sequence[Any] | None = None,
    max_rows: int | None = None,
    drop_duplicates: bool = False,
) -> Split:
    """Each row on its side: by the hash of its group, or else its text, or by what a column says of it.

    Rows keep their side as others come and go, and the `max_rows` that are
    learned from are among those of any greater `max_rows`.

    Raises:
        ConfigError: a text stands on both sides, and `drop_duplicates` does not say that it is only measured by.
    """
    known = [normalised(text) for text in texts]
    if isinstance(held_out, float):
        names = known if groups is None else list(map(str, groups))
        is_held_out = [_place(name, "side") < held_out for name in names]
    else:
        is_held_out = [str(value).strip().lower() in HELD_OUT_WORDS for value in held_out]
    measured_by = {text for text, held in zip(known, is_held_out, strict=True) if held}
    train = [i for i, held in enumerate(is_held_out) if not held]
    kept = [i for i in train if known[i] not in measured_by]
    num_dropped = len(train) - len(kept)
    if num_dropped and not drop_duplicates:
        raise ConfigError(
            f"{counted(num_dropped, 'row')} to learn from {'has' if num_dropped == 1 else 'have'} the text of a "
            "held-out row, so that the measures would flatter. Leave them out with --drop-duplicates, or split by the "
            "text: set data.held_out to a share, and no data.group."
        )
    if max_rows is not None:
        kept = sorted(sorted(kept, key=lambda i: _place(known[i], "order"))[:max_rows])
    return Split(kept, [i for i, held in enumerate(is_held_out) if held], num_dropped)


def _place(name: str, purpose: str) -> float:
    """A number in [0, 1) that is the same wherever and whenever it is asked for."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def num_duplicates(texts: Sequence[str]) -> int:
    """Rows whose text an earlier one has."""
    return len(texts) - len({normalised(text) for text in texts})


def contradictions(texts: Sequence[str], labels: Sequence[Any]) -> list[tuple[int, int]]:
    """Pairs of rows of one text and two labels: the first row of the text, and the first that says something else."""
    first: dict[str, int] = {}
    found: dict[str, tuple[int, int]] = {}
    for i, text in enumerate(map(normalised, texts)):
        before = first.setdefault(text, i)
        if text not in found and labels[before] != labels[i]:
            found[text] = (before, i)
    return list(found.values())
