"""What is computed of shards, what is copied and what is decoded again, and the ledger's facts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding import windowing as windows
from tidemill.encoding.text_hashes import row_hashes
from tidemill.inference.rounds import Keep, predict_in_rounds
from tidemill.inference.unchanged import predict_others
from tidemill.inference.work import Predictions, Stats
from tidemill.inference.written import (
    PLACE,
    WRITTEN,
    ShardFile,
    decode_others,
    keep_written,
    new_tokens_by_row,
    together,
    with_written,
    written_before,
)
from tidemill.lake.requests import Request, asked_again
from tidemill.lake.runs import worker_name
from tidemill.lake.tables import TEXT_HASH
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.results.answers.known import Answers, find_answers
from tidemill.running.stages.reasons import with_reasons, with_texts
from tidemill.running.stages.references import Tokenized, label_of
from tidemill.running.stages.workspace import Workspace
from tidemill.values.rows import one_array


def _seconds_for(request: Request, facts: dict[str, str]) -> float:
    return float(facts["seconds"]) if facts.get("request_id") == request.request_id else 0.0


@dataclass(frozen=True)
class _Inputs:
    """What a shard is predicted from, and what the store says of how long it took to make."""

    item: Tokenized
    rows: pa.Table
    tokens: pa.Table
    hashes: pa.Array
    """Of the rows' texts."""
    seconds: dict[str, float]

    @classmethod
    def read(cls, workspace: Workspace, item: Tokenized) -> _Inputs:
        request = item.ingested.request
        rows, rows_facts = workspace.store.read_with_facts(item.ingested.rows)
        tokens, tokens_facts = workspace.store.read_with_facts(item.tokens)
        if request.rows is not None:
            wanted = pc.is_in(rows["row_number"], pa.array(request.rows, rows["row_number"].type))
            rows, tokens = rows.filter(wanted), tokens.filter(wanted)
        seconds = {
            "ingest_seconds": _seconds_for(request, rows_facts),
            "tokenize_seconds": _seconds_for(request, tokens_facts),
        }
        return cls(item, rows, tokens, row_hashes(rows), seconds)

    @property
    def request(self) -> Request:
        return self.item.ingested.request

    @property
    def row_numbers(self) -> pa.Array:
        return one_array(self.rows["row_number"])

    def prepared(self, reads: Sequence[str]) -> pa.Table:
        return with_texts(self.tokens.drop_columns(["row_number"]), self.rows, reads)


def predict_shards(
    workspace: Workspace, items: Sequence[Tokenized]
) -> Iterator[tuple[Tokenized, pa.Table, dict[str, Any]]]:
    """Each shard's predictions and its facts for the ledger; the model computes all shards together.

    It computes the rows whose texts it has not answered before, in this file or
    one that this one follows. Of the others the answers are copied.
    """
    if not items:
        return
    inputs = [_Inputs.read(workspace, item) for item in items]
    answers = _answers(workspace, inputs)
    reads = workspace.preparer.reads
    prepared = pa.concat_tables([shard.prepared(reads) for shard in inputs], promote_options="permissive")
    shards = inputs if workspace.writes else []
    files = [ShardFile(workspace.written_file(shard.request.shard), shard.row_numbers) for shard in shards]
    is_known = answers.is_known
    if workspace.writes:
        prepared = with_written(prepared, _written_before(workspace, inputs, files))
        is_known = is_known | prepared[WRITTEN].is_valid().to_numpy()
    compute = partial(_compute, workspace, inputs, files)
    predictions = predict_others(prepared, answers, lambda left: decode_others(left, workspace.decoder, compute))
    if predictions.written is not None:
        # Before the predictions are there: a run that is killed in between finds it.
        keep_written(workspace.store, files, predictions)
    workspace.notes += predictions.notes
    start = 0
    for shard, facts in zip(inputs, _facts(predictions, is_known, inputs), strict=True):
        num_rows = shard.rows.num_rows
        results, reason = predictions.columns.slice(start, num_rows), predictions.reason.slice(start, num_rows)
        start += num_rows
        table = with_reasons(shard.rows, shard.tokens, results, reason)
        yield shard.item, table.append_column(TEXT_HASH, shard.hashes), facts


def _compute(
    workspace: Workspace, inputs: Sequence[_Inputs], files: Sequence[ShardFile], left: pa.Table
) -> Predictions:
    """Have the model compute rows of the shards; what it writes is kept in `files` meanwhile."""

    def predict(rows: pa.Table, keep: Keep) -> Predictions:
        return workspace.runner.predict_round(
            rows,
            should_stop=workspace.should_stop,
            keep=keep,
            progress=workspace.telling(label_of([shard.request for shard in inputs]), "infer", rows.num_rows),
        )

    if workspace.reads_again:
        return _predict_in_rounds(workspace, inputs, left, predict)
    return predict(left, lambda so_far: keep_written(workspace.store, files, so_far, rows=left[PLACE]))


