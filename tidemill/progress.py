"""What a run tells while it works. The engine calls; whoever shows it implements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Expected:
    """The work ahead. `more` says that reading will find shards and rows that are not counted here."""

    pipeline: str
    version: str
    revision: str
    num_shards: int
    num_rows: int
    more: bool = False


class Progress(Protocol):
    def planned(self, expected: Expected) -> None:
        """Work starts."""

    def ingested(self, path: str, *, rows: int) -> None:
        """A shard's rows were read."""

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        """Shards' rows are visible."""

    def failed(self, path: str, error: BaseException) -> None:
        """A shard, or the rest of a file, failed; the run goes on."""

    def retried(self, what: str, error: BaseException) -> None:
        """A stage, or a write, met a retryable error and is tried again."""

    def note(self, message: str) -> None:
        """Something the user should know."""


class Quiet:
    """Tells nothing."""

    def planned(self, expected: Expected) -> None:
        return

    def ingested(self, path: str, *, rows: int) -> None:
        return

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        return

    def failed(self, path: str, error: BaseException) -> None:
        return

    def retried(self, what: str, error: BaseException) -> None:
        return

    def note(self, message: str) -> None:
        return
