"""How long and at what cost: by what this version's shards took on the same kind of device.

The time of a run is taken to be a start (planning, opening the model) and a
constant time a token. What a token takes is the token-weighted mean over the
ledger; how far single shards lie from it gives the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tidemill.config import Cost
from tidemill.lake import Cursor
from tidemill.lake.ledger import measured_shards, measured_text
from tidemill.lake.runs import start_seconds

BYTES_PER_TOKEN = 4.5
"""English text under a WordPiece vocabulary, about; used only until the ledger has measured it."""
MOST_SHARDS = 500
MOST_RUNS = 10
LEAST_MARGIN, MOST_MARGIN = 0.20, 0.40
"""Runs of the same work differ by about the first on a shared machine; beyond the second an estimate says nothing."""


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

    def num_tokens(self, text_bytes: float) -> float:
        return text_bytes / self.bytes_per_token

    def with_items(self, per_row: int) -> Rate:
        """Where no text was measured, one counts once for each of its row's items."""
        return self if self.bytes_per_row is not None else replace(self, bytes_per_token=BYTES_PER_TOKEN / per_row)


@dataclass(frozen=True)
class Estimate:
    """Seconds and cost of a number of tokens; None where nothing was measured."""

    num_tokens: int
    seconds: float | None
    margin: float
    rate: Rate
    price: Cost

    @property
    def seconds_low(self) -> float | None:
        return None if self.seconds is None else self.seconds * (1 - self.margin)

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


def estimate(rate: Rate, num_tokens: float, price: Cost) -> Estimate:
    seconds = None if rate.seconds_per_token is None else rate.start_seconds + num_tokens * rate.seconds_per_token
    return Estimate(round(num_tokens), seconds if num_tokens else 0.0, rate.margin, rate, price)


def measured_rate(cursor: Cursor, pipeline: str, version: str, *, device: str | None = None) -> Rate:
    """By the latest shards of `version`, on `device` or else on the kind of device that computed last."""
    rows = measured_shards(cursor, pipeline, version, device=device, limit=MOST_SHARDS)
    bytes_per_token, bytes_per_row = _measured_text(cursor, pipeline, version)
    if not rows:
        return Rate(bytes_per_token=bytes_per_token, bytes_per_row=bytes_per_row)
    tokens, seconds = [row[1] for row in rows], [row[2] for row in rows]
    mean = sum(seconds) / sum(tokens)
    return Rate(
        seconds_per_token=mean,
        start_seconds=_start_seconds(cursor, pipeline, version),
        margin=_margin(tokens, seconds, mean),
        num_shards=len(rows),
        device=rows[0][0],
        bytes_per_token=bytes_per_token,
        bytes_per_row=bytes_per_row,
    )


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
