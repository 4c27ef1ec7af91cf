"""The four stages, each a function of a workspace and references: shards go in, store files and commits come out.

A stage that finds its output in the store, whole, has nothing to do. So each
can be killed and repeated at any moment. It takes several shards, since small ones
go together: a call that fails did some of them, and a repeated one does the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

import pyarrow as pa

from tidemill.lake.requests import Request
from tidemill.results.commit import Computed, Outcome, commit_shards
from tidemill.running.stages.predicting import predict_shards
from tidemill.running.stages.reading import Reading
from tidemill.running.stages.reasons import with_reasons, with_texts
from tidemill.running.stages.references import Held, Ingested, Predicted, Tokenized, label_of, paths_of
from tidemill.running.stages.workspace import Workspace
from tidemill.shards import Shard

__all__ = [
    "Held",
    "Ingested",
    "Predicted",
    "Reading",
    "Tokenized",
    "cut",
    "infer",
    "ingest",
    "label_of",
    "materialize",
    "paths_of",
    "predicted_before",
    "tokenize",
    "with_reasons",
    "with_texts",
]


def cut(workspace: Workspace, reading: Reading, done: Collection[str]) -> None:
    """Read on until as many new shards are found as go together, or the files end; `done` has ids that are not new."""
    while not reading.is_full and (cutting := reading.first(workspace)):
        workspace.check_stop()
        found = cutting.next(workspace.dataset)
        if found is None:
            reading.end()
        elif (shard := Shard(cutting.file.file, found)).shard_id not in done:
            reading.find(shard)


def ingest(workspace: Workspace, requests: Sequence[Request]) -> list[Ingested]:
    """Read shards' rows into the store. Shards of one file are read in one pass when asked for in order."""
    return [_ingest(workspace, request) for request in requests]


def _ingest(workspace: Workspace, request: Request) -> Ingested:
    workspace.check_stop()
    started = time.perf_counter()
    shard, file = request.shard, workspace.rows_file(request.shard)
    workspace.files_in_use |= {file.name, workspace.predictions_file(request).name}
    if not workspace.store.has(file):
        rows = workspace.dataset.rows(shard.file, shard.slice)
        workspace.store.write(file, rows, _made_for(request, time.perf_counter() - started))
    return Ingested(request, file)


def tokenize(workspace: Workspace, ingested: Sequence[Ingested]) -> list[Tokenized]:
    """Tokenize shards' texts into the store, but for those that another version with this tokenizer has."""
    workspace.check_stop()
    tokenized = [Tokenized(item, workspace.tokens_file(item.request.shard)) for item in ingested]
    workspace.files_in_use |= {item.tokens.name for item in tokenized}
    missing = [item for item in tokenized if not workspace.store.has(item.tokens)]
    if missing:
        _write_tokens(workspace, missing)
    return tokenized


def _write_tokens(workspace: Workspace, items: Sequence[Tokenized]) -> None:
    """Tokenize the shards' texts in one call, and write a file of each."""
    started = time.perf_counter()
    preparer = workspace.preparer
    rows = [workspace.store.read(item.ingested.rows).select(["row_number", *preparer.reads]) for item in items]
    # Strings with large offsets, which a shard of long texts has, are the same strings.
    every = pa.concat_tables(rows, promote_options="permissive").combine_chunks()
    progress = workspace.telling(label_of([item.ingested.request for item in items]), "tokenize", every.num_rows)
    prepared = preparer.prepare(every, on_progress=lambda done: progress.worked(done, every.num_rows))
    table = prepared.add_column(0, "row_number", every["row_number"])
    seconds = (time.perf_counter() - started) / len(items)
    start = 0
    for item, of_shard in zip(items, rows, strict=True):
        part = table.slice(start, of_shard.num_rows)
        workspace.store.write(item.tokens, part, _made_for(item.ingested.request, seconds))
        start += of_shard.num_rows


def infer(workspace: Workspace, tokenized: Sequence[Tokenized]) -> list[Predicted]:
    """Predict shards' rows into the store, named by request: they live until their commit."""
    workspace.check_stop()
    missing = [item for item in tokenized if not workspace.store.has(workspace.predictions_file(item.ingested.request))]
    for item, table, facts in predict_shards(workspace, missing):
        workspace.store.write(workspace.predictions_file(item.ingested.request), table, {"ledger": json.dumps(facts)})
    return [
        replace(
            predicted_before(workspace, item.ingested.request), released=(item.ingested.rows.name, item.tokens.name)
        )
        for item in tokenized
    ]


def predicted_before(workspace: Workspace, request: Request) -> Predicted:
    """The request's predictions as they lie in the store, whoever made them.

    Raises:
        StoreFileInvalid: they are not there, or not whole.
    """
    file = workspace.predictions_file(request)
    table, facts = workspace.store.read_with_facts(file)
    num_quarantined = table.num_rows - table["reason"].null_count
    rows = workspace.rows_file(request.shard)
    return Predicted(request, rows, file, table.num_rows, num_quarantined, json.loads(facts["ledger"]))


def materialize(
    workspace: Workspace,
    predicted: Sequence[Predicted],
    *,
    cut: Sequence[tuple[str, Sequence[Shard]]] = (),
    replaces: bool = False,
) -> Outcome | Held:
    """Commit shards in one transaction, with others that wait for the lake's lock; then let go of their predictions.

    Shards that replace a file wait in the store while the run's share of
    quarantined rows is over `limits.max_quarantine`.
    """
    # Rows that are tried again were in quarantine already: they say nothing of the run's share.
    counted = [item for item in predicted if item.request.rows is None]
    num_rows = sum(item.num_rows for item in counted)
    num_quarantined = sum(item.num_quarantined for item in counted)
    limit = workspace.pipeline.limits.max_quarantine
    if replaces and workspace.tally.share_with(num_rows, num_quarantined) > limit:
        return Held(num_rows, num_quarantined, over_limit=True)
    items = [_computed(workspace, item) for item in predicted]
    if replaces or cut:
        outcome = commit_shards(workspace.lake, workspace.target, items, cut=cut)
        workspace.count(outcome)
    else:
        outcome = workspace.commits.commit(items)
    workspace.tally.add(num_rows, num_quarantined)
    for item in predicted:
        workspace.store.remove(item.predictions)
        workspace.files_in_use -= {*item.released, item.predictions.name}
        workspace.files_released |= {*item.released}
    return outcome


def _computed(workspace: Workspace, item: Predicted) -> Computed:
    def load() -> tuple[pa.Table, pa.Table]:
        return workspace.store.read(item.rows), workspace.store.read(item.predictions)

    request = item.request
    return Computed(request.shard, request.request_id, load, item.facts, only_rows=request.rows is not None)


def _made_for(request: Request, seconds: float) -> dict[str, str]:
    """What a store file says of its making, so that its time is counted once, for the request that took it."""
    return {"request_id": request.request_id, "seconds": str(seconds)}
