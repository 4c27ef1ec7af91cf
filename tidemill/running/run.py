"""Bring a table up to date: plan, adopt, and let shards stream through the stages.

The stages do not know who executes them. While one shard is in the model, the
next is read and tokenized and the one before is committed; at most
`limits.shards_in_flight` are between ingest and commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from tidemill.checkpoints.served import is_served
from tidemill.config import Pipeline
from tidemill.engines.devices import resolve_device
from tidemill.errors import (
    ENDS_RUN,
    FAILS_ALONE,
    FileChanged,
    LimitExceeded,
    ModelError,
    RunFailed,
    ShardGone,
    TidemillError,
    counted,
)
from tidemill.inference.opening import load_preparer, load_runner
from tidemill.lake import Lake, catalog_exists, ensure_system_tables
from tidemill.lake.ducklake.claims import Claims
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.lake.requests import Request, request_ids
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.plan import FilePlan, Plan, ShardPlan, make_plan
from tidemill.planning.version_tables import Version
from tidemill.progress import Expected, Progress
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.commit import Copied, commit_shards, remove_vanished
from tidemill.running import stages
from tidemill.running.executor import Executor, ThreadExecutor
from tidemill.running.in_flight import InFlight
from tidemill.running.kept import rewrite_kept
from tidemill.running.recording import Outcomes, Recording, RunResult
from tidemill.running.stages import Reading
from tidemill.running.stages.workspace import Workspace, predictions_file
from tidemill.shards import small_together
from tidemill.sources.dataset import Dataset, named
from tidemill.storage.store import Store
from tidemill.values.parts import A_CHAT, are_chats

__all__ = ["Run", "RunResult"]

MAX_ROUNDS = 4


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
        max_cost: float | None = None,
    ) -> None:
        self._recording = Recording(pipeline, "run", why=why, flow_run_id=flow_run_id, progress=progress)
        self.pipeline, self.progress, self.yes = pipeline, self._recording.progress, yes
        self.executor_type, self.max_cost = executor, max_cost
        self._record, self._outcomes = self._recording.record, self._recording.outcomes
        self._patiently = self._recording.patiently
        self._prepared: tuple[Plan, Dataset, Lake] | None = None
        self._limit: CostLimit | None = None

    @property
    def run_id(self) -> str:
        return self._recording.run_id

    def under(self, executor: Callable[[Workspace, Progress], Executor], *, flow_run_id: str) -> Run:
        """This run, as a flow run carries it out."""
        self.executor_type, self._record.flow_run_id = executor, flow_run_id
        return self

    def prepare(self) -> Plan:
        """Plan against the lake, which is made if there is none; `execute` carries this plan out.

        Raises:
            InputError: the pipeline cannot be worked on; nothing was written.
            LimitExceeded: vanished files would take more rows than `limits.max_removed`; nothing was written.
        """
        if self._prepared is None:
            self._prepared = self._first_plan()
        return self._prepared[0]

    def execute(self) -> RunResult:
        """Plan, unless that is done, and work until the table is up to date, or as far as it goes.

        What was committed stays, whatever is raised.

        Raises:
            InputError: the pipeline cannot be worked on; nothing was written.
            LimitExceeded: vanished files would take more rows than `limits.max_removed`; nothing was written.
        """
        self.prepare()
        assert self._prepared is not None
        plan, dataset, lake = self._prepared
        self._prepared = None
        self._recording.notes += plan.notes
        with lake:
            return self._recording.carry_out(lake, lambda claims: self._rounds(plan, dataset, lake, claims))

    def _rounds(self, plan: Plan, dataset: Dataset, lake: Lake, claims: Claims) -> None:
        _discard_leftovers(plan)
        for _ in range(MAX_ROUNDS):
            self._outcomes.failures.clear()
            if self._work(plan, dataset, lake, claims) and not self._outdated():
                break
            plan, dataset = make_plan(self.pipeline, lake)
            self._refuse_removal(plan)
        else:
            if not self._outcomes.failures:
                told = f"Other runs took up other revisions or files under each of {MAX_ROUNDS} attempts. Run again."
                self._outcomes.fail(self.pipeline.dataset.path, RunFailed(told))

    def _first_plan(self) -> tuple[Plan, Dataset, Lake]:
        """Plan against the lake if there is one; it is made only once the input is known to be good."""
        if not catalog_exists(self.pipeline.lake):
            plan, dataset = make_plan(self.pipeline, None)
            _open_for_the_first_time(plan, dataset)
            lake = Lake(self.pipeline.lake)
            ensure_system_tables(lake)
            return plan, dataset, lake
        lake = Lake(self.pipeline.lake)
        try:
            ensure_system_tables(lake)
            with self._recording.failing(lake):
                plan, dataset = make_plan(self.pipeline, lake)
                self._refuse_removal(plan)
                if not plan.done:
                    _open_for_the_first_time(plan, dataset)
        except BaseException:
            lake.close()
            raise
        return plan, dataset, lake

    def _refuse_removal(self, plan: Plan) -> None:
        if not self.yes:
            refuse_removal(plan)

    def _work(self, plan: Plan, dataset: Dataset, lake: Lake, claims: Claims) -> bool:
        """Carry out one plan; False if the lake moved on meanwhile and a new plan is needed."""
        for note in plan.notes:
            self.progress.note(note)
        self._record.version, self._record.revision = plan.version, plan.revision
        if plan.is_up_to_date and plan.previous_revision == plan.revision:
            return True
        self._recording.expect(plan.estimate)
        self.progress.planned(
            Expected(
                pipeline=self.pipeline.name,
                version=plan.version,
                revision=plan.revision,
                num_shards=len(plan.computed),
                num_rows=plan.num_rows,
                more=any(not file.problem for file in plan.uncut),
            )
        )
        version = Version(plan.spec, plan.kept, plan.table)
        workspace = Workspace(
            self.pipeline,
            version,
            lake,
            claims,
            revision=plan.revision,
            run_id=self.run_id,
            dataset=dataset,
            tally=self._recording.tally,
        )
        if not self._patiently(lambda: adopt(lake, workspace.target, adoption_of(plan))):
            return False
        workspace.store.sweep()
        with self._recording.executing(self.executor_type(workspace, self.progress), workspace) as executor:
            if plan.rewrite:
                self._recording.num_rewritten += rewrite_kept(plan, workspace, self._patiently)
            self._copy_known(plan, workspace)
            complete = self._stream(plan, workspace, executor)
        if not self._recording.over_quarantine():
            self._record.num_rows_removed += self._patiently(lambda: remove_vanished(lake, workspace.target))
        return complete

    def _copy_known(self, plan: Plan, workspace: Workspace) -> None:
        """Files all of whose shards were computed at another place are copied, all in one transaction."""
        files = [file for file in plan.files if _is_pure_copy(file, plan)]
        items = [Copied(item.shard, item.copy_from or "") for file in files for item in file.todo]
        settled = [file for file in plan.files if file.replaces and not file.todo and not file.uncut]
        cut = [(file.file.path, file.shards) for file in (*files, *settled)]
        if items or cut or plan.renamed:
            outcome = self._patiently(
                lambda: commit_shards(workspace.lake, workspace.target, items, cut=cut, moved=tuple(plan.renamed))
            )
            self._outcomes.count(outcome)
            self._outcomes.show(outcome, "")

    def _stream(self, plan: Plan, workspace: Workspace, executor: Executor) -> bool:
        """Send every shard that is to be computed through the stages, a bounded number at a time.

        False if other runs cut text files meanwhile: what they found there is known to a new plan.
        """
        in_flight = InFlight(self._outcomes, workspace, executor, self._cost_limit(plan))
        planned = [item.shard.shard_id for file in plan.files if not file.uncut for item in _computed(file)]
        in_flight.request_ids = self._patiently(lambda: _request_ids(workspace, planned))
        sending = _Sending(plan, workspace, executor, in_flight, self._outcomes, self._patiently)
        # Files that replace none come first: what they repeat may be what the others replace.
        for replaces in (False, True):
            repeats = sending.send([file for file in plan.files if file.replaces is replaces])
            for repeat in repeats:
                self._commit_repeat(workspace, repeat)
        in_flight.release_held()
        for file in sending.elsewhere:
            if workspace.wait_for_claim(file.file.path, file.file.path):
                workspace.release(file.file.path)
        return not sending.elsewhere

    def _cost_limit(self, plan: Plan) -> CostLimit:
        """One for all plans of the run."""
        if self._limit is None:
            self._limit = CostLimit(self.pipeline, self.max_cost, rate=plan.rate)
        self._limit.settle(self._record)
        self._limit.rate, self._limit.bytes_to_compute = plan.rate, plan.bytes_to_compute
        return self._limit

    def _commit_repeat(self, workspace: Workspace, repeat: Copied) -> None:
        try:
            outcome = self._patiently(lambda: commit_shards(workspace.lake, workspace.target, [repeat]))
            self._outcomes.count(outcome)
            self._outcomes.show(outcome, "")
        except TidemillError as e:
            self._outcomes.fail(repeat.shard.file.path, e)

    def _outdated(self) -> bool:
        """Whether a new plan would mend all that failed: files changed under the run, or a shard to copy is gone."""
        return bool(self._outcomes.failures) and all(
            isinstance(error, FileChanged | ShardGone) for _, error in self._outcomes.failures
        )


class _Sending:
    """What of a plan is to be computed, sent on its way; text files are cut as there is room for their shards."""

    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        executor: Executor,
        in_flight: InFlight,
        outcomes: Outcomes,
        patiently: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._plan, self._workspace, self._executor, self._in_flight = plan, workspace, executor, in_flight
        self._outcomes, self._patiently = outcomes, patiently
        self._known = {shard.content: shard_id for shard_id, shard in plan.done.items()}
        self._repeats: list[Copied] = []
        self.elsewhere: list[FilePlan] = []
        """Text files that another run is cutting."""

    def send(self, files: Sequence[FilePlan]) -> list[Copied]:
        """Send the files' shards, and wait until they are committed; returns what is to be copied then."""
        self._repeats = []
        due = [file for file in files if (file.todo or file.uncut) and not _is_pure_copy(file, self._plan)]
        self._cut_together([file for file in due if file.uncut and not file.replaces])
        for file in due:
            if not file.uncut:
                self._send_file(file, self._planned(file))
        self._cut_changed([file for file in due if file.uncut and file.replaces])
        self._in_flight.drain()
        return self._repeats

    def _send_file(self, file: FilePlan, requests: Iterator[Request]) -> None:
        with self._in_flight.file(file):
            for request in requests:
                self._in_flight.send(file, request)

    def _planned(self, file: FilePlan) -> Iterator[Request]:
        """The shards of a file that is cut, in order."""
        computed = list(_computed(file))
        self._repeats += [Copied(item.shard, item.copy_from or "") for item in file.todo if item not in computed]
        ids = self._in_flight.request_ids
        for item in computed:
            if item.shard.shard_id in ids:
                yield Request(item.shard, ids[item.shard.shard_id])

    def _cut_together(self, files: Sequence[FilePlan]) -> None:
        """Cut files that replace none. One that cannot be read on fails alone; what was found of it is sent."""
        reading = Reading(files, together=self._plan.pipeline.limits.shards_together)
        try:
            while reading.is_open:
                self._in_flight.wait_for_room()
                read_on(reading, self._workspace, self._executor, self._outcomes, self._plan.done.keys())
                for file, request in self._patiently(lambda: reading.ask(self._workspace)):
                    self._send_new(file, request)
                # Their readers still hold these shards' bytes, and few readers stay open.
                self._in_flight.send_small()
                self._in_flight.wait_until_read()
                reading.leave_ended(self._workspace)
        finally:
            reading.close(self._workspace)
        self.elsewhere += reading.elsewhere

    def _send_new(self, file: FilePlan, request: Request) -> None:
        """Send a shard, unless its content is computed at another place: it is copied from there afterwards."""
        content, shard_id = request.shard.slice.content, request.shard.shard_id
        source = self._known.setdefault(content, shard_id)
        if source == shard_id:
            self._in_flight.send(file, request)
        else:
            self._repeats.append(Copied(request.shard, source))

    def _cut_changed(self, files: Sequence[FilePlan]) -> None:
        """Cut files that replace others: small ones together, and where that fails each by itself."""
        for group in small_together(
            files, lambda file: file.file.size, most=self._plan.pipeline.limits.shards_together
        ):
            if len(group) == 1 or not self._swapped_together(group):
                for file in group:
                    self._cut_alone(file)

    def _swapped_together(self, files: Sequence[FilePlan]) -> bool:
        """Cut, compute and commit files at once; False, and nothing is committed, if any of them stands in the way."""
        reading = Reading(files, together=self._plan.pipeline.limits.shards_together)
        try:
            self._in_flight.settle_all()
            self._executor.submit(stages.cut, reading.label, reading, self._plan.done.keys()).result()
            if reading.files or reading.elsewhere:
                return False
            cut = [(cutting.file.file.path, cutting.shards) for cutting in reading.ended]
            found = self._patiently(lambda: reading.ask(self._workspace))
            return self._in_flight.swap_together(found, cut)
        except ENDS_RUN:
            raise
        except Exception as e:
            if is_interrupt(e):
                raise
            return False
        finally:
            reading.close(self._workspace)

    def _cut_alone(self, file: FilePlan) -> None:
        """Cut a file that replaces another, all of whose shards are committed together."""
        reading = Reading([file], together=self._plan.pipeline.limits.shards_together)
        if reading.first(self._workspace) is None:
            self.elsewhere.append(file)
            return
        try:
            self._send_file(file, self._found_in(reading))
        finally:
            reading.close(self._workspace)

    def _found_in(self, reading: Reading) -> Iterator[Request]:
        """The shards of the one file that is read, in order."""
        while reading.is_open:
            self._in_flight.wait_for_room()
            self._executor.submit(stages.cut, reading.label, reading, self._plan.done.keys()).result()
            for _, request in self._patiently(lambda: reading.ask(self._workspace)):
                yield request
            self._in_flight.wait_until_read()
            self._in_flight.cut += reading.leave_ended(self._workspace)


