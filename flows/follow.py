"""A backfill at the configured Prefect server: shared by workers where the pipeline is deployed, else run here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun

from tidemill.config import Pipeline
from tidemill.errors import ConfigError
from tidemill.flows.automations import NUM_RESTARTS
from tidemill.flows.backfill import run_backfill, submit_backfill
from tidemill.flows.client import configured_server
from tidemill.flows.flow_run import Here
from tidemill.flows.local import parameter, quietly, run_here
from tidemill.lake import Lake
from tidemill.lake.backfills import load_backfill
from tidemill.lake.requests import are_open, done_of_backfill
from tidemill.lake.runs import runs_of_backfill
from tidemill.lake.tables import table_name
from tidemill.progress import Expected, Progress
from tidemill.running.recording import RunResult

POLL_SECONDS = 1.0
SUMMED = ("num_shards", "num_rows", "num_quarantined", "num_tokens", "num_retries", "cost")


def backfill_under_prefect(pipeline: Pipeline, backfill_id: str, *, progress: Progress) -> RunResult:
    """Give a backfill to the workers and wait for them; where the pipeline is not deployed, do it in this process.

    Raises:
        ConfigError: the server does not answer.
    """
    with configured_server() as client:
        try:
            flow_runs = submit_backfill(client, pipeline, backfill_id)
        except ConfigError as e:
            progress.note(f"{e} It is run here.")
        else:
            progress.note(
                f"{len(flow_runs)} flow runs for the workers. They go on without this command; "
                "`tidemill cancel` stops them."
            )
            return _follow(client, pipeline, backfill_id, flow_runs, progress)
    here = Here(pipeline, progress)
    with quietly(str(client.api_url)):
        return run_here(here, lambda: run_backfill(parameter(pipeline), backfill_id, return_state=True))


def _follow(
    client: SyncPrefectClient, pipeline: Pipeline, backfill_id: str, flow_runs: list[FlowRun], progress: Progress
) -> RunResult:
    started, told = time.monotonic(), 0
    waiting = [flow_run.id for flow_run in flow_runs]
    facts = _facts(pipeline, backfill_id)
    progress.planned(
        Expected(pipeline.name, facts["version"], facts["revision"], facts["num_shards"], facts["num_rows"])
    )
    while True:
        waiting = [flow_run_id for flow_run_id in waiting if not _is_final(client, flow_run_id)]
        told = _tell(pipeline, backfill_id, told, progress)
        if not waiting:
            break
        time.sleep(POLL_SECONDS)
    followed = {str(flow_run.id) for flow_run in flow_runs}
    return _result(pipeline, backfill_id, facts, followed, time.monotonic() - started)


def _is_final(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    """Whether a flow run has ended for good: one that crashed is about to be run again, a few times."""
    flow_run = client.read_flow_run(flow_run_id)
    state = flow_run.state
    return state is not None and state.is_final() and not (state.is_crashed() and flow_run.run_count <= NUM_RESTARTS)


def _facts(pipeline: Pipeline, backfill_id: str) -> dict[str, Any]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return load_backfill(lake.cursor(), backfill_id)


def _tell(pipeline: Pipeline, backfill_id: str, told: int, progress: Progress) -> int:
    """Show the shards that were committed since `told` of them were."""
    with Lake(pipeline.lake, read_only=True) as lake:
        done = done_of_backfill(lake.cursor(), backfill_id)
    for row in done[told:]:
        progress.committed(
            row["path"], shards=1, rows=row["num_rows"], tokens=row["num_tokens"], quarantined=row["num_quarantined"]
        )
    return max(told, len(done))


def _result(
    pipeline: Pipeline, backfill_id: str, facts: dict[str, Any], followed: set[str], seconds: float
) -> RunResult:
    """All runs of the backfill, as one; it is as those of the flow runs that were followed have ended."""
    with Lake(pipeline.lake, read_only=True) as lake:
        runs = runs_of_backfill(lake.cursor(), backfill_id)
        is_left = are_open(lake.cursor(), pipeline.name, facts["version"], backfill_id)
    # A flow run that is run again has more than one row: its last is how it ended.
    ended = {run["flow_run_id"]: run["state"] for run in runs if run["flow_run_id"] in followed}
    state = how_it_ended(list(ended.values()), is_complete=not is_left)
    known = {field.name for field in fields(RunResult)}
    summed = {name: sum(run[name] or 0 for run in runs) for name in SUMMED}
    if pipeline.cost.per_hour is None:
        summed["cost"] = None
    estimated = {name: facts[name] for name in facts if name.startswith("estimated_seconds")}
    notes = [run["message"] for run in runs if run["message"]]
    given: dict[str, Any] = {name: value for name, value in (summed | estimated).items() if name in known}
    return RunResult(
        run_id=runs[-1]["run_id"] if runs else "",
        pipeline=pipeline.name,
        version=facts["version"],
        table=table_name(pipeline.name, facts["version"]),
        revision=facts["revision"],
        kind="backfill",
        state=state,
        seconds=seconds,
        currency=pipeline.cost.currency,
        backfill_id=backfill_id,
        notes=notes,
        **given,
    )


def how_it_ended(states: Sequence[str], *, is_complete: bool) -> str:
    """The state of a backfill whose flow runs ended so: one that failed is never done, whatever it committed."""
    if "failed" in states:
        return "failed"
    if is_complete:
        return "done"
    return "stopped" if "stopped" in states else "failed"
