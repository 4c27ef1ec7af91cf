"""A backfill carried out. Each shard's results are replaced in one transaction; until then readers see the old ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from tidemill.config import Pipeline
from tidemill.errors import RunFailed, Stopped, counted
from tidemill.lake import Lake
from tidemill.lake.backfills import close_if_done, load_backfill
from tidemill.lake.ducklake.claims import Claims, is_alive
from tidemill.lake.requests import Request, open_pages
from tidemill.lake.runs import RunRecord, costs_of_backfill
from tidemill.planning.backfill_plan import tokens_to_compute
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.estimates import Rate, estimate
from tidemill.planning.plan import FilePlan
from tidemill.planning.versions import most_new_tokens
from tidemill.progress import Expected, Progress
from tidemill.running.executor import Executor, ThreadExecutor
from tidemill.running.in_flight import InFlight
from tidemill.running.recording import Recording, RunResult
from tidemill.running.stages.workspace import Workspace, reopen
from tidemill.shards import Shard

MAX_ROUNDS = 4


class BackfillRun:
    """Work on a backfill: on all that is open of it, or on one tranche's shards."""

    def __init__(
        self,
        pipeline: Pipeline,
        backfill_id: str,
        *,
        shards: Sequence[str] | None = None,
        progress: Progress | None = None,
        why: str = "",
        flow_run_id: str | None = None,
        executor: Callable[[Workspace, Progress], Executor] = ThreadExecutor,
    ) -> None:
        self.pipeline, self.backfill_id, self._shards = pipeline, backfill_id, shards
        self._recording = Recording(
            pipeline, "backfill", why=why, flow_run_id=flow_run_id, progress=progress, backfill_id=backfill_id
        )
        self._executor_type = executor
        self._limit: CostLimit | None = None

    @property
    def run_id(self) -> str:
        return self._recording.run_id

    def execute(self) -> RunResult:
        """Compute and commit, shard by shard.

        Raises:
            LakeError: there is no such backfill.
        """
        with Lake(self.pipeline.lake) as lake:
            with self._recording.failing(lake):
                version = load_backfill(lake.cursor(), self.backfill_id)["version"]
            self._recording.record.version = version
            return self._recording.carry_out(lake, functools.partial(self._rounds, lake, version))

    def _rounds(self, lake: Lake, version: str, claims: Claims) -> None:
        for number in range(MAX_ROUNDS):
            if number and self._recording.outcomes.failures:
                break
            pages = self._pages(lake, version)
            if (page := next(pages, None)) is None:
                break
            if number == 0:
                self._expect(lake, version, claims)
            while page is not None:
                self._work(lake, version, claims, page)
                page = next(pages, None)
        self._refuse_cancelled(lake)
        self._tell_what_is_left(lake, version)
        closing = functools.partial(close_if_done, backfill_id=self.backfill_id)
        self._recording.patiently(lambda: lake.write(closing, message=f"backfill {self.backfill_id}"))

    def _tell_what_is_left(self, lake: Lake, version: str) -> None:
        left = chain.from_iterable(self._pages(lake, version))
        first = next(left, None)
        if first is not None and not self._recording.outcomes.failures:
            num_left = 1 + sum(1 for _ in left)
            told = f"Left: {counted(num_left, 'shard')}. The same command goes on with them."
            self._recording.outcomes.fail(first.shard.file.path, RunFailed(told))

    def _refuse_cancelled(self, lake: Lake) -> None:
        if load_backfill(lake.cursor(), self.backfill_id)["state"] == "cancelled":
            self._recording.notes.append(f"The backfill {self.backfill_id} was cancelled.")
            raise Stopped("The backfill was cancelled.")

    def _pages(self, lake: Lake, version: str) -> Iterator[list[Request]]:
        return open_pages(
            lake.cursor(), self.pipeline.name, version, backfill_id=self.backfill_id, shard_ids=self._shards
        )

    def _work(self, lake: Lake, version: str, claims: Claims, requests: Sequence[Request]) -> None:
        recording = self._recording
        workspace = reopen(
            self.pipeline, lake, claims, version, run_id=self.run_id, tally=recording.tally, requests=requests
        )
        recording.record.revision = workspace.target.revision
        rate = workspace.rate()
        with recording.executing(self._executor_type(workspace, recording.progress), workspace) as executor:
            in_flight = InFlight(recording.outcomes, workspace, executor, self._cost_limit(lake, claims, rate))
            for file, of_file in _by_file(recording.unchanged(workspace, requests)):
                with in_flight.file(file):
                    for request in of_file:
                        in_flight.send(file, request)
            in_flight.drain()

    def _expect(self, lake: Lake, version: str, claims: Claims) -> None:
        """Say before the first shard what all of them come to."""
        workspace = reopen(self.pipeline, lake, claims, version, run_id=self.run_id, tally=self._recording.tally)
        target, num_shards, num_rows = workspace.target, 0, 0

        def work() -> Iterator[tuple[Shard, int]]:
            nonlocal num_shards, num_rows
            for request in chain.from_iterable(self._pages(lake, version)):
                of_shard = request.shard.slice.num_rows if request.rows is None else len(request.rows)
                num_shards += 1
                num_rows += of_shard
                yield request.shard, of_shard

        rate = workspace.rate()
        num_tokens = tokens_to_compute(lake.cursor(), target.pipeline, workspace.spec, rate, work())
        expected = estimate(
            rate,
            num_tokens,
            self.pipeline.cost,
            num_rows=num_rows,
            max_new_tokens=most_new_tokens(workspace.spec),
        )
        self._recording.expect(expected)
        self._recording.progress.planned(
            Expected(target.pipeline, target.version, target.revision, num_shards, num_rows)
        )

    def _cost_limit(self, lake: Lake, claims: Claims, rate: Rate) -> CostLimit:
        """One for all pages of requests."""
        if self._limit is None:
            self._limit = CostLimit(
                self.pipeline,
                load_backfill(lake.cursor(), self.backfill_id)["max_cost"],
                rate=rate,
                spent_elsewhere=lambda: _spent(lake, claims, self.pipeline, self.backfill_id, self._recording.record),
            )
        self._limit.settle(self._recording.record)
        self._limit.rate = rate
        return self._limit


def _by_file(requests: Sequence[Request]) -> Iterator[tuple[FilePlan, list[Request]]]:
    """The requests of each file, in order."""
    of_file: dict[str, list[Request]] = {}
    for request in requests:
        of_file.setdefault(request.shard.file.path, []).append(request)
    for found in of_file.values():
        yield FilePlan(found[0].shard.file, "unfinished", tuple(request.shard for request in found), ()), found


def _spent(lake: Lake, claims: Claims, pipeline: Pipeline, backfill_id: str, mine: RunRecord) -> float:
    """What other runs of a backfill cost until now; one that was killed cost until its last commit."""
    rows = costs_of_backfill(lake.cursor(), backfill_id, but_not=mine.run_id)
    per_second = (pipeline.cost.per_hour or 0.0) / 3600
    total = 0.0
    for run_id, state, cost, until_now, until_commit in rows:
        if state != "running":
            total += cost or 0.0
        else:
            total += per_second * (until_now if is_alive(claims, run_id) else until_commit)
    return total
