"""The four stages, each a function of a workspace and references: shards go in, store files and commits come out.

A stage that finds its output in the store, whole, has nothing to do. So each
can be killed and repeated at any moment.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill import sources
from tidemill.errors import Stopped
from tidemill.inference import ModelRunner
from tidemill.lake import Lake
from tidemill.lake.adoption import Target, request_shards
from tidemill.lake.commit import Computed, Outcome, commit_shards
from tidemill.lake.ledger import DoneShard
from tidemill.models import load_runner, load_tokenizer
from tidemill.plan import FilePlan, Plan
from tidemill.shards import Shard, Slice, fingerprint
from tidemill.store import Store, StoreFile
from tidemill.tokenization import TextTokenizer


@dataclass(frozen=True)
class Request:
    """A shard that is wanted at the run's version."""

    shard: Shard
    request_id: str


@dataclass(frozen=True)
class Ingested:
    request: Request
    rows: StoreFile
    num_rows: int
    seconds: float


@dataclass(frozen=True)
class Tokenized:
    tokens: StoreFile
    seconds: float


@dataclass(frozen=True)
class Predicted:
    ingested: Ingested
    predictions: StoreFile
    num_quarantined: int
    facts: dict[str, Any]
    """Columns of the ledger row."""


@dataclass(frozen=True)
class Held:
    """Predictions that wait in the store: for the rest of their file, or because the run quarantines too much."""

    num_rows: int
    num_quarantined: int
    over_limit: bool = False


class Tally:
    """Rows and quarantined rows of the run so far, over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_rows = 0
        self.num_quarantined = 0

    def add(self, num_rows: int, num_quarantined: int) -> None:
        with self._lock:
            self.num_rows += num_rows
            self.num_quarantined += num_quarantined

    def share_with(self, num_rows: int = 0, num_quarantined: int = 0) -> float:
        with self._lock:
            return (self.num_quarantined + num_quarantined) / max(1, self.num_rows + num_rows)


class Workspace:
    """What the stages work with, opened once: dataset, store, lake, tokenizer and model."""

    def __init__(self, plan: Plan, dataset: sources.Dataset, lake: Lake, target: Target) -> None:
        self.plan, self.dataset, self.lake, self.target = plan, dataset, lake, target
        self.pipeline = plan.pipeline
        self.store = Store(self.pipeline.store.path, max_bytes=int(self.pipeline.store.max_bytes))
        self.stop = threading.Event()
        self.tally = Tally()
        self.files_in_use: set[str] = set()
        """Names of store files of shards in flight, which are not evicted."""
        self.files_released: set[str] = set()
        """Names of store files of shards that this run has committed, which may be."""
        self._opening = threading.Lock()

    def pause(self, seconds: float) -> None:
        """Wait, unless the run is asked to stop meanwhile."""
        if self.stop.wait(seconds):
            self.check_stop()

    def check_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped("The run was asked to stop.")

    @property
    def tokenizer(self) -> TextTokenizer:
        with self._opening:
            return self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> TextTokenizer:
        return load_tokenizer(self.plan.spec)

    @property
    def runner(self) -> ModelRunner:
        with self._opening:
            return self._runner

    @functools.cached_property
    def _runner(self) -> ModelRunner:
        return load_runner(self.plan.spec, self.pipeline.inference)

    def rows_file(self, shard: Shard) -> StoreFile:
        columns = self.plan.columns
        read = (columns.text, columns.separator, self.plan.kept_fingerprint, columns.delimiter)
        return StoreFile("rows", fingerprint(shard.slice.content, shard.slice.first_row, *read))

    def tokens_file(self, shard: Shard) -> StoreFile:
        columns = self.plan.columns
        # A row whose kept cell cannot be read has no text to tokenize: so these count too.
        read = (columns.text, columns.separator, columns.delimiter, self.plan.kept_fingerprint)
        content = (shard.slice.content, shard.slice.first_row)
        return StoreFile("tokens", fingerprint(*content, *read, self.tokenizer.fingerprint))

    def predictions_file(self, request: Request) -> StoreFile:
        target = self.target
        return StoreFile(
            "predictions", fingerprint(target.pipeline, target.version, request.shard.shard_id, request.request_id)
        )


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
        workspace.store.write(file, rows)
    return Ingested(request, file, shard.slice.num_rows, time.perf_counter() - started)


def tokenize(workspace: Workspace, ingested: Ingested) -> Tokenized:
    """Tokenize a shard's text into the store, unless another version with this tokenizer has."""
    workspace.check_stop()
    started = time.perf_counter()
    file = workspace.tokens_file(ingested.request.shard)
    workspace.files_in_use |= {file.name}
    if not workspace.store.has(file):
        rows = workspace.store.read(ingested.rows)
        tokens = workspace.tokenizer.encode(rows["text"])
        workspace.store.write(
            file,
            pa.table(
                {
                    "row_number": rows["row_number"],
                    "token_ids": tokens.token_ids,
                    "num_tokens": tokens.num_tokens,
                    "reason": tokens.reason,
                }
            ),
        )
    return Tokenized(file, time.perf_counter() - started)


