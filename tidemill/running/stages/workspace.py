"""What the stages work with: one version of one pipeline, its store, its lake, its tokenizer and model, opened once."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence

from tidemill.config import Pipeline
from tidemill.errors import FileChanged, FileUnreadable, LakeError, Stopped
from tidemill.fingerprints import fingerprint
from tidemill.inference.opening import load_decoder, load_preparer, load_runner
from tidemill.inference.runner import ModelRunner
from tidemill.lake import Lake
from tidemill.lake.ducklake.claims import Claims
from tidemill.lake.pipelines import Target, load_state
from tidemill.lake.requests import Request, still_open
from tidemill.models.tasks import ModelTask, Preparer
from tidemill.planning.columns import kept_fingerprint, read_columns
from tidemill.planning.estimates import Rate, measured_rate
from tidemill.planning.version_tables import Version, load_version
from tidemill.planning.versions import items_per_row, reads_again, writes
from tidemill.progress import Progress, Quiet, StageProgress
from tidemill.results.answers.former import Former
from tidemill.results.commit import CommitQueue, Outcome
from tidemill.retry import waiting_for
from tidemill.shards import Shard, SourceFile
from tidemill.sources.dataset import Dataset, reopen_dataset, settle
from tidemill.storage.store import Store, StoreFile

CLAIM_POLL_SECONDS = 0.2


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
    """One version at one dataset revision, for one run. `dataset` is None where no stage is to look at the source."""

    def __init__(
        self,
        pipeline: Pipeline,
        version: Version,
        lake: Lake,
        claims: Claims,
        *,
        revision: str,
        run_id: str,
        dataset: Dataset | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.pipeline, self.spec, self.lake, self._dataset = pipeline, version.spec, lake, dataset
        self.target = Target(
            pipeline.name, version.spec.version, revision, run_id, version.table, kept_fingerprint(version.kept)
        )
        self.store = Store(pipeline.store.path, max_bytes=int(pipeline.store.max_bytes))
        self.stop = threading.Event()
        self.tally = tally or Tally()
        self.files_in_use: set[str] = set()
        """Names of store files of shards in flight, which are not evicted."""
        self.files_released: set[str] = set()
        """Names of store files of shards that this run has committed, which may be."""
        self.changed: dict[str, FileChanged | FileUnreadable] = {}
        """Files, by path, that are no longer what the lake recorded, or may not be read."""
        self.count: Callable[[Outcome], None] = lambda _: None
        """Told of every commit that a stage makes, in the thread that made it."""
        most = pipeline.limits.shards_together
        self.commits = CommitQueue(lake, self.target, lambda outcome: self.count(outcome), most=most)
        self.check_cost: Callable[[], None] = lambda: None
        """Raises CostReached where the run has passed what it may cost."""
        self.progress: Progress = Quiet()
        self.notes: list[str] = []
        """What is not as the pipeline file might make one expect, for the run's record."""
        self._claims = claims
        self._opening = threading.Lock()

    @property
    def dataset(self) -> Dataset:
        assert self._dataset is not None, "this stage does not read the source"
        return self._dataset

    def telling(self, label: str, stage: str, rows: int) -> StageProgress:
        """Who is told how far a stage is with a shard, or with small ones together."""
        return StageProgress(self.progress, label, stage, rows)

    def pause(self, seconds: float) -> None:
        """Wait, unless the run is asked to stop meanwhile."""
        if self.stop.wait(seconds):
            self.check_stop()

    def should_stop(self) -> bool:
        """Whether the run was asked to stop.

        Raises:
            CostReached: the model writes, which may take long for a shard, and passes what the run may cost.
        """
        if self.writes:
            self.check_cost()
        return self.stop.is_set()

    def check_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped("The run was asked to stop.")

    def claim(self, what: Request | str) -> bool:
        """Whether this run may work on a request, or a file by its path: nobody else is at it."""
        return self._claims.hold(self._claim_name(what))

    def wait_for_claim(self, what: Request | str, told: str) -> bool:
        """As `claim`, waiting for whoever is at it; False if that takes longer than `lake.lock_timeout_seconds`."""
        if self.claim(what):
            return True
        longest = self.pipeline.lake.lock_timeout_seconds
        deadline = time.monotonic() + longest
        holder = self._claims.holder(self._claim_name(what))
        bound = f"for up to {longest:g} s (lake.lock_timeout_seconds)"
        with waiting_for(f"{told}, at which another run is{holder}, {bound}"):
            while not self.claim(what):
                if time.monotonic() >= deadline:
                    return False
                self.pause(CLAIM_POLL_SECONDS)
        return True

    def release(self, what: Request | str) -> None:
        self._claims.release(self._claim_name(what))

    def still_wanted(self, requests: Sequence[Request]) -> dict[str, Request]:
        """`still_open`, as the lake says now."""
        with self.lake.reached():
            return still_open(self.lake.cursor(), self.target, requests)

    def _claim_name(self, what: Request | str) -> str:
        place = what if isinstance(what, str) else what.shard.shard_id
        return fingerprint("claim", self.target.pipeline, self.target.version, place)

    @property
    def preparer(self) -> Preparer:
        with self._opening:
            return self._preparer

    @functools.cached_property
    def _preparer(self) -> Preparer:
        self.progress.doing("loading the tokenizer")
        return load_preparer(self.spec)

    @property
    def runner(self) -> ModelRunner:
        with self._opening:
            return self._runner

    @functools.cached_property
    def _runner(self) -> ModelRunner:
        self.progress.doing("loading the model")
        runner = load_runner(self.spec, self.pipeline.inference)
        resolved = runner.resolved
        if fallback := resolved.get("fallback"):
            self.notes.append(fallback)
        if rows := resolved.get("rows"):
            self.notes.append(f"Rows are computed {rows}.")
        return runner

    @property
    def writes(self) -> bool:
        """Whether the model writes its answers: then their ids stay in the store."""
        return writes(self.spec)

    @property
    def reads_again(self) -> bool:
        """Whether the model reads what it wrote of a text's windows again."""
        return reads_again(self.spec)

    def decoder(self) -> ModelTask:
        """The model task, to make rows of what was written before; the model is not opened for it."""
        self.progress.doing("loading the tokenizer")
        return load_decoder(self.spec)

    @property
    def former(self) -> Former:
        """What the version had when this was first asked: its shards may have answered those to come."""
        with self._opening:
            return self._former

    @functools.cached_property
    def _former(self) -> Former:
        with self.lake.reached():
            return Former.of(self.lake.cursor(), self.target.pipeline, self.target.version)

    @functools.cached_property
    def listed_predictions(self) -> set[str]:
        """Names of the predictions that lay in the store when this was first asked."""
        return self.store.names("predictions")

    def rate(self) -> Rate:
        """What was measured of this version."""
        measured = measured_rate(self.lake.cursor(), self.target.pipeline, self.target.version)
        return measured.with_items(items_per_row(self.spec))

    def rows_file(self, shard: Shard) -> StoreFile:
        return StoreFile("rows", fingerprint(shard.slice.content, shard.slice.first_row, *self._read()))

    def tokens_file(self, shard: Shard) -> StoreFile:
        content = (shard.slice.content, shard.slice.first_row)
        return StoreFile("tokens", fingerprint(*content, *self._read(), self.preparer.fingerprint))

    def written_file(self, shard: Shard) -> StoreFile:
        """By all that it was made of, whoever asked for it: other pipelines' versions of the same name find it."""
        return StoreFile("written", fingerprint(self.tokens_file(shard).fingerprint, self.spec.version))

    def begun_file(self, shard: Shard) -> StoreFile:
        """Of rows that have no answer yet, for what was written of them will be read again."""
        return StoreFile("written", fingerprint(self.written_file(shard).fingerprint, "begun"))

    def predictions_file(self, request: Request) -> StoreFile:
        return predictions_file(self.target.pipeline, self.target.version, request.shard.shard_id, request.request_id)

    def _read(self) -> tuple[object, ...]:
        """What decides which rows a slice gives. A row whose kept cell cannot be read has no text: so these count."""
        pair = () if self.spec.text_pair is None else (self.spec.text_pair,)
        parts = ("parts",) if self.spec.joined_text.as_parts else ()
        return (
            self.spec.text,
            self.spec.text_separator,
            *pair,
            *parts,
            self.pipeline.dataset.delimiter,
            self.target.kept,
        )


