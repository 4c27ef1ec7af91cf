"""Flow runs are called by their pipeline and due time: as they begin, and those that a schedule has brought already.

Prefect's server calls what it schedules by an adjective and an animal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowRunFilter
from prefect.context import FlowRunContext

from tidemill.flows.names import flow_name
from tidemill.times.cron import checked_timezone

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def flow_run_name(kind: str, pipeline: str, due: datetime, part: str = "") -> str:
    """Such as `reviews 2026-11-26 02:00`, by the clock of `due`; that of a stage says which."""
    what = [pipeline, *([] if kind == "run" else [kind]), *([part] if part else [])]
    return f"{' '.join(what)} {due:%Y-%m-%d %H:%M}"


def due_name() -> str:
    """The name of the flow run that begins; one that has such a name keeps it, also when it is run again."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow is not None
    assert context.flow_run is not None
    parameters = context.parameters or {}
    pipeline, timezone = _named(parameters.get("pipeline"))
    kind = context.flow.name.removeprefix(flow_name(""))
    return _name(context.flow_run, kind, pipeline, timezone, str(parameters.get("backfill_id") or ""))


def name_scheduled(client: SyncPrefectClient, deployment_id: UUID, kind: str, pipeline: str, timezone: str) -> None:
    """Name what a deployment's schedule has brought so far and what has not begun."""
    due = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": [deployment_id]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    )
    for flow_run in client.read_flow_runs(flow_run_filter=due):
        name = _name(flow_run, kind, pipeline, timezone)
        if flow_run.auto_scheduled and name != flow_run.name:
            client.set_flow_run_name(flow_run.id, name)


def _name(flow_run: FlowRun, kind: str, pipeline: str, timezone: str, part: str = "") -> str:
    if flow_run.name.startswith(f"{pipeline} "):
        return flow_run.name
    due = (flow_run.expected_start_time or datetime.now(UTC)).astimezone(ZoneInfo(timezone))
    return flow_run_name(kind, pipeline, due, part)


def _named(given: object) -> tuple[str, str]:
    """A pipeline's name and time zone, whatever a flow run was given in its place."""
    if not isinstance(given, dict):
        return Path(str(given)).stem, "UTC"
    schedule = given.get("schedule")
    timezone = schedule.get("timezone") if isinstance(schedule, dict) else None
    try:
        return str(given.get("name")), checked_timezone(str(timezone or "UTC"))
    except ValueError:
        return str(given.get("name")), "UTC"
