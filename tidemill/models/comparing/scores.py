"""One number a row: how far it drifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidemill.models.comparing.comparison import Comparison, Pair, named, quantiles_of

ABSOLUTE_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
SIGNED_QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


class Scores(Comparison):
    group = "scores"
    distance_called, moved_called = "mean absolute drift", "drift, second minus first"

    def measures(self, pair: Pair) -> list[str]:
        drift = _drift(pair)
        return [
            quantiles_of(f"abs({drift})", ABSOLUTE_QUANTILES),
            f"max(abs({drift}))",
            quantiles_of(drift, SIGNED_QUANTILES),
            f"[min({drift}), max({drift}), avg({drift})]",
        ]

    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        absolute, largest, signed, (low, high, mean) = values
        return {
            "absolute": {**named(ABSOLUTE_QUANTILES, absolute), "max": largest},
            "signed": {"min": low, **named(SIGNED_QUANTILES, signed), "max": high, "mean": mean},
        }

    def distance(self, pair: Pair) -> str:
        return f"avg(abs({_drift(pair)}))"

    def moved(self, pair: Pair) -> str:
        return _drift(pair)

    def order(self, pair: Pair) -> str:
        return f"abs({_drift(pair)}) DESC"

    def surest(self, pair: Pair) -> str:
        """SQL: orders pairs by the less sure of the two answers, the surest first."""
        return f"least({pair.first}, {pair.second}) DESC"


def _drift(pair: Pair) -> str:
    return f"({pair.second}::DOUBLE - {pair.first}::DOUBLE)"
