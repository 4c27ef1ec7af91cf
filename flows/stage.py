"""Each stage as a flow of its own: it does what is pending for it, whenever and however often it is run."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect import Flow, flow
from prefect.client.schemas import State
from prefect.states import Completed

from tidemill.config import Pipeline, Stage
from tidemill.errors import TidemillError
from tidemill.flows.due import due_name
from tidemill.flows.executor import PrefectExecutor
from tidemill.flows.flow_run import Surroundings, carry_out, read_pipeline
from tidemill.flows.names import flow_name
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.pipelines import load_state
from tidemill.running.recording import RunResult
from tidemill.running.stage_run import StageRun


def _stage_flow(stage: Stage) -> Flow[..., RunResult | State[Any]]:
    @flow(name=flow_name(stage), flow_run_name=due_name, persist_result=False)
    def run_stage(
        pipeline: dict[str, Any] | str, overrides: list[str] | None = None, yes: bool = False, why: str = stage
    ) -> RunResult | State[Any]:
        """Do what is pending at one stage. `pipeline` is a file's path, or what such a file holds."""

        def make(around: Surroundings) -> StageRun:
            return StageRun(
                around.pipeline,
                stage,
                progress=around.progress,
                yes=yes,
                why=around.why(why),
                flow_run_id=around.flow_run_id,
                executor=PrefectExecutor,
                max_cost=around.pipeline.schedule.max_cost if around.deployed else None,
            )

        with suppress(TidemillError):  # Which the run meets again, and tells.
            if stage != "ingest" and not _is_known(read_pipeline(pipeline, overrides or [])):
                return Completed(message="There is no table yet, so nothing is pending. The ingest stage makes it.")
        return carry_out(stage, pipeline, overrides, make)

    return run_stage


def _is_known(pipeline: Pipeline) -> bool:
    """Whether the ingest stage ever ran. A later stage that was started before it has nothing to do."""
    if not catalog_exists(pipeline.lake):
        return False
    with Lake(pipeline.lake, read_only=True) as lake:
        return load_state(lake.cursor(), pipeline.name) is not None


ingest = _stage_flow("ingest")
tokenize = _stage_flow("tokenize")
infer = _stage_flow("infer")
materialize = _stage_flow("materialize")
