"""Bring a table up to date: plan, adopt, and let shards stream through the stages.

The steps do not know who executes them. While one shard is in the model, the
next is read and tokenized and the one before is committed; at most
`limits.shards_in_flight` are between ingest and commit.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.config import Pipeline
from tidemill.devices import resolve_device
from tidemill.errors import FileChanged, LimitExceeded, RunFailed, ShardGone, Stopped, TidemillError
from tidemill.executor import Executor, ThreadExecutor
from tidemill.lake import Lake, catalog_exists, ensure_system_tables
from tidemill.lake.adoption import Adoption, Target, adopt, request_ids
from tidemill.lake.commit import Copied, commit_shards, remove_vanished
from tidemill.lake.ledger import target_shards
from tidemill.lake.rewrite import finish_rewrite, rewrite_shard, rewritten_shards, start_rewrite
from tidemill.lake.runs import RunRecord, record_run
from tidemill.models import load_tokenizer
from tidemill.plan import FilePlan, Plan, make_plan
from tidemill.progress import Progress, Quiet
from tidemill.retry import retrying
from tidemill.shards import Shard
from tidemill.sources import Dataset
from tidemill.stages import Cutting, Request, Workspace
from tidemill.window import Outcomes, Window

T = TypeVar("T")
MAX_ROUNDS = 4


@dataclass
class RunResult:
    """What a run did. `state` is done, failed or stopped."""

    run_id: str
    pipeline: str
    version: str
    table: str
    revision: str
    state: str = "done"
    num_shards: int = 0
    num_copied: int = 0
    num_rewritten: int = 0
    num_rows: int = 0
    num_quarantined: int = 0
    num_rows_removed: int = 0
    num_tokens: int = 0
    num_retries: int = 0
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Run:
    """One run of one pipeline, from its plan to its row in `_runs`."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        progress: Progress | None = None,
        yes: bool = False,
        why: str = "run",
        flow_run_id: str | None = None,
        executor: Callable[[Workspace, Progress], Executor] = ThreadExecutor,
    ) -> None:
        self.pipeline, self.progress, self.yes = pipeline, progress or Quiet(), yes
        self.run_id = secrets.token_hex(6)
        self._executor_type = executor
        self._record = RunRecord(self.run_id, pipeline.name, kind="run", why=why, flow_run_id=flow_run_id)
        self._outcomes = Outcomes(self._record, self.progress)
        self._workspace: Workspace | None = None

    def execute(self) -> RunResult:
        """Plan and work until the table is up to date, or as far as it goes.

        What was committed stays, whatever is raised.

        Raises:
            InputError: the pipeline cannot be worked on; nothing was written.
            LimitExceeded: vanished files would take more rows than `limits.max_removed`; nothing was written.
        """
        started = time.monotonic()
        plan, dataset, lake = self._first_plan()
        with lake:
            self._patiently(lambda: record_run(lake, self._record))
            try:
                for _ in range(MAX_ROUNDS):
                    self._outcomes.failures.clear()
                    if self._work(plan, dataset, lake) and not self._outdated():
                        break
                    plan, dataset = make_plan(self.pipeline, lake)
                    self._refuse_removal(plan)
                state = "failed" if self._outcomes.failures or self._over_quarantine() else "done"
            except (Stopped, duckdb.InterruptException):
                state = "stopped"
            except Exception as e:
                self._finish(lake, plan, "failed", started, message=str(e))
                raise
            except BaseException:  # noqa: BLE001 — Ctrl-C, or an executor's own way to say that the process is to end.
                state = "stopped"
            return self._finish(lake, plan, state, started)

    def _first_plan(self) -> tuple[Plan, Dataset, Lake]:
        """Plan against the lake if there is one; it is made only once the input is known to be good."""
        if not catalog_exists(self.pipeline.lake):
            plan, dataset = make_plan(self.pipeline, None)
            _open_for_the_first_time(plan)
            lake = Lake(self.pipeline.lake)
            ensure_system_tables(lake)
            return plan, dataset, lake
        lake = Lake(self.pipeline.lake)
        try:
            ensure_system_tables(lake)
            plan, dataset = make_plan(self.pipeline, lake)
            self._refuse_removal(plan)
            if not plan.done:
                _open_for_the_first_time(plan)
        except BaseException:
            lake.close()
            raise
        return plan, dataset, lake

    def _refuse_removal(self, plan: Plan) -> None:
        limit = plan.pipeline.limits.max_removed
        if not self.yes and plan.num_rows_removed > limit * plan.num_rows_before:
            raise LimitExceeded(
                f"{len(plan.removed)} files are gone from the dataset, and {plan.num_rows_removed:,} of "
                f"{plan.num_rows_before:,} rows with them: more than limits.max_removed = {limit:g}. Nothing was done. "
                "If that is right, run again with --yes."
            )

    def _work(self, plan: Plan, dataset: Dataset, lake: Lake) -> bool:
        """Carry out one plan; False if the lake moved on meanwhile and a new plan is needed."""
        target = Target(plan.pipeline.name, plan.version, plan.revision, self.run_id, plan.table, plan.kept_fingerprint)
        for note in plan.notes:
            self.progress.note(note)
        self._record.version, self._record.revision = plan.version, plan.revision
        if plan.is_up_to_date and plan.previous_revision == plan.revision:
            return True
        estimate = plan.to_json()
        self._record.estimated_seconds = estimate["seconds"]
        self.progress.planned(plan, num_shards=estimate["num_shards_computed"], rows=estimate["rows"])
        workspace = Workspace(plan, dataset, lake, target)
        if not self._patiently(lambda: adopt(lake, target, _adoption(plan))):
            return False
        workspace.store.sweep()
        self._workspace = workspace
        executor = self._executor_type(workspace, self.progress)
        try:
            if plan.rewrite:
                self._rewrite(workspace)
            self._copy_known(workspace)
            self._stream(workspace, executor)
        except BaseException:
            workspace.stop.set()
            executor.close(cancel=True)
            raise
        finally:
            self._record.num_retries += executor.num_retries
        executor.close(cancel=False)
        if not self._over_quarantine():
            self._record.num_rows_removed += self._patiently(lambda: remove_vanished(lake, target))
        return True

    def _rewrite(self, workspace: Workspace) -> None:
        """Give done shards the key and kept columns that are asked for now; no prediction is computed."""
        plan, lake, target = workspace.plan, workspace.lake, workspace.target
        staging = self._patiently(lambda: start_rewrite(lake, target))
        written = rewritten_shards(lake.cursor(), staging)
        before = target_shards(lake.cursor(), target.pipeline, plan.previous_revision or "")
        first_rows = {shard.shard_id: shard.slice.first_row for shard in before}
        now = {shard.slice.content: shard for file in plan.files for shard in file.shards}
        for done in plan.rewrite:
            if done.shard_id not in written:
                workspace.check_stop()
                rows = self._kept_rows(workspace, now.get(done.content), first_rows.get(done.shard_id))
                self._patiently(functools.partial(rewrite_shard, lake, target, done.shard_id, rows, staging))
        kept = [column.to_json() for column in plan.kept]
        if not self._patiently(lambda: finish_rewrite(lake, target, staging, kept)):
            raise RunFailed("Other shards were committed while columns were rewritten. Run again to go on.")

    def _kept_rows(self, workspace: Workspace, now: Shard | None, first_row: int | None) -> pa.Table | None:
        """Key and kept columns of a done shard that starts at `first_row`, read from where its content lies now.

        None where it is gone: then the shard is about to be replaced or removed.
        """
        if now is None or first_row is None:
            return None
        try:
            rows = retrying(
                lambda: workspace.dataset.reader(now.file).rows(now.slice), retries=self.pipeline.limits.retries
            )
        except FileChanged:
            return None
        moved = pc.add(rows["row_number"], first_row - now.slice.first_row)
        return rows.set_column(rows.schema.get_field_index("row_number"), "row_number", moved)

    def _copy_known(self, workspace: Workspace) -> None:
        """Files all of whose shards were computed at another place are copied, all in one transaction."""
        plan = workspace.plan
        files = [file for file in plan.files if _is_pure_copy(file, plan)]
        items = [Copied(item.shard, item.copy_from or "") for file in files for item in file.todo]
        settled = [file for file in plan.files if file.replaces and not file.todo and not file.uncut]
        cut = [(file.file.path, file.shards) for file in (*files, *settled)]
        if items or cut or plan.renamed:
            outcome = self._patiently(
                lambda: commit_shards(workspace.lake, workspace.target, items, cut=cut, moved=tuple(plan.renamed))
            )
            self._outcomes.count(outcome, copied=len(items))

    def _stream(self, workspace: Workspace, executor: Executor) -> None:
        """Send every shard that is to be computed through the stages, a bounded number at a time."""
        plan = workspace.plan
        window = Window(self._outcomes, workspace, executor)
        # Files that replace none come first: what they repeat may be what the others replace.
        for replaces in (False, True):
            self._stream_files(workspace, executor, window, [file for file in plan.files if file.replaces is replaces])
        window.release_held()

    def _stream_files(
        self, workspace: Workspace, executor: Executor, window: Window, files: Sequence[FilePlan]
    ) -> None:
        plan = workspace.plan
        repeats: list[Copied] = []
        for file in files:
            if _is_pure_copy(file, plan) or not (file.todo or file.uncut):
                continue
            try:
                window.begin_file(file)
                for request in self._requests(workspace, executor, file, repeats, window):
                    window.send(file, request)
                window.end_file(file)
            except Stopped:
                raise
            except Exception as e:  # noqa: BLE001 — a file that fails, for whatever reason, fails alone.
                self._outcomes.fail(file.file.path, e)
                window.abandon_file(file)
        window.drain()
        for repeat in repeats:
            self._commit_repeat(workspace, repeat)

    def _requests(
        self, workspace: Workspace, executor: Executor, file: FilePlan, repeats: list[Copied], window: Window
    ) -> Iterator[Request]:
        """The shards of one file that are to be computed, in order; a text file is cut as they are taken."""
        plan = workspace.plan
        if not file.uncut:
            computed = [item for item in file.todo if item.action == "compute" or file.replaces]
            repeats += [Copied(item.shard, item.copy_from or "") for item in file.todo if item not in computed]
            ids = request_ids(workspace.lake.cursor(), workspace.target, [item.shard.shard_id for item in computed])
            yield from (
                Request(item.shard, ids[item.shard.shard_id]) for item in computed if item.shard.shard_id in ids
            )
            return
        cutting = Cutting(file)
        done = dict(plan.done)
        known = {shard.content: shard.shard_id for shard in done.values()} | window.contents
        while True:
            window.wait_for_room()
            found = executor.submit("cut_next", file.file.path, cutting, done).result()
            if found is None:
                break
            if isinstance(found, Shard):
                continue
            source = known.get(found.shard.slice.content)
            if source and not file.replaces and source != found.shard.shard_id:
                repeats.append(Copied(found.shard, source))
                continue
            window.contents[found.shard.slice.content] = found.shard.shard_id
            yield found
        window.cut.append((file.file.path, [Shard(file.file, cut) for cut in cutting.cut]))

    def _commit_repeat(self, workspace: Workspace, repeat: Copied) -> None:
        try:
            outcome = self._patiently(lambda: commit_shards(workspace.lake, workspace.target, [repeat]))
            self._outcomes.count(outcome, copied=1)
        except TidemillError as e:
            self._outcomes.fail(repeat.shard.file.path, e)

    def _patiently(self, call: Callable[[], T]) -> T:
        """A write of the run's own, outside of any step: another writer's lock is waited for as a step would."""
        return retrying(call, retries=self.pipeline.limits.retries)

    def _outdated(self) -> bool:
        """Whether a new plan would mend all that failed: files changed under the run, or a shard to copy is gone."""
        return bool(self._outcomes.failures) and all(
            isinstance(error, FileChanged | ShardGone) for _, error in self._outcomes.failures
        )

    def _over_quarantine(self) -> bool:
        workspace = self._workspace
        return workspace is not None and workspace.tally.share_with() > self.pipeline.limits.max_quarantine

    def _finish(self, lake: Lake, plan: Plan, state: str, started: float, message: str = "") -> RunResult:
        record = self._record
        record.num_shards_failed = len(self._outcomes.failures)
        record.state, record.finished_at, record.seconds = state, datetime.now(UTC), time.monotonic() - started
        per_hour = self.pipeline.cost.per_hour
        record.cost = None if per_hour is None else record.seconds / 3600 * per_hour
        record.currency = self.pipeline.cost.currency
        notes = [*plan.notes, *([message] if message else []), *self._limit_notes()]
        record.message = (
            "; ".join([*notes, *(f"{path}: {error}" for path, error in self._outcomes.failures[:5])]) or None
        )
        self._patiently(lambda: record_run(lake, record))
        return RunResult(
            run_id=self.run_id,
            pipeline=plan.pipeline.name,
            version=plan.version,
            table=plan.table.name,
            revision=plan.revision,
            state=state,
            num_shards=record.num_shards,
            num_copied=record.num_copied,
            num_rewritten=len(plan.rewrite),
            num_rows=record.num_rows,
            num_quarantined=record.num_quarantined,
            num_rows_removed=record.num_rows_removed,
            num_tokens=record.num_tokens,
            num_retries=record.num_retries,
            seconds=record.seconds,
            failures=[
                {"path": path, "error": type(error).__name__, "message": str(error)}
                for path, error in self._outcomes.failures
            ],
            notes=notes,
        )

    def _limit_notes(self) -> list[str]:
        workspace = self._workspace
        if workspace is None or not self._over_quarantine():
            return []
        return [
            f"{workspace.tally.num_quarantined:,} of {workspace.tally.num_rows:,} rows went to quarantine: more than "
            f"limits.max_quarantine = {self.pipeline.limits.max_quarantine:g}. No old rows were removed. See why: "
            f"SELECT stage, reason, count(*) FROM _quarantine GROUP BY ALL. If that is right, raise the limit."
        ]


def _open_for_the_first_time(plan: Plan) -> None:
    """Find out before anything is written whether the version can be computed here at all."""
    load_tokenizer(plan.spec)
    resolve_device(plan.pipeline.inference.device)


def _adoption(plan: Plan) -> Adoption:
    spec = plan.pipeline.dataset
    return Adoption(
        files=[(file.file, None if file.uncut else len(file.shards)) for file in plan.files],
        shards=[shard for file in plan.files if file.trusted for shard in file.shards],
        requests=[
            (item.shard.shard_id, file.state)
            for file in plan.files
            for item in file.todo
            if item.action == "compute" or file.replaces
        ],
        spec=plan.spec.to_json(),
        kept=[column.to_json() for column in plan.kept],
        dataset={"path": spec.path, "config": spec.config, "split": spec.split},
        expected_target=plan.previous_revision,
    )


def _is_pure_copy(file: FilePlan, plan: Plan) -> bool:
    """Whether all that a file needs lies in the table already, at another place."""
    return (
        bool(file.todo)
        and not file.uncut
        and all(item.action == "copy" and item.copy_from in plan.done for item in file.todo)
    )
