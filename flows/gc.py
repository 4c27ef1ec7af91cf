"""Housekeeping as a flow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect.context import FlowRunContext

from tidemill.flows.artifacts import Artifacts
from tidemill.flows.failures import record_failure
from tidemill.flows.flow_run import read_pipeline
from tidemill.upkeep.housekeeping import collect_garbage


@flow(name="tidemill-gc", persist_result=False)
def collect(pipeline: dict[str, Any] | str, overrides: list[str] | None = None, dry_run: bool = False) -> None:
    """Keep the house of a pipeline's lake and store."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    loaded, logger = read_pipeline(pipeline, overrides or []), get_run_logger()

    def refused(error: httpx.HTTPError) -> None:
        logger.warning("The Prefect server does not take artifacts: %s", error)

    artifacts = Artifacts(context.client, context.flow_run.id, loaded, "gc", refused)  # type: ignore[arg-type]
    began = datetime.now(UTC)
    try:
        facts = collect_garbage(loaded, dry_run=dry_run)
    except Exception as e:
        record_failure(loaded.lake, loaded.name, "gc", context.flow_run, e, logger, since=began)
        raise
    artifacts.facts(facts)
    for note in facts["notes"]:
        logger.info(note)