def read_on(
    reading: Reading, workspace: Workspace, executor: Executor, outcomes: Outcomes, done: Collection[str]
) -> None:
    """Cut text files as far as their shards go together; a file that cannot be read on fails alone, and is left off."""
    if not reading.files:  # What was found is still to be told.
        return
    try:
        executor.submit(stages.cut, reading.label, reading, done).result()
    except ENDS_RUN:
        raise
    except Exception as e:  # noqa: BLE001
        outcomes.fail(reading.drop(workspace).file.path, e)


def _request_ids(workspace: Workspace, shard_ids: Sequence[str]) -> dict[str, str]:
    with workspace.lake.reached():
        return request_ids(workspace.lake.cursor(), workspace.target, shard_ids)


def refuse_removal(plan: Plan) -> None:
    """Raises:
    LimitExceeded: vanished files would take more rows than `limits.max_removed`.
    """
    limit = plan.pipeline.limits.max_removed
    if plan.num_rows_removed > limit * plan.num_rows_before:
        raise LimitExceeded(
            f"Gone from the dataset: {counted(len(plan.removed), 'file')}, and {plan.num_rows_removed:,} of "
            f"{plan.num_rows_before:,} rows with them: more than limits.max_removed = {limit:g}. Nothing was done. "
            "If that is right, run again with --yes."
        )


