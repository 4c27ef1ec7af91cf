"""How long and at what cost: by what this version's shards took on the same kind of device.

The time of a run is taken to be a start (planning, opening the model) and a
constant time a token. What a token takes is the token-weighted mean over the
ledger, where shards that were computed at one time share it; how far single shards
lie from it gives the interval. A model that writes takes its time for the tokens that
it writes, of which a row's text says nothing: there it is a constant time a row, as is
the number of new tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tidemill.config import Cost
from tidemill.lake import Cursor
from tidemill.lake.ledger import MeasuredShard, measured_shards, measured_text
from tidemill.lake.runs import start_seconds

BYTES_PER_TOKEN = 4.5
"""English text under a WordPiece vocabulary, about; used only until the ledger has measured it."""
MOST_SHARDS = 500
MOST_RUNS = 10
LEAST_MARGIN, MOST_MARGIN = 0.20, 0.40
"""Runs of the same work differ by about the first on a shared machine; beyond the second an estimate says nothing."""


ASSUMED_SPREAD, ASSUMED_SHARDS = 0.2, 2
"""How far shards are taken to lie from each other before they are measured, and how many of them that counts for: three
shards may agree by chance."""
QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Of Student's t at 97.5%, by degrees of freedom from 1. Lengths are skewed: what is 95 of 100 of a normal distribution
is 9 of 10 of theirs."""


@dataclass(frozen=True)
class PerRow:
    """What a row takes or gives, over the rows of shards: the mean, and how far shards of `shard_rows` lie from it."""

    mean: float
    spread: float
    num_shards: int
    shard_rows: float

    @classmethod
    def of(cls, amounts: Sequence[float], rows: Sequence[int]) -> PerRow:
        """`spread` is relative to the mean, and of shards whose sizes differ that of one of their mean size."""
        mean, shard_rows = sum(amounts) / sum(rows), sum(rows) / len(rows)
        apart = [
            (amount - mean * n) / (mean * shard_rows) if mean else 0.0 for amount, n in zip(amounts, rows, strict=True)
        ]
        squares = sum(each**2 for each in apart) + ASSUMED_SHARDS * ASSUMED_SPREAD**2
        return cls(mean, math.sqrt(squares / (len(rows) - 1 + ASSUMED_SHARDS)), len(rows), shard_rows)

    def margin(self, num_rows: float) -> float:
        """Relative half-width within which 9 of 10 sums over so many further rows lie."""
        freedom = self.num_shards - 1 + ASSUMED_SHARDS
        quantile = QUANTILES[freedom - 1] if freedom <= len(QUANTILES) else 1.96 + 2.65 / freedom
        further = self.shard_rows / num_rows if num_rows else 0.0
        return quantile * self.spread * math.sqrt(1 / self.num_shards + further)


@dataclass(frozen=True)
class NewTokens:
    """Tokens that a model will write, in 9 of 10 cases within two bounds; `expected` is None where nothing is known."""

    expected: int | None
    low: int
    high: int

    @classmethod
    def of(cls, per_row: PerRow | None, num_rows: int, *, most: float) -> NewTokens | None:
        """Of so many rows, each of which has at most `most`; None where nothing was measured, and there is no limit."""
        if per_row is None:
            return None if most == math.inf else cls(None, 0, round(num_rows * most))
        expected, margin = num_rows * per_row.mean, per_row.margin(num_rows)
        low, high = max(0.0, expected * (1 - margin)), min(num_rows * most, expected * (1 + margin))
        return cls(round(expected), round(low), round(high))


@dataclass(frozen=True)
class Rate:
    """What was measured of one version on one kind of device; `seconds_per_token` is None if nothing was."""

    seconds_per_token: float | None = None
    start_seconds: float = 0.0
    margin: float = MOST_MARGIN
    num_shards: int = 0
    device: str | None = None
    bytes_per_token: float = BYTES_PER_TOKEN
    bytes_per_row: float | None = None
    new_tokens: PerRow | None = None
    """Of a model that writes, as `seconds`."""
    seconds: PerRow | None = None

    def num_tokens(self, text_bytes: float) -> float:
        return text_bytes / self.bytes_per_token

    def with_items(self, per_row: int) -> Rate:
        """Where no text was measured, one counts once for each of its row's items."""
        return self if self.bytes_per_row is not None else replace(self, bytes_per_token=BYTES_PER_TOKEN / per_row)


