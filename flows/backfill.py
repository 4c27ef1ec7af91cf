"""Backfills as flow runs: a plan is cut into tranches, and each is a flow run that any worker may take."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun, State
from prefect.exceptions import ObjectNotFound

from tidemill.config import Pipeline
from tidemill.errors import ConfigError
from tidemill.fingerprints import fingerprint
from tidemill.flows.due import due_name, flow_run_name
from tidemill.flows.executor import PrefectExecutor
from tidemill.flows.flow_run import Surroundings, carry_out
from tidemill.flows.names import deployment_name, flow_name
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill, tranches
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.recording import RunResult

TRANCHE_SHARDS = 20
"""Small enough for several workers to share a backfill, large enough for the model to be opened rarely."""


@flow(name=flow_name("backfill"), flow_run_name=due_name, persist_result=False)
def run_backfill(
    pipeline: dict[str, Any] | str,
    backfill_id: str,
    shards: list[str] | None = None,
    overrides: list[str] | None = None,
    why: str = "backfill",
) -> RunResult | State[Any]:
    """Compute one tranche of a backfill: `shards` by their ids, or all that are open."""

    def make(around: Surroundings) -> BackfillRun:
        return BackfillRun(
            around.pipeline,
            backfill_id,
            shards=shards,
            progress=around.progress,
            why=around.why(why),
            flow_run_id=around.flow_run_id,
            executor=PrefectExecutor,
        )

    return carry_out("backfill", pipeline, overrides, make)


def submit_backfill(
    client: SyncPrefectClient, pipeline: Pipeline, backfill_id: str, *, why: str = "backfill"
) -> list[FlowRun]:
    """Give what is still open of a backfill to the workers of its deployment, a flow run a tranche.

    Submitting again gives the same flow runs, and new ones for those that ended
    without finishing their shards.

    Raises:
        ConfigError: the pipeline is not deployed.
    """
    name = deployment_name("backfill", pipeline.name)
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound as e:
        raise ConfigError(
            f"The Prefect server has no deployment {name}. Register it with `tidemill deploy`, or run the backfill "
            "here with --direct."
        ) from e
    with Lake(pipeline.lake, read_only=True) as lake:
        found = tranches(lake, backfill_id, TRANCHE_SHARDS)
    now = datetime.now(ZoneInfo(pipeline.schedule.timezone))
    return [
        _submit(
            client,
            deployment.id,
            flow_run_name("backfill", pipeline.name, now, f"{backfill_id} {number}/{len(found)}"),
            {"backfill_id": backfill_id, "shards": shards, "why": why},
        )
        for number, shards in enumerate(found, 1)
    ]


def backfill_declared(pipeline: Pipeline) -> None:
    """Compute what the pipeline file asks for now beside what is promoted, if it is another version and incomplete."""
    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, Selection())
        if plan.version.spec.version == plan.promoted or plan.reason != "missing":
            return
        why = "the model or an option changed"
        backfill_id = request_backfill(lake, plan, max_cost=pipeline.schedule.max_cost, why=why)
    with get_client(sync_client=True) as client:
        submit_backfill(client, pipeline, backfill_id, why=why)


def _submit(client: SyncPrefectClient, deployment_id: UUID, name: str, parameters: dict[str, Any]) -> FlowRun:
    tranche = fingerprint(parameters["backfill_id"], *parameters["shards"])
    attempt = 1
    while True:
        flow_run = client.create_flow_run_from_deployment(
            deployment_id,
            name=name,
            parameters=parameters,
            idempotency_key=f"{tranche}-{attempt}",
        )
        if flow_run.state is None or not flow_run.state.is_final():
            return flow_run
        attempt += 1
