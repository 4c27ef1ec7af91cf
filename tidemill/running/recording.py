"""One run, from its first row in `_runs` to its last: every kind of run starts, fails, stops and ends the same way."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import duckdb

from tidemill.config import Pipeline
from tidemill.errors import ENDS_RUN, CostReached, Stopped, TidemillError
from tidemill.lake import Lake
from tidemill.lake.data_files import note_files
from tidemill.lake.ducklake.claims import Claims, open_claims, run_claim
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.lake.requests import CommittedShard, Request, committed_by
from tidemill.lake.runs import RunFacts, RunRecord, known_sum, record_run
from tidemill.lake.tables import table_name
from tidemill.masking import message_of
from tidemill.planning.estimates import Estimate
from tidemill.planning.versions import NUM_WINDOWS
from tidemill.progress import Progress, Quiet
from tidemill.results.commit import Outcome
from tidemill.retry import retrying
from tidemill.running.executor import Executor
from tidemill.running.stages.workspace import Tally, Workspace
from tidemill.shards import Shard

T = TypeVar("T")


@dataclass
class RunResult(RunFacts):
    """What a run did. `state` is done, failed or stopped; the version is empty where none was settled."""

    version: str = ""
    revision: str = ""
    seconds: float = 0.0
    table: str = ""
    columns: list[str] = field(default_factory=list)
    """The model task's columns of the table."""
    num_rewritten: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """What failed and why, each once: path, error and message."""
    notes: list[str] = field(default_factory=list)
    stopped_at_cost: str | None = None
    """Which cost it would have passed, if that is why it stopped. Of one run: several together do not say."""


def _told(record: RunRecord) -> dict[str, Any]:
    """Where a result says it otherwise than the record."""
    return {
        "version": record.version or "",
        "revision": record.revision or "",
        "seconds": record.seconds or 0.0,
        "currency": record.currency if record.cost is not None else None,
    }