@dataclass(frozen=True)
class Estimate:
    """Seconds and cost of a number of tokens; None where nothing was measured.

    `new_tokens` is None of a model that writes none.
    """

    num_tokens: int
    seconds: float | None
    margin: float
    rate: Rate
    price: Cost
    new_tokens: NewTokens | None = None

    @property
    def seconds_low(self) -> float | None:
        return None if self.seconds is None else max(0.0, self.seconds * (1 - self.margin))

    @property
    def seconds_high(self) -> float | None:
        return None if self.seconds is None else self.seconds * (1 + self.margin)

    @property
    def cost(self) -> float | None:
        return self.cost_of(self.seconds)

    def cost_of(self, seconds: float | None) -> float | None:
        return None if seconds is None or self.price.per_hour is None else seconds / 3600 * self.price.per_hour

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.num_tokens,
            "new_tokens": self.new_tokens and self.new_tokens.expected,
            "new_tokens_low": self.new_tokens and self.new_tokens.low,
            "new_tokens_high": self.new_tokens and self.new_tokens.high,
            "seconds": self.seconds,
            "seconds_low": self.seconds_low,
            "seconds_high": self.seconds_high,
            "cost": self.cost,
            "cost_low": self.cost_of(self.seconds_low),
            "cost_high": self.cost_of(self.seconds_high),
            "currency": self.price.currency,
            "measured_shards": self.rate.num_shards,
            "device": self.rate.device,
        }


def estimate(
    rate: Rate, num_tokens: float, price: Cost, *, num_rows: int, max_new_tokens: float | None = None
) -> Estimate:
    """Of rows with so many tokens; the model writes `max_new_tokens` of each at most, None if it writes none."""
    new_tokens = None if max_new_tokens is None else NewTokens.of(rate.new_tokens, num_rows, most=max_new_tokens)
    if not num_tokens or rate.seconds_per_token is None:
        return Estimate(round(num_tokens), None if num_tokens else 0.0, rate.margin, rate, price, new_tokens)
    if rate.seconds is None:
        seconds, margin = num_tokens * rate.seconds_per_token, rate.margin
    else:
        # Runs of the same work differ by themselves, whatever is written.
        seconds, margin = num_rows * rate.seconds.mean, math.hypot(LEAST_MARGIN, rate.seconds.margin(num_rows))
    return Estimate(round(num_tokens), rate.start_seconds + seconds, margin, rate, price, new_tokens)


def measured_rate(cursor: Cursor, pipeline: str, version: str, *, device: str | None = None) -> Rate:
    """By the latest shards of `version`, on `device` or else on the kind of device that computed last."""
    rows = measured_shards(cursor, pipeline, version, device=device, limit=MOST_SHARDS)
    bytes_per_token, bytes_per_row = _measured_text(cursor, pipeline, version)
    if not rows:
        return Rate(bytes_per_token=bytes_per_token, bytes_per_row=bytes_per_row)
    tokens, seconds = [row.num_tokens for row in rows], [row.seconds for row in rows]
    mean = sum(seconds) / sum(tokens)
    written = [row for row in rows if row.num_new_tokens is not None and row.num_rows > 0]
    return Rate(
        seconds_per_token=mean,
        start_seconds=_start_seconds(cursor, pipeline, version),
        margin=_margin(tokens, seconds, mean),
        num_shards=len(rows),
        device=rows[0].device,
        bytes_per_token=bytes_per_token,
        bytes_per_row=bytes_per_row,
        new_tokens=_per_row(written, [row.num_new_tokens or 0 for row in written]),
        seconds=_per_row(written, [row.seconds for row in written]),
    )


def _per_row(shards: Sequence[MeasuredShard], amounts: Sequence[float]) -> PerRow | None:
    return PerRow.of(amounts, [shard.num_rows for shard in shards]) if shards else None


def _measured_text(cursor: Cursor, pipeline: str, version: str) -> tuple[float, float | None]:
    """(bytes per token, bytes per row) of what the version has computed: another may cut its texts elsewhere."""
    text_bytes, num_tokens, num_rows = measured_text(cursor, pipeline, version)
    if not num_tokens:
        return BYTES_PER_TOKEN, None
    return text_bytes / num_tokens or BYTES_PER_TOKEN, text_bytes / num_rows if num_rows else None


def _start_seconds(cursor: Cursor, pipeline: str, version: str) -> float:
    """What a run takes beside computing, by the latest runs that finished."""
    found = start_seconds(cursor, pipeline, version, limit=MOST_RUNS)
    return median(found) if found else 0.0


def _margin(tokens: Sequence[int], seconds: Sequence[float], mean: float) -> float:
    """Relative half-width: what runs differ by, and two standard errors of the token-weighted mean."""
    total = sum(tokens)
    variance = sum(n / total * (s / n - mean) ** 2 for n, s in zip(tokens, seconds, strict=True))
    error = math.sqrt(variance / len(tokens)) / mean if mean else 0.0
    return min(MOST_MARGIN, LEAST_MARGIN + 2 * error + LEAST_MARGIN / math.sqrt(len(tokens)))
