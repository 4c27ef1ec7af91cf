"""What a comparison is asked, in SQL over pairs of rows: the same row as two versions answered it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tidemill.lake.ducklake.connection import Cursor
from tidemill.lake.tables import identifier


@dataclass(frozen=True)
class Pair:
    """A result column of two versions. The view `pairs` has both, with what `Comparison.derived` adds of them."""

    name: str
    kind: str
    """Its DuckDB type, the same in both."""

    @property
    def first(self) -> str:
        return identifier(f"a.{self.name}")

    @property
    def second(self) -> str:
        return identifier(f"b.{self.name}")

    def derived(self, what: str) -> str:
        return identifier(f"{what}.{self.name}")


class Comparison(ABC):
    group: ClassVar[str]
    """The key under which a report has it."""
    distance_called: ClassVar[str]
    """What `distance` is, in words."""
    moved_called: ClassVar[str] = ""
    """What `moved` is, in words."""

    def derived(self, pair: Pair) -> dict[str, str]:
        """What is worked out of a pair's two answers once: name → SQL of `pair.first` and `pair.second`."""
        return {}

    @abstractmethod
    def measures(self, pair: Pair) -> list[str]:
        """SQL aggregates of pairs, of all or of a slice."""

    @abstractmethod
    def facts(self, values: Sequence[Any], num_rows: int) -> dict[str, Any]:
        """What a report says, of the values that `measures` came to over so many pairs."""

    def differs(self, pair: Pair) -> str | None:
        """SQL: whether the two answers are different ones. None where they are numbers, which only drift."""
        return None

    @abstractmethod
    def distance(self, pair: Pair) -> str:
        """An SQL aggregate that grows with how far apart the answers are: slices come in its order, the greatest
        first."""

    def moved(self, pair: Pair) -> str | None:
        """SQL: a number that says how far the two answers are from each other. None where they only are the same or
        not; NULL where this pair has no such number."""
        return None

    def order(self, pair: Pair) -> str:
        """SQL of a pair to order examples by, if they have an order."""
        return ""

    def apart(self, pair: Pair) -> dict[str, str]:
        """What an example says beside the two answers: name → SQL of a pair."""
        return {}

    def details(self, cursor: Cursor, pair: Pair) -> dict[str, Any]:
        """What is said of all pairs and not of each slice."""
        return {}


def quantiles_of(value: str, quantiles: dict[str, float]) -> str:
    """SQL: these quantiles, which interpolate linearly."""
    return f"quantile_cont({value}, {list(quantiles.values())})"


def named(quantiles: dict[str, float], values: Sequence[float] | None) -> dict[str, float | None]:
    """Those that `quantiles_of` came to, by name; of no values there are none."""
    return dict(zip(quantiles, values or len(quantiles) * [None], strict=True))
