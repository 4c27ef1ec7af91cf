"""Answers that the table has already: a text that it answers with this version is not computed again."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding.items import TOKEN_IDS
from tidemill.encoding.text_hashes import row_hashes
from tidemill.inference.unchanged import predict_others
from tidemill.inference.work import Predictions
from tidemill.lake import Lake, ResultTable
from tidemill.lake.pipelines import Target
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.results.answers.former import MOST_ROWS, Former


class Reuse:
    """Looks into the lake for each batch: of a table with so many rows that this takes longer, into a part of it."""

    def __init__(self, lake: Lake, table: ResultTable) -> None:
        self._lake, self._target = lake, Target(table.pipeline, table.version, "", "", table, "")
        self._names = [name for name, _ in table.results if name != NUM_WINDOWS]
        self._shard_ids: list[str] = []
        self.look()

    def look(self) -> None:
        """Take notice of the shards that the version has by now."""
        with self._lake.reached(), self._lake.snapshot() as cursor:
            found = Former.of(cursor, self._target.pipeline, self._target.version, listed={})
        ids, num_rows = [], 0
        for shard in (shard for of_path in found.shards.values() for shard in of_path):
            num_rows += shard.num_rows
            if num_rows > MOST_ROWS:
                break
            ids.append(shard.shard_id)
        self._shard_ids = ids

    def __call__(
        self, rows: pa.Table, prepared: pa.Table, predict: Callable[[pa.Table], Predictions]
    ) -> tuple[Predictions, int]:
        """The rows' answers, and how many of them the table had."""
        from tidemill.results.answers.known import find_answers

        hashes = row_hashes(rows)
        hashes = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
        is_asked = prepared[TOKEN_IDS].combine_chunks().is_valid()
        asked = pc.if_else(is_asked, hashes.storage, None)
        answers = find_answers(self._lake, self._target, self._shard_ids, asked, self._names)
        return predict_others(prepared, answers, predict), int(answers.is_known.sum())
