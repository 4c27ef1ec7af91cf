"""What one stage hands to the next: requests, and where in the store it is what was made for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.lake.requests import Request
from tidemill.storage.store import StoreFile


@dataclass(frozen=True)
class Ingested:
    request: Request
    rows: StoreFile


@dataclass(frozen=True)
class Tokenized:
    ingested: Ingested
    tokens: StoreFile


@dataclass(frozen=True)
class Predicted:
    """Predictions in the store, and what they were made from, which may go once they are committed."""

    request: Request
    rows: StoreFile
    predictions: StoreFile
    num_rows: int
    num_quarantined: int
    facts: dict[str, Any]
    """Columns of the ledger row."""
    released: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """Predictions that wait in the store: for the rest of their file, or because the run quarantines too much."""

    num_rows: int
    num_quarantined: int
    over_limit: bool = False


def label_of(requests: Sequence[Request]) -> str:
    """How shards that go together are named to people."""
    others = f" and {len(requests) - 1} more" if len(requests) > 1 else ""
    return f"{requests[0].shard.label}{others}"


def paths_of(requests: Sequence[Request]) -> str:
    """How their files are."""
    first, *others = dict.fromkeys(request.shard.file.path for request in requests)
    return f"{first} and {len(others)} more" if others else first
