"""A run's progress as lines in its flow run's log: one a shard, for ten thousand lines cost 13 s."""

from __future__ import annotations

from logging import Logger, LoggerAdapter
from typing import Any

from tidemill.plan import Plan
from tidemill.progress import Quiet


class Logged(Quiet):
    def __init__(self, logger: Logger | LoggerAdapter[Any]) -> None:
        self._logger = logger

    def planned(self, plan: Plan, *, num_shards: int, rows: int) -> None:
        self._logger.info("%s at %s: %d shards, %d rows", plan.table.name, plan.revision, num_shards, rows)

    def committed(self, path: str, *, shards: int, rows: int, tokens: int, quarantined: int) -> None:
        self._logger.info(
            "%s: committed %d shards, %d rows (%d quarantined), %d tokens", path, shards, rows, quarantined, tokens
        )

    def failed(self, path: str, error: BaseException) -> None:
        self._logger.error("%s failed: %s", path, error)

    def retried(self, step: str, error: BaseException) -> None:
        self._logger.warning("%s is tried again: %s", step, error)

    def note(self, message: str) -> None:
        self._logger.warning(message)
