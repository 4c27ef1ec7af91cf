"""A text a row, as a model wrote it: it is the same, character by character, or it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.lake.ducklake.connection import Cursor
from tidemill.models.comparing.comparison import Comparison, Pair
from tidemill.models.comparing.labels import Labels
from tidemill.models.comparing.scores import Scores

MOST_LABELS = 20
"""Where neither version has more different texts, and rows share them, they are labels: a model chose between some."""


class Texts(Comparison):
    group = "texts"
    distance_called, moved_called = "share of rows with another text", "characters more in the second"

    def measures(self, pair: Pair) -> list[str]:
        lengths = ", ".join(f"avg(length({side}))" for side in (pair.first, pair.second))
        return [f"count(*) FILTER ({self.differs(pair)})", f"[{lengths}]"]

    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        different, (first, second) = values
        return {
            "agreement": 1 - different / num_rows if num_rows else None,
            "same": num_rows - different,
            "different": different,
            "mean_characters": [first, second],
        }

    def differs(self, pair: Pair) -> str:
        return f"({pair.first} IS DISTINCT FROM {pair.second})"

    def distance(self, pair: Pair) -> str:
        return f"count(*) FILTER ({self.differs(pair)}) / count(*)"

    def moved(self, pair: Pair) -> str:
        """How many characters longer the second is, of texts that differ."""
        return f"CASE WHEN {self.differs(pair)} THEN length({pair.second}) - length({pair.first}) END"

    def details(self, cursor: Cursor, pair: Pair) -> dict[str, Any]:
        """From which to which, of texts that are labels; none of others."""
        counts = ", ".join(f"count(DISTINCT {side})" for side in (pair.first, pair.second))
        num_rows, *found = cursor.execute(f"SELECT count(*), {counts} FROM pairs").fetchall()[0]
        are_labels = max(found) <= min(MOST_LABELS, num_rows // 2)
        return Labels().details(cursor, pair) if are_labels else {"confusion": []}


OF_WRITTEN: Mapping[str, Comparison] = {
    **{name: Texts() for name in ("text", "summary_text", "translation_text")},
    **{name: Scores() for name in ("num_prompt_tokens", "num_new_tokens")},
}
"""How the columns of models that write are compared."""
