"""Housekeeping as a flow."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas import State

from tidemill.config import Pipeline
from tidemill.flows.due import due_name
from tidemill.flows.flow_run import look_after
from tidemill.flows.names import flow_name
from tidemill.upkeep.housekeeping import collect_garbage


@flow(name=flow_name("gc"), flow_run_name=due_name, persist_result=False)
def collect(
    pipeline: dict[str, Any] | str, overrides: list[str] | None = None, dry_run: bool = False
) -> State[Any] | None:
    """Keep the house of a pipeline's lake and store."""

    def work(loaded: Pipeline, logger: Any) -> tuple[dict[str, Any], None]:
        facts = collect_garbage(loaded, dry_run=dry_run)
        for note in facts["notes"]:
            logger.info(note)
        return facts, None

    return look_after("gc", pipeline, overrides, work)
