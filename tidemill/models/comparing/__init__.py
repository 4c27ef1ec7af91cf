"""How `compare` holds two versions' answers against each other: a class for each kind of answer, a file each.

The type of a result column says which. Where it does not say enough, a model
task does, by `ModelTask.comparisons`.
"""

from __future__ import annotations

import re

from tidemill.models.comparing.comparison import Comparison, Pair
from tidemill.models.comparing.labels import Labels
from tidemill.models.comparing.lists import Lists
from tidemill.models.comparing.maps import Maps
from tidemill.models.comparing.scores import Scores
from tidemill.models.comparing.texts import OF_WRITTEN, Texts
from tidemill.models.comparing.vectors import Vectors

__all__ = ["OF_WRITTEN", "Comparison", "Labels", "Lists", "Maps", "Pair", "Scores", "Texts", "Vectors", "comparison_of"]

_BY_TYPE: tuple[tuple[str, Comparison], ...] = (
    ("VARCHAR|BOOLEAN|INTEGER|BIGINT", Labels()),
    ("FLOAT|DOUBLE", Scores()),
    (r"(FLOAT|DOUBLE)\[\d*\]", Vectors()),
    (r"MAP\(.*, (FLOAT|DOUBLE)\)", Maps()),
    (r"(STRUCT\(.*\)|VARCHAR|INTEGER|BIGINT)\[\]", Lists()),
)


def comparison_of(kind: str) -> Comparison | None:
    """How a result column of a DuckDB type is compared where its model task does not say; None where it is not.

    >>> [type(comparison_of(kind)).__name__ for kind in ("VARCHAR", "FLOAT[384]", "STRUCT(a INTEGER)[]", "BLOB")]
    ['Labels', 'Vectors', 'Lists', 'NoneType']
    """
    return next((comparison for pattern, comparison in _BY_TYPE if re.fullmatch(pattern, kind, re.DOTALL)), None)