class Outcomes:
    """What the run did so far: its record, its failures, and whoever shows them."""

    def __init__(self, record: RunRecord, progress: Progress) -> None:
        self.record, self.progress = record, progress
        self._lock = threading.Lock()
        self.counted: set[str] = set()
        """Ids of the shards whose commits are in the record."""
        self.dropped: set[str] = set()
        self.failures: list[tuple[str, BaseException]] = []

    def count(self, outcome: Outcome) -> None:
        """Enter a commit into the record. Whoever committed calls this at once: a stop must not come in between."""
        record = self.record
        with self._lock:
            record.num_dropped -= len(self.dropped.intersection(outcome.committed))
            self.dropped.difference_update(outcome.committed)
            self.counted.update(outcome.committed)
            self.dropped.update(outcome.dropped)
            record.num_shards += outcome.num_committed
            record.num_copied += outcome.num_copied
            record.num_rows += outcome.num_rows
            record.num_quarantined += outcome.num_quarantined
            record.num_rows_removed += outcome.num_rows_removed
            record.num_dropped += outcome.num_dropped
            record.num_tokens += outcome.num_tokens
            record.num_unchanged += outcome.num_unchanged
            record.num_unchanged_tokens += outcome.num_unchanged_tokens
            record.num_new_tokens = known_sum([record.num_new_tokens, outcome.num_new_tokens])

    def count_missed(self, committed: Sequence[CommittedShard]) -> None:
        """Enter what the ledger says this run committed, if the record does not.

        Nobody waited for the answer, or it was lost with its connection and the shard was found done.
        """
        for shard in committed:
            if shard.shard_id not in self.counted:
                self.count(
                    Outcome(
                        committed=(shard.shard_id,),
                        num_copied=int(shard.is_copied),
                        num_rows=shard.num_rows,
                        num_quarantined=shard.num_quarantined,
                        num_tokens=shard.num_tokens,
                        num_unchanged=shard.num_unchanged,
                        num_unchanged_tokens=shard.num_unchanged_tokens,
                        num_new_tokens=shard.num_new_tokens,
                    )
                )

    def show(self, outcome: Outcome, path: str) -> None:
        if outcome.num_committed:
            self.progress.committed(
                path,
                shards=outcome.num_committed,
                rows=outcome.num_rows,
                tokens=outcome.num_tokens,
                quarantined=outcome.num_quarantined,
            )

    @contextmanager
    def failing_alone(self, path: str, *, then: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A shard or a file that fails in the block, for whatever reason, fails alone, and the run goes on.

        `then` is called after a failure. What ends a run wherever it arises is raised: `ENDS_RUN`.
        """
        try:
            yield
        except ENDS_RUN:
            raise
        except Exception as e:  # noqa: BLE001
            self.fail(path, e)
            then()

    def fail(self, path: str, error: BaseException) -> None:
        """Record that a shard or a file failed; what was told already, by another shard or of its file, is not again.

        Raises:
            Stopped: nothing failed; DuckDB took the user's Ctrl-C for itself.
        """
        if is_interrupt(error):
            raise Stopped("The run was asked to stop.") from error
        if any(error is known for _, known in self.failures):
            return
        told = (path, str(error)) in {(where, str(known)) for where, known in self.failures}
        self.failures.append((path, error))
        if not told:
            self.progress.failed(path, error)


class Recording:
    """A run's record, outcomes and end. `kind` is what `_runs.kind` says."""

    def __init__(
        self,
        pipeline: Pipeline,
        kind: str,
        *,
        why: str,
        flow_run_id: str | None = None,
        progress: Progress | None = None,
        backfill_id: str | None = None,
    ) -> None:
        self.pipeline, self.progress = pipeline, progress or Quiet()
        self.record = RunRecord(
            secrets.token_hex(6),
            pipeline.name,
            kind=kind,
            why=why or kind,
            flow_run_id=flow_run_id,
            backfill_id=backfill_id,
        )
        self.outcomes = Outcomes(self.record, self.progress)
        self.tally = Tally()
        self.notes: list[str] = []
        self.columns: list[str] = []
        self.num_rewritten = 0
        self.stopped_at_cost: str | None = None
        """What the run said when the next shard would have passed the cost that was allowed."""
        self._started = time.monotonic()

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def carry_out(self, lake: Lake, work: Callable[[Claims], None]) -> RunResult:
        """Do `work` between the two writes of the run's row; what it committed stays, whatever is raised."""
        with self.failing(lake):
            try:
                with closing(open_claims(lake.spec)) as claims:
                    claims.hold(run_claim(self.run_id))
                    self.patiently(lambda: record_run(lake, self.record))
                    work(claims)
                state = "failed" if self.outcomes.failures or self.over_quarantine() else "done"
            except CostReached as e:
                self.stopped_at_cost = str(e)
                self.notes.append(str(e))
                state = "stopped"
            except Stopped:
                state = "stopped"
            except Exception as e:
                if not is_interrupt(e):
                    raise
                state = "stopped"
            except BaseException:  # noqa: BLE001 — Ctrl-C, or an executor's own way to say that the process is to end.
                state = "stopped"
        self._finish(lake, state)
        return self._result()

    @contextmanager
    def failing(self, lake: Lake) -> Iterator[None]:
        """What is raised in the block has its row in `_runs`, wherever the lake still takes one, and is raised."""
        try:
            with lake.reached():
                yield
        except BaseException as e:
            self.notes.append(message_of(e) or type(e).__name__)
            stopped = isinstance(e, Stopped) or is_interrupt(e) or not isinstance(e, Exception)
            with suppress(Exception):
                self._finish(lake, "stopped" if stopped else "failed")
            raise

    @contextmanager
    def executing(self, executor: Executor, workspace: Workspace) -> Iterator[Executor]:
        """Use an executor for the length of a block; left early, its stages are asked to stop."""
        workspace.count, workspace.progress = self.outcomes.count, self.progress
        self.columns = [name for name, _ in workspace.target.table.results if name != NUM_WINDOWS]
        try:
            yield executor
        except BaseException:
            workspace.stop.set()
            executor.close(cancel=True)
            raise
        else:
            executor.close(cancel=False)
        finally:
            self.record.num_retries += executor.num_retries
            self.notes += [note for note in dict.fromkeys(workspace.notes) if note not in self.notes]

    def patiently(self, call: Callable[[], T]) -> T:
        """A write of the run's own, outside of any stage: another writer's lock is waited for as a stage would."""

        def count(error: BaseException) -> None:
            self.record.num_retries += 1
            self.progress.retried("the write", error)

        return retrying(call, retries=self.pipeline.limits.retries, on_retry=count)

    def unchanged(self, workspace: Workspace, requests: Sequence[Request]) -> list[Request]:
        """The requests whose files are as they were recorded, where they lie now; the other files fail alone."""
        for path, error in workspace.changed.items():
            self.outcomes.fail(path, error)
        if len(workspace.changed) == len({request.shard.file.path for request in requests}):
            return []
        settled = {file.path: file for file in workspace.dataset.files}
        return [
            replace(request, shard=Shard(settled[request.shard.file.path], request.shard.slice))
            for request in requests
            if request.shard.file.path in settled
        ]

    def expect(self, estimate: Estimate) -> None:
        """Note what the run should take, to be held against what it took."""
        self.record.estimated_seconds, self.record.estimated_cost = estimate.seconds, estimate.cost
        self.record.estimated_seconds_low = estimate.seconds_low
        self.record.estimated_seconds_high = estimate.seconds_high

    def over_quarantine(self) -> bool:
        return self.tally.share_with() > self.pipeline.limits.max_quarantine

    def _finish(self, lake: Lake, state: str) -> None:
        record = self.record
        if state != "done" or record.num_dropped:
            with lake.reached():
                committed = committed_by(lake.cursor(), record.pipeline, self.run_id)
            self.outcomes.count_missed(committed)
        record.num_shards_failed = len(self.outcomes.failures)
        record.state, record.finished_at, record.seconds = state, datetime.now(UTC), time.monotonic() - self._started
        per_hour = self.pipeline.cost.per_hour
        record.cost = None if per_hour is None else record.seconds / 3600 * per_hour
        record.currency = self.pipeline.cost.currency
        self.notes += [*self._limit_notes(), *self._note_files(lake)]
        told = [*self.notes, *(f"{failure['path']}: {failure['message']}" for failure in self._failures()[:5])]
        record.message = "; ".join(told) or None
        self.patiently(lambda: record_run(lake, record))

    def _note_files(self, lake: Lake) -> list[str]:
        """Note the hashes of the data files that were written; what keeps it from that keeps nothing else."""
        try:
            with lake.reached():
                self.patiently(lambda: note_files(lake))
        except (TidemillError, duckdb.Error) as e:
            return [f"The hashes of new data files were not noted, the next run does it: {message_of(e)}"]
        return []

    def _result(self) -> RunResult:
        record = self.record
        facts: dict[str, Any] = {name.name: getattr(record, name.name) for name in fields(RunFacts)}
        return RunResult(
            **facts | _told(record),
            table=table_name(record.pipeline, record.version) if record.version else "",
            columns=self.columns,
            num_rewritten=self.num_rewritten,
            failures=self._failures(),
            notes=list(self.notes),
            stopped_at_cost=self.stopped_at_cost,
        )

    def _failures(self) -> list[dict[str, str]]:
        """What failed and why, each once, however many shards of a file it was."""
        found = {(path, type(error).__name__, message_of(error)): None for path, error in self.outcomes.failures}
        return [{"path": path, "error": error, "message": message} for path, error, message in found]

    def _limit_notes(self) -> list[str]:
        if not self.over_quarantine():
            return []
        return [
            f"{self.tally.num_quarantined:,} of {self.tally.num_rows:,} rows went to quarantine: more than "
            f"limits.max_quarantine = {self.pipeline.limits.max_quarantine:g}. No old rows were removed. See why: "
            f"SELECT stage, reason, count(*) FROM _quarantine GROUP BY ALL. If that is right, raise the limit."
        ]
