"""The four stages, each a function of a workspace and references: shards go in, store files and commits come out.

A stage that finds its output in the store, whole, has nothing to do. So each
can be killed and repeated at any moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding import windowing as windows
from tidemill.lake.ledger import DoneShard
from tidemill.lake.requests import Request
from tidemill.lake.runs import worker_name
from tidemill.planning.plan import FilePlan
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.results.adoption import request_shards
from tidemill.results.commit import Computed, Outcome, commit_shards
from tidemill.running.workspace import Workspace
from tidemill.shards import Shard, Slice
from tidemill.sources import dataset as sources
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


class Cutting:
    """A text file while it is cut by reading. Survives a failed read: cutting goes on where it was."""

    def __init__(self, file: FilePlan) -> None:
        self.file = file
        self.known = [shard.slice for shard in file.shards]
        self.trusted = file.trusted
        self.cut: list[Slice] = []
        self._slices: Iterator[Slice] | None = None

    def next(self, dataset: sources.Dataset) -> Slice | None:
        """The next slice, whose rows the reader now holds; None at the file's end."""
        try:
            if self._slices is None:
                self._slices = self._from_here(dataset)
            found = next(self._slices, None)
        except BaseException:
            self._slices = None
            dataset.forget(self.file.file)
            raise
        if found is not None:
            self.cut.append(found)
        return found

    def _from_here(self, dataset: sources.Dataset) -> Iterator[Slice]:
        known, trusted = (self.cut, True) if self.cut else (self.known, self.trusted)
        slices = dataset.reader(self.file.file).slices(
            shard_bytes=dataset.shard_bytes, known=list(known), trusted=trusted
        )
        for _ in self.cut:
            next(slices, None)
        return slices


def cut_next(workspace: Workspace, cutting: Cutting, done: dict[str, DoneShard]) -> Request | Shard | None:
    """Read on to the next shard of a text file: a request for it, the shard if it is done, None at the end."""
    workspace.check_stop()
    found = cutting.next(workspace.dataset)
    if found is None:
        return None
    shard = Shard(cutting.file.file, found)
    if shard.shard_id in done:
        return shard
    requested = request_shards(workspace.lake, workspace.target, [shard], cutting.file.state)
    return Request(shard, requested.get(shard.shard_id, ""))


def ingest(workspace: Workspace, request: Request) -> Ingested:
    """Read a shard's rows into the store. Shards of one file are read in one pass when asked for in order."""
    workspace.check_stop()
    started = time.perf_counter()
    shard, file = request.shard, workspace.rows_file(request.shard)
    workspace.files_in_use |= {file.name, workspace.predictions_file(request).name}
    if not workspace.store.has(file):
        try:
            rows = workspace.dataset.reader(shard.file).rows(shard.slice)
        except BaseException:
            workspace.dataset.forget(shard.file)
            raise
        workspace.store.write(file, rows, _made_for(request, started))
    return Ingested(request, file)


def tokenize(workspace: Workspace, ingested: Ingested) -> Tokenized:
    """Tokenize a shard's text into the store, unless another version with this tokenizer has."""
    workspace.check_stop()
    started = time.perf_counter()
    file = workspace.tokens_file(ingested.request.shard)
    workspace.files_in_use |= {file.name}
    if not workspace.store.has(file):
        rows = workspace.store.read(ingested.rows)
        progress = workspace.telling(ingested.request.shard, "tokenize", rows.num_rows)
        tokens = workspace.tokenizer.encode(rows["text"], on_progress=lambda done: progress.worked(done, rows.num_rows))
        table = pa.table(
            {
                "row_number": rows["row_number"],
                "token_ids": tokens.token_ids,
                "num_tokens": tokens.num_tokens,
                "reason": tokens.reason,
            }
        )
        workspace.store.write(file, table, _made_for(ingested.request, started))
    return Tokenized(ingested, file)


