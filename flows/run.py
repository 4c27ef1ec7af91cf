"""The chain as a flow: ingest, tokenize, infer and materialize task runs for each shard."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Failed
from pydantic import ValidationError

from flows.executor import PrefectExecutor
from flows.progress import Logged
from tidemill.config import Pipeline, load_pipeline
from tidemill.errors import ConfigError, RunFailed, Stopped, TidemillError
from tidemill.progress import Progress
from tidemill.run import Run, RunResult


@dataclass
class Here:
    """What a caller in this process hands to the flow and takes from it, beside parameters, which are JSON."""

    pipeline: Pipeline
    progress: Progress
    result: RunResult | None = None


HERE: ContextVar[Here | None] = ContextVar("HERE", default=None)


@flow(name="tidemill-run", persist_result=False)
def run_pipeline(
    pipeline: dict[str, Any] | str, overrides: list[str] | None = None, yes: bool = False, why: str = "run"
) -> RunResult | State[Any]:
    """Bring a pipeline's table up to date. `pipeline` is a file's path, or what such a file holds.

    The flow run fails if a shard did, and is cancelled if the run was stopped;
    what was committed stays.
    """
    here = HERE.get() or Here(read_pipeline(pipeline, overrides or []), Logged(get_run_logger()))
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run_id = context.flow_run.id
    run = Run(
        here.pipeline,
        progress=here.progress,
        yes=yes,
        why=why,
        flow_run_id=str(flow_run_id),
        executor=PrefectExecutor,
    )
    context.client.set_flow_run_name(flow_run_id, f"{here.pipeline.name}-{run.run_id}")
    try:
        here.result = run.execute()
    except TidemillError as e:
        return Failed(message=f"{type(e).__name__}: {e}", data=e)
    return _state(here.result)


def read_pipeline(pipeline: dict[str, Any] | str, overrides: list[str]) -> Pipeline:
    if isinstance(pipeline, str):
        return load_pipeline(pipeline, overrides)
    try:
        return Pipeline.model_validate(pipeline)
    except ValidationError as e:
        raise ConfigError(f"The parameter pipeline is not a pipeline: {e}") from e


def _state(result: RunResult) -> RunResult | State[Any]:
    if result.state == "stopped":
        message = "Stopped. What was committed stays; run again to go on."
        return Cancelled(message=message, data=Stopped(message))
    if result.state == "failed":
        lines = [*result.notes, *(f"{failure['path']}: {failure['message']}" for failure in result.failures[:5])]
        message = "; ".join(lines) or "The run failed."
        return Failed(message=message, data=RunFailed(message))
    return result