def predictions_file(pipeline: str, version: str, shard_id: str, request_id: str) -> StoreFile:
    """Where a request's predictions lie until their commit."""
    return StoreFile("predictions", fingerprint(pipeline, version, shard_id, request_id))


def reopen(
    pipeline: Pipeline,
    lake: Lake,
    claims: Claims,
    version: str,
    *,
    run_id: str,
    tally: Tally,
    requests: Sequence[Request] = (),
) -> Workspace:
    """A workspace from what the lake recorded: the source is not listed again, and only asked for `requests`' files.

    Files that are not what was recorded are in `changed`, with what is wrong.

    Raises:
        LakeError: the pipeline or the version is not in the lake.
    """
    cursor = lake.cursor()
    state = load_state(cursor, pipeline.name)
    if state is None:
        raise LakeError(f"The lake has no pipeline {pipeline.name}. `tidemill run` makes it.")
    found = load_version(cursor, pipeline, version)
    files: dict[str, SourceFile] = {}
    changed: dict[str, FileChanged | FileUnreadable] = {}
    for path, file in {request.shard.file.path: request.shard.file for request in requests}.items():
        try:
            files[path] = settle(pipeline.dataset, file)
        except (FileChanged, FileUnreadable) as e:
            changed[path] = e
    dataset = None
    if files:
        dataset = reopen_dataset(pipeline, found.spec.joined_text, state.target_revision, list(files.values()))
        dataset.use(read_columns(dataset, found.kept, found.table.num_keys))
    workspace = Workspace(
        pipeline, found, lake, claims, revision=state.target_revision, run_id=run_id, dataset=dataset, tally=tally
    )
    workspace.changed |= changed
    return workspace
