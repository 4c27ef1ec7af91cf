"""Training from new marks as a flow: it looks whether enough are there, and promotes only as `promote_if` says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed

from tidemill.config import Pipeline
from tidemill.flows.due import due_name
from tidemill.flows.flow_run import look_after
from tidemill.flows.names import flow_name


@flow(name=flow_name("retrain"), flow_run_name=due_name, persist_result=False)
def learn(pipeline: dict[str, Any] | str, overrides: list[str] | None = None) -> State[Any] | None:
    """Train a model from a pipeline's marks once there are enough, and compute it beside the promoted one."""
    from tidemill.training.retraining import retrain

    def work(loaded: Pipeline, logger: Any) -> tuple[dict[str, Any], State[Any]]:
        done = retrain(loaded, tell=logger.info)
        return asdict(done), Completed(message=f"{done.new_marks:,} new marks: {done.state}.")

    return look_after("retrain", pipeline, overrides, work)
