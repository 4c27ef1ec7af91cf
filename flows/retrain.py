"""Training from new marks as a flow: it looks whether enough are there, and promotes only as `promote_if` says."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect.client.schemas import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from tidemill.errors import ConfigError
from tidemill.flows.artifacts import Artifacts
from tidemill.flows.due import due_name
from tidemill.flows.failures import failed, record_failure, record_unread, tell_errors_plainly
from tidemill.flows.flow_run import read_pipeline
from tidemill.flows.names import flow_name


@flow(name=flow_name("retrain"), flow_run_name=due_name, persist_result=False)
def learn(pipeline: dict[str, Any] | str, overrides: list[str] | None = None) -> State[Any]:
    """Train a model from a pipeline's marks once there are enough, and compute it beside the promoted one."""
    from tidemill.training.retraining import retrain

    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run, logger = context.flow_run, get_run_logger()
    tell_errors_plainly()
    try:
        loaded = read_pipeline(pipeline, overrides or [])
    except ConfigError as e:
        record_unread(pipeline, "retrain", flow_run, e, logger)
        return failed(e)

    def refused(error: httpx.HTTPError) -> None:
        logger.warning("The Prefect server does not take artifacts: %s", error)

    artifacts = Artifacts(context.client, flow_run.id, loaded, "retrain", refused)  # type: ignore[arg-type]
    began = datetime.now(UTC)
    try:
        done = retrain(loaded, tell=logger.info)
    except Exception as e:  # noqa: BLE001 — whatever it is, the flow run ends by it.
        record_failure(loaded.lake, loaded.name, "retrain", flow_run, e, logger, since=began)
        return failed(e)
    artifacts.facts(asdict(done))
    return Completed(message=f"{done.new_marks:,} new marks: {done.state}.")