def _open_for_the_first_time(plan: Plan, dataset: Dataset) -> None:
    """Find out before anything is written whether the version can be computed here at all."""
    preparer = load_preparer(plan.spec)
    if plan.spec.joined_text.as_parts and _has_chats(plan, dataset):
        (reason,) = preparer.prepare(pa.table({"text": [A_CHAT]}))["reason"].to_pylist()
        if reason is not None:
            raise ModelError(reason)
    if is_served(plan.spec.model):
        load_runner(plan.spec, plan.pipeline.inference)
    else:
        resolve_device(plan.pipeline.inference.device)


def _has_chats(plan: Plan, dataset: Dataset) -> bool:
    """Whether the first file shows the column of texts as one of messages."""
    (name, *others), files = plan.spec.text, plan.readable
    with suppress(*FAILS_ALONE):  # Whoever reads its rows is told.
        schema = dataset.reader(files[0]).schema() if files and not others else pa.schema([])
        return name in schema.names and are_chats(schema.field(name).type)
    return False


def _computed(file: FilePlan) -> Iterator[ShardPlan]:
    """What is computed of a file: one that replaces another is computed whole, for its rows are swapped at once."""
    return (item for item in file.todo if item.action == "compute" or file.replaces)


def adoption_of(plan: Plan) -> Adoption:
    spec = plan.pipeline.dataset
    return Adoption(
        files=[(file.file, None if file.uncut else len(file.shards)) for file in plan.files],
        shards=[shard for file in plan.files if file.trusted for shard in file.shards],
        requests=[(item.shard.shard_id, file.state) for file in plan.files for item in _computed(file)],
        spec=plan.spec.to_json(),
        kept=[column.to_json() for column in plan.kept],
        dataset=named(spec),
        expected_target=plan.previous_revision,
    )


def _discard_leftovers(plan: Plan) -> None:
    """Remove predictions that are committed already, whose run was killed before it could let go of them."""
    store = Store(plan.pipeline.store.path, max_bytes=int(plan.pipeline.store.max_bytes))
    if found := store.names("predictions"):
        done = [
            predictions_file(plan.pipeline.name, plan.version, shard.shard_id, shard.request_id).name
            for shard in plan.done.values()
        ]
        store.discard(found.intersection(done))


def _is_pure_copy(file: FilePlan, plan: Plan) -> bool:
    """Whether all that a file needs lies in the table already, at another place."""
    return (
        bool(file.todo)
        and not file.uncut
        and all(item.action == "copy" and item.copy_from in plan.done for item in file.todo)
    )