def infer(workspace: Workspace, tokenized: Tokenized) -> Predicted:
    """Predict a shard's rows into the store, named by request: they live until their commit."""
    workspace.check_stop()
    request = tokenized.ingested.request
    file = workspace.predictions_file(request)
    if not workspace.store.has(file):
        table, facts = _predict(workspace, tokenized)
        workspace.store.write(file, table, {"ledger": json.dumps(facts)})
    released = (tokenized.ingested.rows.name, tokenized.tokens.name)
    return replace(predicted_before(workspace, request), released=released)


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
    """Commit shards in one transaction, then let go of their predictions.

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
    outcome = commit_shards(workspace.lake, workspace.target, items, cut=cut)
    workspace.count(outcome)
    workspace.tally.add(num_rows, num_quarantined)
    for item in predicted:
        workspace.store.remove(item.predictions)
        workspace.files_in_use -= {*item.released, item.predictions.name}
        workspace.files_released |= {*item.released}
    return outcome


def materialize_one(workspace: Workspace, predicted: Predicted) -> Outcome | Held:
    """Commit one shard of a file that replaces none."""
    return materialize(workspace, [predicted])


def _computed(workspace: Workspace, item: Predicted) -> Computed:
    def load() -> tuple[pa.Table, pa.Table]:
        return workspace.store.read(item.rows), workspace.store.read(item.predictions)

    request = item.request
    return Computed(request.shard, request.request_id, load, item.facts, only_rows=request.rows is not None)


def _made_for(request: Request, started: float) -> dict[str, str]:
    """What a store file says of its making, so that its time is counted once, for the request that took it."""
    return {"request_id": request.request_id, "seconds": str(time.perf_counter() - started)}


def _seconds_for(request: Request, facts: dict[str, str]) -> float:
    return float(facts["seconds"]) if facts.get("request_id") == request.request_id else 0.0


def _predict(workspace: Workspace, tokenized: Tokenized) -> tuple[pa.Table, dict[str, Any]]:
    request = tokenized.ingested.request
    rows, rows_facts = workspace.store.read_with_facts(tokenized.ingested.rows)
    tokens, tokens_facts = workspace.store.read_with_facts(tokenized.tokens)
    if request.rows is not None:
        wanted = pc.is_in(rows["row_number"], pa.array(request.rows, rows["row_number"].type))
        rows, tokens = rows.filter(wanted), tokens.filter(wanted)
    predictions = workspace.runner.predict(
        tokens["token_ids"],
        pooling=workspace.pooling,
        should_stop=workspace.stop.is_set,
        progress=workspace.telling(request.shard, "infer", rows.num_rows),
    )
    resolved = workspace.runner.resolved
    table = with_reasons(rows, tokens, predictions.columns, predictions.reason)
    stats = asdict(predictions.stats)
    facts = {
        "num_distinct": stats["num_distinct"],
        "num_tokens": windows.num_tokens(tokens["token_ids"]),
        "num_computed_tokens": stats["num_tokens"],
        "num_padded_tokens": stats["num_padded_tokens"],
        "ingest_seconds": _seconds_for(request, rows_facts),
        "tokenize_seconds": _seconds_for(request, tokens_facts),
        "infer_seconds": stats["seconds"],
        "device": resolved["device_name"],
        "resolved": resolved | {"out_of_memory_halvings": stats["oom_halvings"]},
        "worker": worker_name(),
    }
    return table, facts


def with_reasons(rows: pa.Table, tokens: pa.Table, results: pa.Table, failures: pa.Array) -> pa.Table:
    """A shard's predictions: every row, with the first stage that could not process it and why."""
    reasons = (
        ("ingest", _one_array(rows["reason"])),
        ("tokenize", _one_array(tokens["reason"])),
        ("infer", failures),
        ("tokenize", _missing(tokens["token_ids"])),
    )
    stage = pa.nulls(rows.num_rows, pa.string())
    for name, reason in reversed(reasons):
        stage = pc.if_else(pc.is_valid(reason), name, stage)
    columns = {name: results[name] for name in results.column_names}
    return pa.table(
        {
            "row_number": rows["row_number"],
            **columns,
            **_lengths(tokens),
            "stage": stage,
            "reason": pc.coalesce(*(reason.cast(pa.string()) for _, reason in reasons)),
        }
    )


def _lengths(tokens: pa.Table) -> dict[str, pa.ChunkedArray]:
    """How long a text is, and whether it is read to its end, as it is in windows."""
    found = pc.list_value_length(tokens["token_ids"])
    if windows.are_windows(tokens["token_ids"]):
        whole = pc.if_else(pc.is_valid(found), pa.scalar(False), pa.scalar(None, pa.bool_()))
        return {NUM_WINDOWS: found, "num_tokens": tokens["num_tokens"], "truncated": whole}
    return {"num_tokens": tokens["num_tokens"], "truncated": pc.greater(tokens["num_tokens"], found)}


def _missing(token_ids: pa.ChunkedArray) -> pa.Array:
    """A reason for every row without tokens, for those to which nobody gave one."""
    return pc.if_else(
        _one_array(pc.is_null(token_ids)), "there are no tokens for this row", pa.scalar(None, pa.string())
    )


def _one_array(values: pa.ChunkedArray) -> pa.Array:
    combined = values.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
