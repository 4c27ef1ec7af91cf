"""What a run tells while it works. The engine calls; whoever shows it implements."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    def doing(self, what: str) -> None:
        """What is begun that may take a while, such as loading the model. It goes on until something else is told."""

    def planned(self, expected: Expected) -> None:
        """Work starts."""

    def ingested(self, path: str, *, rows: int) -> None:
        """A shard's rows were read."""

    def worked(self, label: str, stage: str, *, done: int, total: int, rows: int) -> None:
        """How far the stage is with a shard of so many rows; told from several threads, after every batch.

        `done` and `total` are rows of `tokenize`. Of `infer` they are tokens, each distinct text once: its batches
        are longest first, so that rows would tell too little at first, and too much at the end.
        """

    def wrote(self, tokens: int) -> None:
        """A model that writes has written so many tokens; told after every batch."""

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

    def doing(self, what: str) -> None:
        return

    def planned(self, expected: Expected) -> None:
        return

    def ingested(self, path: str, *, rows: int) -> None:
        return

    def worked(self, label: str, stage: str, *, done: int, total: int, rows: int) -> None:
        return

    def wrote(self, tokens: int) -> None:
        return

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        return

    def failed(self, path: str, error: BaseException) -> None:
        return

    def retried(self, what: str, error: BaseException) -> None:
        return

    def note(self, message: str) -> None:
        return


@dataclass(frozen=True)
class StageProgress:
    """What a stage tells of one shard; by itself, nobody."""

    progress: Progress = field(default_factory=Quiet)
    label: str = ""
    stage: str = ""
    rows: int = 0

    def doing(self, what: str) -> None:
        self.progress.doing(what)

    def worked(self, done: int, total: int) -> None:
        self.progress.worked(self.label, self.stage, done=done, total=total, rows=self.rows)

    def wrote(self, tokens: int) -> None:
        self.progress.wrote(tokens)
