"""A backfill carried out. Each shard's results are replaced in one transaction; until then readers see the old ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

from tidemill.config import Pipeline
from tidemill.errors import RunFailed, Stopped, counted
from tidemill.lake import Lake
from tidemill.lake.backfills import close_if_done, load_backfill
from tidemill.lake.ducklake.claims import Claims, is_alive
from tidemill.lake.requests import Request, open_requests
from tidemill.lake.runs import RunRecord, costs_of_backfill
from tidemill.planning.backfill_plan import rows_to_compute, tokens_to_compute
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.estimates import Rate, estimate
from tidemill.planning.plan import FilePlan
from tidemill.progress import Expected, Progress
from tidemill.running.executor import Executor, ThreadExecutor
from tidemill.running.in_flight import InFlight
from tidemill.running.recording import Recording, RunResult
from tidemill.running.workspace import Workspace, reopen

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
            requests = self._open(lake, version)
            if not requests or (number and self._recording.outcomes.failures):
                break
            self._work(lake, version, claims, requests, first=number == 0)
        self._refuse_cancelled(lake)
        if (left := self._open(lake, version)) and not self._recording.outcomes.failures:
            self._recording.outcomes.fail(
                left[0].shard.file.path,
                RunFailed(f"Left: {counted(len(left), 'shard')}. The same command goes on with them."),
            )
        closing = functools.partial(close_if_done, backfill_id=self.backfill_id)
        self._recording.patiently(lambda: lake.write(closing, message=f"backfill {self.backfill_id}"))

    def _refuse_cancelled(self, lake: Lake) -> None:
        if load_backfill(lake.cursor(), self.backfill_id)["state"] == "cancelled":
            self._recording.notes.append(f"The backfill {self.backfill_id} was cancelled.")
            raise Stopped("The backfill was cancelled.")

    def _open(self, lake: Lake, version: str) -> list[Request]:
        return open_requests(
            lake.cursor(), self.pipeline.name, version, backfill_id=self.backfill_id, shard_ids=self._shards
        )

    def _work(self, lake: Lake, version: str, claims: Claims, requests: Sequence[Request], *, first: bool) -> None:
        recording = self._recording
        workspace = reopen(
            self.pipeline, lake, claims, version, run_id=self.run_id, tally=recording.tally, requests=requests
        )
        recording.record.revision = workspace.target.revision
        rate = workspace.rate()
        if first:
            self._expect(lake, workspace, rate, requests)
        with recording.executing(self._executor_type(workspace, recording.progress), workspace) as executor:
            in_flight = InFlight(recording.outcomes, workspace, executor, self._cost_limit(lake, claims, rate))
            for file, of_file in _by_file(recording.unchanged(workspace, requests)):
                with in_flight.file(file):
                    for request in of_file:
                        in_flight.send(file, request)
            in_flight.drain()

    def _expect(self, lake: Lake, workspace: Workspace, rate: Rate, requests: Sequence[Request]) -> None:
        shards = [request.shard for request in requests]
        only = {request.shard.shard_id: request.rows for request in requests if request.rows is not None}
        num_rows = sum(rows_to_compute(shard, only) for shard in shards)
        target = workspace.target
        num_tokens = tokens_to_compute(lake.cursor(), target.pipeline, workspace.spec, rate, shards, only)
        self._recording.expect(estimate(rate, num_tokens, self.pipeline.cost))
        self._recording.progress.planned(
            Expected(target.pipeline, target.version, target.revision, len(shards), num_rows)
        )

    def _cost_limit(self, lake: Lake, claims: Claims, rate: Rate) -> CostLimit:
        max_cost = load_backfill(lake.cursor(), self.backfill_id)["max_cost"]
        return CostLimit(
            self.pipeline,
            max_cost,
            rate=rate,
            spent_elsewhere=lambda: _spent(lake, claims, self.pipeline, self.backfill_id, self._recording.record),
        )


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
