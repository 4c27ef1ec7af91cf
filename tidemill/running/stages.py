"""The four stages, each a function of a workspace and references: shards go in, store files and commits come out.

A stage that finds its output in the store, whole, has nothing to do. So each
can be killed and repeated at any moment. It takes several shards, since small ones
go together: a call that fails did some of them, and a repeated one does the others.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from tidemill.planning.plan import FilePlan
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.results.adoption import request_shards
from tidemill.results.answers.known import Answers, find_answers
from tidemill.results.commit import Computed, Outcome, commit_shards
from tidemill.running.workspace import Workspace
from tidemill.shards import TOGETHER_BYTES, Shard, Slice
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

    @property
    def shards(self) -> list[Shard]:
        """What it was cut into so far."""
        return [Shard(self.file.file, piece) for piece in self.cut]

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


class Reading:
    """Text files that are cut one after the other, and what was found since the lake was last told.

    Survives a failed read: what failed is the first of `files`, and cutting goes on where it was.
    """

    def __init__(self, files: Iterable[FilePlan], *, together: int) -> None:
        self.files, self._together = deque(map(Cutting, files)), together
        self.found: list[tuple[FilePlan, Shard]] = []
        self._found_bytes = 0
        self.ended: list[Cutting] = []
        self.elsewhere: list[FilePlan] = []
        """What another run is cutting."""
        self._claimed = False

    @property
    def is_open(self) -> bool:
        """Whether there is more to read, or to tell the lake."""
        return bool(self.files or self.found or self.ended)

    @property
    def label(self) -> str:
        """What is read on, as it is named to people: reading may end one file and begin the next."""
        others = " and on" if len(self.files) > 1 else ""
        return f"{self.files[0].file.file.path}{others}" if self.files else "the files' end"

    @property
    def is_full(self) -> bool:
        """Whether what was found is as much as goes through the stages together."""
        return len(self.found) >= self._together or self._found_bytes >= TOGETHER_BYTES

    def find(self, shard: Shard) -> None:
        """Enter a new shard of the first file."""
        self.found.append((self.files[0].file, shard))
        self._found_bytes += shard.slice.text_bytes

    def first(self, workspace: Workspace) -> Cutting | None:
        """The file to be read on, the first that nobody else is cutting."""
        while self.files and not self._claimed:
            self._claimed = workspace.claim(self.files[0].file.file.path)
            if not self._claimed:
                self.elsewhere.append(self.files.popleft().file)
        return self.files[0] if self.files else None

    def end(self) -> None:
        """The first file is read to its end; it stays claimed until the lake knows."""
        self.ended.append(self.files.popleft())
        self._claimed = False

    def drop(self, workspace: Workspace) -> FilePlan:
        """Leave off the first file, which cannot be read on."""
        cutting = self.files.popleft()
        if self._claimed:
            workspace.release(cutting.file.file.path)
        self._claimed = False
        workspace.dataset.forget(cutting.file.file)
        return cutting.file

    def ask(self, workspace: Workspace) -> list[tuple[FilePlan, Request]]:
        """List what was found in the lake, and ask for it; what the target does not list any more has no request."""
        if not (self.found or self.ended):
            return []
        requested = request_shards(
            workspace.lake,
            workspace.target,
            [(shard, file.state) for file, shard in self.found],
            cut=[(cutting.file.file.path, cutting.shards) for cutting in self.ended],
        )
        found, self.found, self._found_bytes = self.found, [], 0
        return [
            (file, Request(shard, requested[shard.shard_id])) for file, shard in found if shard.shard_id in requested
        ]

    def leave_ended(self, workspace: Workspace) -> list[tuple[str, list[Shard]]]:
        """Close the files that were read to their end, and give back the claims on them: (path, all shards) of each."""
        ended, self.ended = self.ended, []
        for cutting in ended:
            workspace.dataset.forget(cutting.file.file)
            workspace.release(cutting.file.file.path)
        return [(cutting.file.file.path, cutting.shards) for cutting in ended]

    def close(self, workspace: Workspace) -> None:
        """Give back all claims, however it ended."""
        self.leave_ended(workspace)
        if self.files and self._claimed:
            self.drop(workspace)


def label_of(requests: Sequence[Request]) -> str:
    """How shards that go together are named to people."""
    others = f" and {len(requests) - 1} more" if len(requests) > 1 else ""
    return f"{requests[0].shard.label}{others}"


def paths_of(requests: Sequence[Request]) -> str:
    """How their files are."""
    first, *others = dict.fromkeys(request.shard.file.path for request in requests)
    return f"{first} and {len(others)} more" if others else first


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
    for item, table, facts in _predict(workspace, missing):
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
        return _one_array(self.rows["row_number"])

    def prepared(self, reads: Sequence[str]) -> pa.Table:
        return with_texts(self.tokens.drop_columns(["row_number"]), self.rows, reads)


def _predict(workspace: Workspace, items: Sequence[Tokenized]) -> Iterator[tuple[Tokenized, pa.Table, dict[str, Any]]]:
    """Each shard's predictions and its facts for the ledger; the model computes all shards together.

    It computes the rows whose texts it has not answered before, in this file or
    one that this one follows. Of the others the answers are copied.
    """
    if not items:
        return
    inputs = [_Inputs.read(workspace, item) for item in items]
    columns = [shard.tokens["token_ids"] for shard in inputs]
    answers = _answers(workspace, inputs)
    prepared = pa.concat_tables(
        [shard.prepared(workspace.preparer.reads) for shard in inputs], promote_options="permissive"
    )
    shards = inputs if workspace.writes else []
    files = [ShardFile(workspace.written_file(shard.request.shard), shard.row_numbers) for shard in shards]
    if workspace.writes:
        prepared = with_written(prepared, _written_before(workspace, inputs, files))

    def predict(rows: pa.Table, keep: Keep) -> Predictions:
        return workspace.runner.predict(
            rows,
            should_stop=workspace.should_stop,
            keep=keep,
            progress=workspace.telling(label_of([item.ingested.request for item in items]), "infer", rows.num_rows),
        )

    def compute(left: pa.Table) -> Predictions:
        if workspace.reads_again:
            return _predict_in_rounds(workspace, inputs, left, predict)
        return predict(left, lambda so_far: keep_written(workspace.store, files, so_far, rows=left[PLACE]))

    predictions = predict_others(prepared, answers, lambda left: decode_others(left, workspace.decoder, compute))
    if predictions.written is not None:
        # Before the predictions are there: a run that is killed in between finds it.
        keep_written(workspace.store, files, predictions)
    workspace.notes += predictions.notes
    # Where nothing was computed, the model was not opened for it, and there is no device.
    resolved = predictions.resolved
    is_known = answers.is_known
    if workspace.writes:
        is_known = is_known | prepared[WRITTEN].is_valid().to_numpy()
    known = _by_shard(is_known, inputs)
    unchanged = [windows.num_tokens(column.filter(pa.array(of))) for column, of in zip(columns, known, strict=True)]
    lengths = [windows.num_tokens(column) for column in columns]
    written = _new_tokens_by_shard(predictions, is_known, inputs)
    shares = predictions.stats.shares([all_ - left for all_, left in zip(lengths, unchanged, strict=True)], written)
    start = 0
    for i, (shard, stats) in enumerate(zip(inputs, shares, strict=True)):
        num_rows = shard.rows.num_rows
        results, reason = predictions.columns.slice(start, num_rows), predictions.reason.slice(start, num_rows)
        start += num_rows
        facts = {
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
        table = with_reasons(shard.rows, shard.tokens, results, reason)
        yield shard.item, table.append_column(TEXT_HASH, shard.hashes), facts


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
        begun=_one_array(_written_before(workspace, inputs, files).take(left[PLACE])),
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
    return pc.if_else(_one_array(is_whole), shard.hashes.storage, None)


def _by_shard(values: np.ndarray, inputs: Sequence[_Inputs]) -> list[np.ndarray]:
    ends = np.cumsum([shard.rows.num_rows for shard in inputs])
    return np.split(values, ends[:-1])


def with_texts(prepared: pa.Table, rows: pa.Table, reads: Sequence[str]) -> pa.Table:
    """What a preparer made of rows, beside what it made it of."""
    for name in reads:
        prepared = prepared.append_column(name, rows[name])
    return prepared


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
    if "truncated" in tokens.column_names:
        return {"num_tokens": tokens["num_tokens"], "truncated": tokens["truncated"]}
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
