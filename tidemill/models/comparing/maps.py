"""A map of scores a row: how far that one drifted which drifted most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.models.comparing.comparison import Comparison, Pair, named, quantiles_of
from tidemill.models.comparing.scores import ABSOLUTE_QUANTILES


class Maps(Comparison):
    group = "maps"
    distance_called, moved_called = "mean of the largest drift of a row", "largest drift of a row"

    def derived(self, pair: Pair) -> dict[str, str]:
        first, second = (f"map_extract_value({side}, key)::DOUBLE" for side in (pair.first, pair.second))
        return {
            "drift": f"list_max(list_transform(map_keys({pair.first}), lambda key: abs({second} - {first})))",
            "same_keys": f"list_sort(map_keys({pair.first})) = list_sort(map_keys({pair.second}))",
        }

    def measures(self, pair: Pair) -> list[str]:
        drift = pair.derived("drift")
        return [
            f"count(*) FILTER ({pair.derived('same_keys')} IS NOT TRUE)",
            quantiles_of(drift, ABSOLUTE_QUANTILES),
            f"max({drift})",
        ]

    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        other_keys, absolute, largest = values
        return {"absolute": {**named(ABSOLUTE_QUANTILES, absolute), "max": largest}, "other_keys": other_keys}

    def distance(self, pair: Pair) -> str:
        return f"avg({pair.derived('drift')})"

    def moved(self, pair: Pair) -> str:
        return pair.derived("drift")

    def order(self, pair: Pair) -> str:
        return f"{pair.derived('drift')} DESC"
