"""One stage by itself: it does what is pending for it, and nothing else.

A stage looks at what is wanted (open requests), at what lies in the store and
at the ledger, each time anew: so it does not matter whether it was missed,
started twice, late or out of order. What another run is at is left to it.
Only `ingest` looks at the source; only `materialize` writes results.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tidemill.config import Pipeline, Stage
from tidemill.errors import ENDS_RUN, CostReached, InputError, LakeError, LimitExceeded, StoreFileInvalid
from tidemill.lake import Lake, catalog_exists, ensure_system_tables
from tidemill.lake.ducklake.claims import Claims
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.lake.pipelines import load_state
from tidemill.lake.requests import Request, open_pages, open_requests, versions_in_demand
from tidemill.lake.runs import known_sum
from tidemill.masking import shown_catalog
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.estimates import Rate
from tidemill.planning.pending import PendingFile, pending_copies, pending_files, pending_requests
from tidemill.planning.plan import Plan, make_plan
from tidemill.planning.version_tables import Version
from tidemill.progress import Progress
from tidemill.results.adoption import adopt
from tidemill.results.commit import COMMITTED_BYTES, commit_shards, remove_vanished
from tidemill.running import stages
from tidemill.running.executor import Executor, Future, ThreadExecutor
from tidemill.running.in_flight import STORE_BYTES_PER_TEXT_BYTE
from tidemill.running.kept import rewrite_kept
from tidemill.running.recording import Recording, RunResult
from tidemill.running.run import adoption_of, read_on, refuse_removal
from tidemill.running.stages import Held, Ingested, Predicted, Reading, Tokenized, label_of, paths_of, predicted_before
from tidemill.running.stages.workspace import Workspace, reopen
from tidemill.shards import TOGETHER_BYTES, small_together
from tidemill.sources.dataset import Dataset
from tidemill.storage.store import StoreFile


class StageRun:
    """One run of one stage, with its row in `_runs`."""

    def __init__(
        self,
        pipeline: Pipeline,
        stage: Stage,
        *,
        progress: Progress | None = None,
        yes: bool = False,
        why: str = "",
        flow_run_id: str | None = None,
        executor: Callable[[Workspace, Progress], Executor] = ThreadExecutor,
        max_cost: float | None = None,
    ) -> None:
        self.pipeline, self.stage, self.yes = pipeline, stage, yes
        self._recording = Recording(pipeline, stage, why=why, flow_run_id=flow_run_id, progress=progress)
        self._executor_type = executor
        self._cost_limit = CostLimit(pipeline, max_cost, rate=Rate())

    @property
    def run_id(self) -> str:
        return self._recording.run_id

    def execute(self) -> RunResult:
        """Do what is pending here. `num_shards` of the result says how much that was.

        Raises:
            InputError: the pipeline cannot be worked on; nothing was written.
            LimitExceeded: vanished files would take more rows than `limits.max_removed`; nothing was written.
        """
        if self.stage == "ingest":
            return self._ingest()
        if not catalog_exists(self.pipeline.lake):
            where = shown_catalog(self.pipeline.lake.catalog)
            raise LakeError(f"There is no lake at {where} yet. The ingest stage makes it.")
        with Lake(self.pipeline.lake) as lake:
            ensure_system_tables(lake)
            with self._recording.failing(lake):
                if load_state(lake.cursor(), self.pipeline.name) is None:
                    raise LakeError(f"The lake has no pipeline {self.pipeline.name} yet. The ingest stage makes it.")
            return self._recording.carry_out(lake, lambda claims: self._later_stage(lake, claims))

    def _ingest(self) -> RunResult:
        lake = Lake(self.pipeline.lake) if catalog_exists(self.pipeline.lake) else None
        if lake is not None:
            ensure_system_tables(lake)
        try:
            with nullcontext() if lake is None else self._recording.failing(lake):
                plan, dataset = make_plan(self.pipeline, lake)
                if not self.yes:
                    refuse_removal(plan)
            if lake is None:
                lake = Lake(self.pipeline.lake)
                ensure_system_tables(lake)
            writable = lake
            return self._recording.carry_out(writable, lambda claims: self._read(plan, dataset, writable, claims))
        finally:
            if lake is not None:
                lake.close()

    def _read(self, plan: Plan, dataset: Dataset, lake: Lake, claims: Claims) -> None:
        """Make the dataset's revision the target, cut its text files, and read every wanted shard into the store."""
        record, tally = self._recording.record, self._recording.tally
        record.version, record.revision = plan.version, plan.revision
        version = Version(plan.spec, plan.kept, plan.table)
        workspace = Workspace(
            self.pipeline,
            version,
            lake,
            claims,
            revision=plan.revision,
            run_id=self.run_id,
            dataset=dataset,
            tally=tally,
        )
        if not (plan.is_up_to_date and plan.previous_revision == plan.revision):
            if not self._recording.patiently(lambda: adopt(lake, workspace.target, adoption_of(plan))):
                return  # Another run took up a newer revision; the next look sees it.
            if plan.rewrite:
                self._recording.num_rewritten += rewrite_kept(plan, workspace, self._recording.patiently)
        with self._executor(workspace) as executor:
            self._cut(workspace, executor, plan)
        for name in versions_in_demand(lake.cursor(), self.pipeline.name):
            self._read_version(lake, claims, name)

    def _read_version(self, lake: Lake, claims: Claims, name: str) -> None:
        for requests in open_pages(lake.cursor(), self.pipeline.name, name):
            self._read_page(lake, claims, name, requests)

    def _read_page(self, lake: Lake, claims: Claims, name: str, requests: Sequence[Request]) -> None:
        run: dict[str, Any] = {"run_id": self.run_id, "tally": self._recording.tally}
        unread = _unread(reopen(self.pipeline, lake, claims, name, **run), requests)
        if not unread:
            return
        workspace = reopen(self.pipeline, lake, claims, name, requests=unread, **run)
        with self._executor(workspace) as executor:
            self._each(
                workspace,
                self._recording.unchanged(workspace, unread),
                lambda requests: self._ingest_all(workspace, executor, requests),
            )

    def _cut(self, workspace: Workspace, executor: Executor, plan: Plan) -> None:
        """Cut the text files that nobody else is cutting, and read their shards; a file that fails, fails alone."""
        reading = Reading(plan.uncut, together=self.pipeline.limits.shards_together)
        try:
            while reading.is_open:
                read_on(reading, workspace, executor, self._recording.outcomes, plan.done.keys())
                found = self._recording.patiently(lambda: reading.ask(workspace))
                self._each(
                    workspace,
                    [request for _, request in found],
                    lambda requests: self._ingest_all(workspace, executor, requests),
                )
                reading.leave_ended(workspace)
        finally:
            reading.close(workspace)

    def _ingest_all(self, workspace: Workspace, executor: Executor, requests: Sequence[Request]) -> None:
        missing = [request for request in requests if not workspace.store.has(workspace.rows_file(request.shard))]
        if not missing:
            return
        needed = STORE_BYTES_PER_TEXT_BYTE * sum(request.shard.slice.text_bytes for request in missing)
        if not workspace.store.has_room(needed) and not workspace.store.make_room(
            needed, needed=_names_wanted(workspace)
        ):
            raise LimitExceeded(
                "The store is full of files that the next stages wait for. Let them run, or raise store.max_bytes."
            )
        executor.submit(stages.ingest, label_of(missing), missing).result()
        self._count(missing)

    def _later_stage(self, lake: Lake, claims: Claims) -> None:
        cursor = lake.cursor()
        state = load_state(cursor, self.pipeline.name)
        assert state is not None
        self._recording.record.version = state.promoted_version
        self._recording.record.revision = state.target_revision
        names = versions_in_demand(cursor, self.pipeline.name)
        if self.stage == "materialize" and state.promoted_version not in names:
            names.insert(0, state.promoted_version)
        work = {"tokenize": self._tokenize, "infer": self._infer, "materialize": self._materialize}[self.stage]
        for name in names:
            workspace = reopen(self.pipeline, lake, claims, name, run_id=self.run_id, tally=self._recording.tally)
            try:
                with self._executor(workspace) as executor:
                    work(workspace, executor)
            except InputError as e:  # One version that cannot be opened here keeps no other from its work.
                self._recording.outcomes.fail(name, e)

    def _tokenize(self, workspace: Workspace, executor: Executor) -> None:
        pending = self._unpredicted(workspace, tokenized=False)

        def submit(requests: Sequence[Request]) -> Future:
            ingested = [Ingested(request, workspace.rows_file(request.shard)) for request in requests]
            return executor.submit(stages.tokenize, label_of(requests), ingested)

        def ready(request: Request) -> bool:
            return _is_whole(workspace, workspace.rows_file(request.shard))

        self._pump(workspace, pending, ready, submit, lambda requests, _: self._count(requests))

    def _infer(self, workspace: Workspace, executor: Executor) -> None:
        pending = self._unpredicted(workspace, tokenized=True)
        record = self._recording.record
        cost_limit = self._cost_limit
        cost_limit.rate = workspace.rate()
        workspace.check_cost = cost_limit.check_spent

        def ready(request: Request) -> bool:
            files = (workspace.rows_file(request.shard), workspace.tokens_file(request.shard))
            broken = [file for file in files if not _is_whole(workspace, file)]
            return not broken and not workspace.store.has(workspace.predictions_file(request))

        def submit(requests: Sequence[Request]) -> Future:
            for request in requests:
                cost_limit.check(request, record)
            tokenized = [
                Tokenized(Ingested(request, workspace.rows_file(request.shard)), workspace.tokens_file(request.shard))
                for request in requests
            ]
            return executor.submit(stages.infer, label_of(requests), tokenized)

        def count(requests: Sequence[Request], predicted: Sequence[Predicted]) -> None:
            # Predictions that an older Tidemill left in the store say nothing of unchanged rows.
            unchanged_tokens = sum(item.facts.get("num_unchanged_tokens", 0) for item in predicted)
            record.num_tokens += sum(item.facts["num_tokens"] for item in predicted) - unchanged_tokens
            record.num_unchanged += sum(item.facts.get("num_unchanged", 0) for item in predicted)
            record.num_unchanged_tokens += unchanged_tokens
            record.num_new_tokens = known_sum(
                [record.num_new_tokens, *(item.facts.get("num_new_tokens") for item in predicted)]
            )
            record.num_quarantined += sum(item.num_quarantined for item in predicted)
            self._count(requests)

        self._pump(workspace, pending, ready, submit, count)

    def _materialize(self, workspace: Workspace, executor: Executor) -> None:
        """Commit what is predicted, copy what was computed at another place, and let go of what vanished."""
        outcomes = self._recording.outcomes
        self._copy(workspace)
        cursor, target = workspace.lake.cursor(), workspace.target
        # One transaction takes as many as wait, however large: what it costs, it costs once.
        self._each(
            workspace,
            pending_requests(cursor, target),
            lambda requests: self._commit_all(workspace, executor, requests),
            within=COMMITTED_BYTES,
        )
        held = [
            file
            for file in pending_files(workspace.lake.cursor(), target)
            if file.is_whole and not self._commit_file(workspace, executor, file)
        ]
        for file in held:
            if not self._commit_file(workspace, executor, file):
                waiting = [item for item in self._predictions_of(workspace, file) if item is not None]
                workspace.tally.add(
                    sum(item.num_rows for item in waiting), sum(item.num_quarantined for item in waiting)
                )
        self._copy(workspace)
        if not self._recording.over_quarantine():
            removed = self._recording.patiently(lambda: remove_vanished(workspace.lake, workspace.target))
            outcomes.record.num_rows_removed += removed

    def _copy(self, workspace: Workspace) -> None:
        copies, moved = pending_copies(workspace.lake.cursor(), workspace.target)
        if copies:
            outcome = self._recording.patiently(
                lambda: commit_shards(workspace.lake, workspace.target, copies, moved=moved)
            )
            self._recording.outcomes.count(outcome)
            self._recording.outcomes.show(outcome, "")

    def _commit_all(self, workspace: Workspace, executor: Executor, requests: Sequence[Request]) -> None:
        """Commit those of the requests that are predicted, together."""
        predicted = [item for request in requests if (item := _predictions(workspace, request)) is not None]
        if predicted:
            outcome = executor.submit(stages.materialize, label_of(requests), predicted).result()
            self._recording.outcomes.show(outcome, paths_of(requests))

    def _predictions_of(self, workspace: Workspace, file: PendingFile) -> list[Predicted | None]:
        return [_predictions(workspace, request) for request in file.requests]

    def _commit_file(self, workspace: Workspace, executor: Executor, file: PendingFile) -> bool:
        """Commit a file that replaces what readers see, if all of it is predicted; False if it is held back."""
        predicted = self._predictions_of(workspace, file)
        whole = [item for item in predicted if item is not None]
        if len(whole) < len(predicted):
            return True
        cut = [(file.path, file.shards)]
        with self._recording.outcomes.failing_alone(file.path):
            outcome = executor.submit(stages.materialize, file.path, whole, cut=cut, replaces=True).result()
            if isinstance(outcome, Held):
                return False
            self._recording.outcomes.show(outcome, file.path)
        return True

    def _unpredicted(self, workspace: Workspace, *, tokenized: bool) -> Iterator[Request]:
        """Open requests whose rows lie in the store without predictions, and with their tokens or without."""
        rows, tokens, predictions = (workspace.store.names(kind) for kind in ("rows", "tokens", "predictions"))
        for request in open_requests(workspace.lake.cursor(), self.pipeline.name, workspace.target.version):
            if (
                workspace.rows_file(request.shard).name in rows
                and (workspace.tokens_file(request.shard).name in tokens) is tokenized
                and workspace.predictions_file(request).name not in predictions
            ):
                yield request

    def _each(
        self,
        workspace: Workspace,
        requests: Iterable[Request],
        work: Callable[[Sequence[Request]], None],
        *,
        within: int = TOGETHER_BYTES,
    ) -> None:
        """Work on what nobody else is at, in groups of at most so much text; one that fails, fails alone."""
        for group in self._claimed_groups(workspace, requests, within=within):
            try:
                self._apart(group, work)
            finally:
                _release(workspace, group)

    def _apart(self, group: Sequence[Request], work: Callable[[Sequence[Request]], None]) -> None:
        """Work on a group; if that fails, on each of it by itself."""
        alone = len(group) == 1
        with self._recording.outcomes.failing_alone(group[0].shard.file.path) if alone else nullcontext():
            try:
                work(group)
            except Exception as e:
                if alone or isinstance(e, ENDS_RUN) or is_interrupt(e):
                    raise
                for request in group:
                    self._apart([request], work)

    def _claimed_groups(
        self,
        workspace: Workspace,
        requests: Iterable[Request],
        ready: Callable[[Request], bool] = lambda _: True,
        *,
        within: int = TOGETHER_BYTES,
    ) -> Iterator[Sequence[Request]]:
        """Groups of small shards, and others alone, of what is wanted still.

        Without those that another run is at, and those that are not `ready`: that is asked
        first, so that what another run did between its listing and its claim is seen as
        done in the store, or in the lake.
        """
        most = self.pipeline.limits.shards_together
        for group in small_together(requests, lambda request: request.shard.slice.text_bytes, most=most, within=within):
            claimed = [request for request in group if workspace.claim(request)]
            waiting = [request for request in claimed if ready(request)]
            wanted = self._recording.patiently(functools.partial(workspace.still_wanted, waiting)) if waiting else {}
            _release(workspace, [request for request in claimed if request.shard.shard_id not in wanted])
            if wanted:
                yield tuple(wanted.values())

    def _pump(
        self,
        workspace: Workspace,
        requests: Iterable[Request],
        ready: Callable[[Request], bool],
        submit: Callable[[Sequence[Request]], Future],
        finished: Callable[[Sequence[Request], Any], None],
    ) -> None:
        """As `_each`, with `limits.shards_in_flight` groups on their way at one time."""
        waiting: deque[tuple[Sequence[Request], Future]] = deque()

        def settle() -> None:
            group, future = waiting.popleft()
            results = iter([future])  # What was submitted first; a group that is taken apart is submitted anew.

            def work(part: Sequence[Request]) -> None:
                finished(part, (next(results, None) or submit(part)).result())

            try:
                self._apart(group, work)
            finally:
                _release(workspace, group)

        reached: CostReached | None = None
        for group in self._claimed_groups(workspace, requests, ready):
            if len(waiting) >= self.pipeline.limits.shards_in_flight:
                settle()
            try:
                waiting.append((group, submit(group)))
            except CostReached as e:
                _release(workspace, group)
                reached = e
                break
        while waiting:
            settle()
        if reached is not None:
            raise reached

    def _count(self, requests: Sequence[Request]) -> None:
        record = self._recording.record
        for request in requests:
            record.num_shards += 1
            num_rows = len(request.rows) if request.rows is not None else request.shard.slice.num_rows
            record.num_rows += num_rows
            self._recording.progress.ingested(request.shard.file.path, rows=num_rows)

    def _executor(self, workspace: Workspace) -> AbstractContextManager[Executor]:
        executor = self._executor_type(workspace, self._recording.progress)
        return self._recording.executing(executor, workspace)


