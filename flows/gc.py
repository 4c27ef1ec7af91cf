"""Housekeeping as a flow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect.client.schemas import State
from prefect.context import FlowRunContext

from tidemill.errors import ConfigError
from tidemill.flows.artifacts import Artifacts
from tidemill.flows.due import due_name
from tidemill.flows.failures import failed, record_failure, record_unread, tell_errors_plainly
from tidemill.flows.flow_run import read_pipeline
from tidemill.flows.names import flow_name
from tidemill.upkeep.housekeeping import collect_garbage


@flow(name=flow_name("gc"), flow_run_name=due_name, persist_result=False)
def collect(
    pipeline: dict[str, Any] | str, overrides: list[str] | None = None, dry_run: bool = False
) -> State[Any] | None:
    """Keep the house of a pipeline's lake and store."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    flow_run, logger = context.flow_run, get_run_logger()
    tell_errors_plainly()
    try:
        loaded = read_pipeline(pipeline, overrides or [])
    except ConfigError as e:
        record_unread(pipeline, "gc", flow_run, e, logger)
        return failed(e)

    def refused(error: httpx.HTTPError) -> None:
        logger.warning("The Prefect server does not take artifacts: %s", error)

    artifacts = Artifacts(context.client, flow_run.id, loaded, "gc", refused)  # type: ignore[arg-type]
    began = datetime.now(UTC)
    try:
        facts = collect_garbage(loaded, dry_run=dry_run)
    except Exception as e:  # noqa: BLE001 — whatever it is, the flow run ends by it.
        record_failure(loaded.lake, loaded.name, "gc", flow_run, e, logger, since=began)
        return failed(e)
    artifacts.facts(facts)
    for note in facts["notes"]:
        logger.info(note)
    return None