def infer(workspace: Workspace, ingested: Ingested, tokenized: Tokenized) -> Predicted:
    """Predict a shard's rows into the store, named by request: they live until their commit."""
    workspace.check_stop()
    file = workspace.predictions_file(ingested.request)
    if not workspace.store.has(file):
        table, facts = _predict(workspace, ingested, tokenized)
        workspace.store.write(file, table, {"ledger": json.dumps(facts)})
    facts = json.loads(workspace.store.facts(file)["ledger"])
    reasons = workspace.store.read(file)["reason"]
    return Predicted(ingested, file, len(reasons) - reasons.null_count, facts)


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
    num_rows = sum(item.ingested.num_rows for item in predicted)
    num_quarantined = sum(item.num_quarantined for item in predicted)
    limit = workspace.pipeline.limits.max_quarantine
    if replaces and workspace.tally.share_with(num_rows, num_quarantined) > limit:
        return Held(num_rows, num_quarantined, over_limit=True)
    items = [_computed(workspace, item) for item in predicted]
    outcome = commit_shards(workspace.lake, workspace.target, items, cut=cut)
    workspace.tally.add(num_rows, num_quarantined)
    for item in predicted:
        workspace.store.remove(item.predictions)
        shared = {item.ingested.rows.name, workspace.tokens_file(item.ingested.request.shard).name}
        workspace.files_in_use -= {*shared, item.predictions.name}
        workspace.files_released |= shared
    return outcome


def materialize_one(workspace: Workspace, predicted: Predicted) -> Outcome | Held:
    """Commit one shard of a file that replaces none."""
    return materialize(workspace, [predicted])


def _computed(workspace: Workspace, item: Predicted) -> Computed:
    def load() -> tuple[pa.Table, pa.Table]:
        return workspace.store.read(item.ingested.rows), workspace.store.read(item.predictions)

    request = item.ingested.request
    return Computed(request.shard, request.request_id, load, item.facts)


def _predict(workspace: Workspace, ingested: Ingested, tokenized: Tokenized) -> tuple[pa.Table, dict[str, Any]]:
    rows, tokens = workspace.store.read(ingested.rows), workspace.store.read(tokenized.tokens)
    predictions = workspace.runner.predict(tokens["token_ids"], should_stop=workspace.stop.is_set)
    resolved = workspace.runner.resolved
    lengths = pc.list_value_length(tokens["token_ids"])
    table = with_reasons(rows, tokens, predictions.columns, predictions.reason)
    stats = asdict(predictions.stats)
    facts = {
        "num_distinct": stats["num_distinct"],
        "num_tokens": int(pc.sum(lengths).as_py() or 0),
        "num_computed_tokens": stats["num_tokens"],
        "num_padded_tokens": stats["num_padded_tokens"],
        "ingest_seconds": ingested.seconds,
        "tokenize_seconds": tokenized.seconds,
        "infer_seconds": stats["seconds"],
        "device": resolved["device_name"],
        "resolved": resolved | {"out_of_memory_halvings": stats["oom_halvings"]},
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
    lengths = pc.list_value_length(tokens["token_ids"])
    columns = {name: results[name] for name in results.column_names}
    return pa.table(
        {
            "row_number": rows["row_number"],
            **columns,
            "num_tokens": tokens["num_tokens"],
            "truncated": pc.greater(tokens["num_tokens"], lengths),
            "stage": stage,
            "reason": pc.coalesce(*(reason.cast(pa.string()) for _, reason in reasons)),
        }
    )


def _missing(token_ids: pa.ChunkedArray) -> pa.Array:
    """A reason for every row without tokens, for those to which nobody gave one."""
    return pc.if_else(
        _one_array(pc.is_null(token_ids)), "there are no tokens for this row", pa.scalar(None, pa.string())
    )


def _one_array(values: pa.ChunkedArray) -> pa.Array:
    combined = values.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
