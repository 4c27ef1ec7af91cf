"""A run's progress as its flow run shows it: lines in the log, one a shard, and an artifact that fills up.

One line a shard, for ten thousand lines cost 13 s.
"""

from __future__ import annotations

import time
from logging import Logger, LoggerAdapter
from typing import Any

from tidemill.flows.artifacts import Artifacts
from tidemill.masking import masked, message_of
from tidemill.progress import Expected, Progress, Quiet

UPDATE_SECONDS = 2.0


class Logged(Quiet):
    def __init__(self, logger: Logger | LoggerAdapter[Any]) -> None:
        self._logger = logger

    def planned(self, expected: Expected) -> None:
        facts = (expected.pipeline, expected.version, expected.revision, expected.num_shards, expected.num_rows)
        self._logger.info("%s, version %s at %s: %d shards, %d rows", *facts)

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        self._logger.info(
            "%s: committed %d shards, %d rows (%d quarantined), %d tokens", path, shards, rows, quarantined, tokens
        )

    def failed(self, path: str, error: BaseException) -> None:
        self._logger.error("%s failed: %s", path, message_of(error))

    def retried(self, what: str, error: BaseException) -> None:
        self._logger.warning("%s is tried again: %s", what, message_of(error))

    def note(self, message: str) -> None:
        self._logger.warning(masked(message))


class Shown:
    """Passes everything on, and keeps the flow run's progress artifact up to date."""

    def __init__(self, inner: Progress, artifacts: Artifacts) -> None:
        self._inner, self._artifacts = inner, artifacts
        self._rows = self._rows_expected = 0
        self._updated = time.monotonic()

    def doing(self, what: str) -> None:
        self._inner.doing(what)

    def worked(self, label: str, stage: str, *, done: int, total: int, rows: int) -> None:
        self._inner.worked(label, stage, done=done, total=total, rows=rows)

    def wrote(self, tokens: int) -> None:
        self._inner.wrote(tokens)

    def planned(self, expected: Expected) -> None:
        self._inner.planned(expected)
        self._rows_expected = expected.num_rows

    def ingested(self, path: str, *, rows: int) -> None:
        self._inner.ingested(path, rows=rows)

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        self._inner.committed(path, shards=shards, rows=rows, tokens=tokens, quarantined=quarantined)
        self._rows += rows + quarantined
        if time.monotonic() - self._updated > UPDATE_SECONDS:
            self._updated = time.monotonic()
            # What reading finds is not in the plan, so the last percent waits for the end.
            self._artifacts.progress(min(99.0, 100.0 * self._rows / max(1, self._rows_expected)))

    def failed(self, path: str, error: BaseException) -> None:
        self._inner.failed(path, error)

    def retried(self, what: str, error: BaseException) -> None:
        self._inner.retried(what, error)

    def note(self, message: str) -> None:
        self._inner.note(message)
