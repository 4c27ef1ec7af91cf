"""A vector a row: the cosine of the angle between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.models.comparing.comparison import Comparison, Pair, named, quantiles_of

QUANTILES = {"p01": 0.01, "p05": 0.05, "p10": 0.1, "p50": 0.5}


class Vectors(Comparison):
    group = "vectors"
    distance_called, moved_called = "mean distance, one minus the cosine", "cosine of the two vectors"

    def derived(self, pair: Pair) -> dict[str, str]:
        # In float32 the sums of some hundred products would differ from 1 in the seventh digit.
        cosine = f"list_cosine_similarity({pair.first}::DOUBLE[], {pair.second}::DOUBLE[])"
        return {"cosine": f"CASE WHEN len({pair.first}) = len({pair.second}) THEN {cosine} END"}

    def measures(self, pair: Pair) -> list[str]:
        cosine = pair.derived("cosine")
        return [
            f"count(*) FILTER (NOT {self.differs(pair)})",
            f"count(*) FILTER ({cosine} IS NULL)",
            quantiles_of(cosine, QUANTILES),
            f"[min({cosine}), avg({cosine})]",
        ]

    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        same, incomparable, quantiles, (least, mean) = values
        cosine = {"min": least, **named(QUANTILES, quantiles), "mean": mean}
        return {"cosine": cosine, "same": same, "incomparable": incomparable}

    def differs(self, pair: Pair) -> str:
        return f"({pair.first} IS DISTINCT FROM {pair.second})"

    def distance(self, pair: Pair) -> str:
        return f"1 - avg(coalesce({pair.derived('cosine')}, -1))"

    def moved(self, pair: Pair) -> str:
        return pair.derived("cosine")

    def order(self, pair: Pair) -> str:
        return f"{pair.derived('cosine')} NULLS FIRST"

    def apart(self, pair: Pair) -> dict[str, str]:
        return {"cosine": pair.derived("cosine")}