def _facts(predictions: Predictions, is_known: np.ndarray, inputs: Sequence[_Inputs]) -> Iterator[dict[str, Any]]:
    """Of each shard, for the ledger."""
    # Where nothing was computed, the model was not opened for it, and there is no device.
    resolved = predictions.resolved
    known = _by_shard(is_known, inputs)
    columns = [shard.tokens["token_ids"] for shard in inputs]
    unchanged = [windows.num_tokens(column.filter(pa.array(of))) for column, of in zip(columns, known, strict=True)]
    lengths = [windows.num_tokens(column) for column in columns]
    written = _new_tokens_by_shard(predictions, is_known, inputs)
    shares = predictions.stats.shares([all_ - left for all_, left in zip(lengths, unchanged, strict=True)], written)
    for i, (shard, stats) in enumerate(zip(inputs, shares, strict=True)):
        yield {
            "num_distinct": stats.num_distinct,
            "num_tokens": lengths[i],
            "num_unchanged": int(known[i].sum()),
            "num_unchanged_tokens": unchanged[i],
            "num_computed_tokens": stats.num_tokens,
            "num_new_tokens": stats.num_new_tokens,
            "num_padded_tokens": stats.num_padded_tokens,
            **shard.seconds,
            "infer_seconds": stats.seconds,
            "device": resolved.get("device_name"),
            "resolved": _resolved_with(resolved, stats),
            "worker": worker_name(),
        }


def _predict_in_rounds(
    workspace: Workspace, inputs: Sequence[_Inputs], left: pa.Table, predict: Callable[[pa.Table, Keep], Predictions]
) -> Predictions:
    """Of rows whose windows' answers are read again: what was begun before goes on, and is kept meanwhile."""
    files = [ShardFile(workspace.begun_file(shard.request.shard), shard.row_numbers) for shard in inputs]
    return predict_in_rounds(
        left,
        workspace.decoder,
        preparer=workspace.preparer,
        predict=predict,
        begun=one_array(_written_before(workspace, inputs, files).take(left[PLACE])),
        keep=lambda so_far: keep_written(workspace.store, files, so_far, rows=left[PLACE]),
    )


def _written_before(workspace: Workspace, inputs: Sequence[_Inputs], files: Sequence[ShardFile]) -> pa.ChunkedArray:
    """What the model wrote of the shards' rows, null where the store has none; of what is asked for again, nothing."""
    requests = [shard.request for shard in inputs]
    found = [
        written_before(workspace.store, file) if request.rows is None else None
        for request, file in zip(requests, files, strict=True)
    ]
    if any(each is not None for each in found):
        with workspace.lake.reached():
            ids = [request.request_id for request in requests]
            again = asked_again(workspace.lake.cursor(), workspace.target, ids, of_ids=True)
        found = [None if id_ in again else each for id_, each in zip(ids, found, strict=True)]
    return together(files, found)


def _new_tokens_by_shard(predictions: Predictions, is_known: np.ndarray, inputs: Sequence[_Inputs]) -> list[int] | None:
    """What was written of each shard's rows; None of a model that does not write."""
    if predictions.written is None:
        return None
    by_row = np.where(is_known, 0, new_tokens_by_row(predictions.written))
    return [int(of_shard.sum()) for of_shard in _by_shard(by_row, inputs)]


def _resolved_with(resolved: Mapping[str, Any], stats: Stats) -> dict[str, Any] | None:
    """How the model was computed, with what became of one shard in it; None where it computed nothing."""
    if not resolved:
        return None
    in_float32 = {"rows_in_float32": stats.num_in_float32} if stats.num_in_float32 else {}
    return {**resolved, "out_of_memory_halvings": stats.oom_halvings, **in_float32}


def _answers(workspace: Workspace, inputs: Sequence[_Inputs]) -> Answers:
    """What is known of the shards' rows already; of shards that are asked for again nothing is."""
    requests = [shard.item.ingested.request for shard in inputs]
    former = dict.fromkeys(
        shard_id for request in requests if request.rows is None for shard_id in workspace.former.near(request.shard)
    )
    hashes = pa.concat_arrays([_asked(shard) for shard in inputs])
    if not former:
        return Answers.none(len(hashes))
    with workspace.lake.reached():
        again = asked_again(workspace.lake.cursor(), workspace.target, [request.request_id for request in requests])
    is_asked = [request.rows is None and request.request_id not in again for request in requests]
    num_rows = [shard.rows.num_rows for shard in inputs]
    hashes = pc.if_else(pa.array(np.repeat(is_asked, num_rows)), hashes, None)
    names = [name for name, _ in workspace.target.table.results if name != NUM_WINDOWS]
    return find_answers(workspace.lake, workspace.target, list(former), hashes, names)


def _asked(shard: _Inputs) -> pa.Array:
    """The hashes of the texts that there is to predict."""
    is_whole = pc.and_(pc.is_null(shard.rows["reason"]), pc.is_valid(shard.tokens["token_ids"]))
    return pc.if_else(one_array(is_whole), shard.hashes.storage, None)


def _by_shard(values: np.ndarray, inputs: Sequence[_Inputs]) -> list[np.ndarray]:
    ends = np.cumsum([shard.rows.num_rows for shard in inputs])
    return np.split(values, ends[:-1])
