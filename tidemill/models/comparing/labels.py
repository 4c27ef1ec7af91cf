"""One label a row: it is the same, or it flipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.lake.ducklake.connection import Cursor
from tidemill.models.comparing.comparison import Comparison, Pair


class Labels(Comparison):
    group = "labels"
    distance_called = "share of rows that flipped"

    def measures(self, pair: Pair) -> list[str]:
        return [f"count(*) FILTER ({self.differs(pair)})"]

    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        (flipped,) = values
        return {"agreement": 1 - flipped / num_rows if num_rows else None, "flipped": flipped}

    def differs(self, pair: Pair) -> str:
        return f"{pair.first} IS DISTINCT FROM {pair.second}"

    def distance(self, pair: Pair) -> str:
        return f"count(*) FILTER ({self.differs(pair)}) / count(*)"

    def details(self, cursor: Cursor, pair: Pair) -> dict[str, Any]:
        """How many rows have which label in the first and which in the second version, the diagonal included."""
        rows = cursor.execute(
            f"SELECT {pair.first}, {pair.second}, count(*) FROM pairs GROUP BY ALL ORDER BY 3 DESC, 1, 2"
        ).fetchall()
        return {"confusion": [{"first": first, "second": second, "rows": count} for first, second, count in rows]}