def _release(workspace: Workspace, requests: Sequence[Request]) -> None:
    for request in requests:
        workspace.release(request)


def _unread(workspace: Workspace, requests: Sequence[Request]) -> list[Request]:
    """Requests without rows in the store; the last stage needs them too."""
    rows = workspace.store.names("rows")
    return [request for request in requests if workspace.rows_file(request.shard).name not in rows]


def _names_wanted(workspace: Workspace) -> set[str]:
    """Names of those files in the store that open requests of this version need, whoever works on them."""
    target, store = workspace.target, workspace.store
    present = store.names("rows") | store.names("tokens") | store.names("predictions")
    requests = open_requests(workspace.lake.cursor(), target.pipeline, target.version)
    return present.intersection(name for request in requests for name in _names(workspace, request))


def _names(workspace: Workspace, request: Request) -> Iterator[str]:
    yield workspace.rows_file(request.shard).name
    yield workspace.tokens_file(request.shard).name
    yield workspace.predictions_file(request).name


def _is_whole(workspace: Workspace, file: StoreFile) -> bool:
    """Whether a stage's input is there and valid; one that is not is removed, so that it is made again upstream."""
    if workspace.store.has(file):
        return True
    workspace.store.remove(file)
    return False


def _predictions(workspace: Workspace, request: Request) -> Predicted | None:
    """The request's predictions with the rows that they belong to, if both are whole."""
    if workspace.predictions_file(request).name not in workspace.listed_predictions:
        return None
    try:
        predicted = predicted_before(workspace, request)
    except StoreFileInvalid:
        workspace.store.remove(workspace.predictions_file(request))
        return None
    return predicted if _is_whole(workspace, predicted.rows) else None
