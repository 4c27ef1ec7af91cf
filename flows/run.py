"""The chain as a flow: ingest, tokenize, infer and materialize task runs for each shard."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas import State

from tidemill.flows.due import due_name
from tidemill.flows.executor import PrefectExecutor
from tidemill.flows.flow_run import HERE, Surroundings, carry_out
from tidemill.flows.names import flow_name
from tidemill.running.run import Run, RunResult


@flow(name=flow_name("run"), flow_run_name=due_name, persist_result=False)
def run_pipeline(
    pipeline: dict[str, Any] | str, overrides: list[str] | None = None, yes: bool = False, why: str = "run"
) -> RunResult | State[Any]:
    """Bring a pipeline's table up to date. `pipeline` is a file's path, or what such a file holds.

    The flow run fails if a shard did, and is cancelled if the run was stopped;
    what was committed stays. As a deployment it costs at most
    `schedule.max_cost`, and follows a changed model as `schedule.on_model_change` says.
    """

    def make(around: Surroundings) -> Run:
        here = HERE.get()
        if here is not None and here.run is not None:
            return here.run.under(PrefectExecutor, flow_run_id=around.flow_run_id)
        return Run(
            around.pipeline,
            progress=around.progress,
            yes=yes,
            why=around.why(why),
            flow_run_id=around.flow_run_id,
            executor=PrefectExecutor,
            max_cost=around.pipeline.schedule.max_cost if around.deployed else None,
        )

    return carry_out("run", pipeline, overrides, make, afterwards=_follow_model)


def _follow_model(around: Surroundings) -> None:
    if around.deployed and around.pipeline.schedule.on_model_change == "backfill":
        from tidemill.flows.backfill import backfill_declared

        backfill_declared(around.pipeline)
