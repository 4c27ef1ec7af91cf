"""Make a Prefect server hold what pipelines are to be there, and nothing else of theirs.

Deploying compares what is wanted with what is there and writes only what
differs: an update throws away runs that were scheduled, and starts an
automation's clock anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for
from pydantic import SecretStr

from tidemill.config import Pipeline
from tidemill.errors import ConfigError
from tidemill.flows import automations
from tidemill.flows.due import flow_run_name, name_scheduled
from tidemill.flows.names import TAG, block_name, deployment_name, flow_name, pipeline_tag
from tidemill.flows.wanted import Wanted, all_wanted, keeps_webhook, kinds_of
from tidemill.flows.webhooks import load_webhook
from tidemill.masking import shown_catalog
from tidemill.reports.alerts import webhook_url

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """What deploying did to one object of the server."""

    object: Literal["deployment", "automation", "webhook", "flow run"]
    name: str
    change: Literal["created", "updated", "unchanged", "removed", "started", "under way"]
    when: str | None = None
    """When a deployment runs, in words."""
    next_due: datetime | None = None
    """In its schedule's time zone; None where it has none, or someone paused it."""
    url: str | None = None
    """Where the UI shows a flow run."""


def deploy(client: SyncPrefectClient, pipelines: Sequence[tuple[Pipeline, Path]], *, yes: bool = False) -> list[Change]:
    """Register pipelines, or bring what is registered up to date.

    Raises:
        ConfigError: they cannot be deployed as they are; nothing was written.
    """
    wanted = all_wanted(pipelines)
    _refuse_missing_pools(client, {one.pool: one for one in wanted})
    existing = {one.name: _read_deployment(client, one.name) for one in wanted}
    if not yes:
        _refuse_other(existing, wanted)

    changes, ids = [], {}
    for one in wanted:
        found = existing[one.name]
        ids[one.name], change = _write_deployment(client, one, found)
        if one.schedule:
            _bring_named(client, one, ids[one.name])
        when, due = ("Paused", None) if _is_paused(found) else (one.when, one.next_due())
        changes.append(Change("deployment", one.name, change, when, due))
    for name in dict.fromkeys(one.pipeline.name for one in wanted):
        changes += _remove_deployments(client, name, but=set(ids.values()))
    changes += _write_automations(client, automations.shared(), [TAG], shared=True)
    for pipeline in {one.pipeline.name: one.pipeline for one in wanted}.values():
        changes += _write_pipelines_automations(client, pipeline, ids)
    return changes


def start_now(client: SyncPrefectClient, pipeline: Pipeline) -> Change:
    """Start a deployed pipeline's chain once, or the first stage where stages start one another.

    Where a flow run of it is under way, or waits to be, that is the one.
    """
    kind = "ingest" if automations.runs_by_stages(pipeline) else "run"
    deployment = client.read_deployment_by_name(deployment_name(kind, pipeline.name))
    there = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": [deployment.id]}, "state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}}
    )
    for found in client.read_flow_runs(flow_run_filter=there):
        if not (found.auto_scheduled and found.state and found.state.is_scheduled()):
            return Change("flow run", found.name, "under way", url=url_for(found))
    name = flow_run_name(kind, pipeline.name, datetime.now(ZoneInfo(pipeline.schedule.timezone)))
    started = client.create_flow_run_from_deployment(deployment.id, name=name, parameters={"why": "deploy --run-now"})
    return Change("flow run", name, "started", url=url_for(started))


def remove(client: SyncPrefectClient, names: Sequence[str]) -> list[Change]:
    """Take away all that was deployed of some pipelines, and what all share once none is left."""
    changes: list[Change] = []
    for name in names:
        changes += _remove_deployments(client, name)
        changes += _write_automations(client, [], [TAG, pipeline_tag(name)])
        changes += _remove_webhook(client, name)
    if not any(TAG in found.tags for found in _all(client.read_deployments)):
        changes += _write_automations(client, [], [TAG], shared=True)
    return changes


def _refuse_missing_pools(client: SyncPrefectClient, pools: dict[str, Wanted]) -> None:
    for pool, wanted in pools.items():
        try:
            client.read_work_pool(pool)
        except ObjectNotFound as e:
            raise ConfigError(
                f"{wanted.pipeline.name}: the Prefect server has no work pool {pool!r}, which {wanted.kind} is to run "
                f"in. Make it: `prefect work-pool create {pool} --type process`, or `tidemill up --pool {pool}`."
            ) from e


def _refuse_other(existing: dict[str, DeploymentResponse | None], wanted: Sequence[Wanted]) -> None:
    for one in wanted:
        found = existing[one.name]
        if found is None:
            continue
        catalog = found.parameters.get("pipeline", {}).get("lake", {}).get("catalog")
        if catalog != one.pipeline.lake.catalog:
            what = f"another lake ({shown_catalog(str(catalog))})"
        elif not (found.description or "").endswith(one.origin):
            what = f"another pipeline file ({found.description})"
        else:
            continue
        raise ConfigError(
            f"The server has a deployment {one.name} of {what}. Rename this pipeline, or replace that deployment "
            "with --yes."
        )


def _remove_deployments(client: SyncPrefectClient, pipeline: str, *, but: Set[UUID] = frozenset()) -> Iterator[Change]:
    """Remove what is there of a pipeline, whatever an earlier version called it, but for some."""
    mine = DeploymentFilter.model_validate({"tags": {"all_": [TAG, pipeline_tag(pipeline)]}})
    for found in list(_all(partial(client.read_deployments, deployment_filter=mine))):
        if found.id in but:
            continue
        flow = client.read_flow(found.flow_id).name
        if flow.startswith(flow_name("")):
            client.delete_deployment(found.id)
            yield Change("deployment", f"{flow}/{found.name}", "removed")


def _read_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _all(read: Callable[..., list[T]]) -> Iterator[T]:
    offset = 0
    while page := read(offset=offset):
        yield from page
        offset += len(page)


def _bring_named(client: SyncPrefectClient, wanted: Wanted, deployment_id: UUID) -> None:
    """Have the server schedule at once what it would within a minute, for it to have names."""
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": deployment_id}, json={})
    pipeline = wanted.pipeline
    name_scheduled(client, deployment_id, wanted.kind, pipeline.name, pipeline.schedule.timezone)


def _is_paused(found: DeploymentResponse | None) -> bool:
    return found is not None and (found.paused or not all(schedule.active for schedule in found.schedules))


def _write_deployment(
    client: SyncPrefectClient, wanted: Wanted, found: DeploymentResponse | None
) -> tuple[UUID, Literal["created", "updated", "unchanged"]]:
    fields = wanted.fields
    schedule = wanted.schedule
    active = found is None or all(one.active for one in found.schedules)
    schedules = [DeploymentScheduleCreate(schedule=schedule, active=active, slug=wanted.when)] if schedule else []
    if found is None:
        flow_id = client.create_flow_from_name(flow_name(wanted.kind))
        return client.create_deployment(
            flow_id,
            wanted.title,
            schedules=schedules,
            concurrency_limit=wanted.limit,
            enforce_parameter_schema=False,
            **fields,
        ), "created"
    changed = False
    limit = found.global_concurrency_limit.limit if found.global_concurrency_limit else None
    if {name: getattr(found, name) for name in fields} != fields or limit != wanted.limit:
        client.update_deployment(found.id, DeploymentUpdate(**fields, concurrency_limit=wanted.limit))
        changed = True
    if [_when(one) for one in found.schedules] != [_when(one) for one in schedules]:
        for one in found.schedules:
            client.delete_deployment_schedule(found.id, one.id)
        if schedules:
            client.create_deployment_schedules(found.id, schedules)
        changed = True
    return found.id, "updated" if changed else "unchanged"


def _when(given: DeploymentSchedule | DeploymentScheduleCreate) -> tuple[Any, ...]:
    return getattr(given.schedule, "cron", None), getattr(given.schedule, "timezone", None), given.slug


def _write_pipelines_automations(
    client: SyncPrefectClient, pipeline: Pipeline, ids: dict[str, UUID]
) -> Iterator[Change]:
    deployments = {kind: ids[deployment_name(kind, pipeline.name)] for kind in kinds_of(pipeline)}
    wanted = list(automations.chained(pipeline, deployments))
    if keeps_webhook(pipeline):
        webhook, change = _write_webhook(pipeline)
        yield change
        wanted += automations.alerting(pipeline, webhook)
    yield from _write_automations(client, wanted, [TAG, pipeline_tag(pipeline.name)])
    if not keeps_webhook(pipeline):
        yield from _remove_webhook(client, pipeline.name)


def _write_automations(
    client: SyncPrefectClient, wanted: Sequence[AutomationCore], tags: Sequence[str], *, shared: bool = False
) -> Iterator[Change]:
    """Make those with all of `tags` the wanted ones; `shared`: of those with no other tag."""
    there = {
        found.name: found
        for found in _all(client.read_automations)
        if (set(found.tags) == set(tags) if shared else set(tags) <= set(found.tags))
    }
    for one in wanted:
        found = there.pop(one.name, None)
        if found is None:
            client.create_automation(one)
        elif _facts(found) != _facts(one):
            client.update_automation(found.id, one.model_copy(update={"enabled": found.enabled}))
        else:
            yield Change("automation", one.name, "unchanged")
            continue
        yield Change("automation", one.name, "updated" if found else "created")
    for found in there.values():
        client.delete_automation(found.id)
        yield Change("automation", found.name, "removed")


def _facts(automation: AutomationCore | Automation) -> dict[str, Any]:
    """What tells whether two are the same; sets in order."""
    facts = automation.model_dump(include={"description", "tags", "trigger", "actions"})
    return {name: _ordered(value) for name, value in facts.items()}


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(inner) for key, inner in value.items()}
    if isinstance(value, list | set | frozenset):
        return sorted((_ordered(inner) for inner in value), key=repr)
    return value


def _write_webhook(pipeline: Pipeline) -> tuple[UUID, Change]:
    """The block that holds the webhook's address, which the server keeps encrypted."""
    name, url = block_name(pipeline.name), webhook_url(pipeline)
    found = load_webhook(name)
    if found is not None and found._block_document_id is not None and found.url.get_secret_value() == url:
        return found._block_document_id, Change("webhook", name, "unchanged")
    block_id: Any = Webhook(url=SecretStr(url), method="POST").save(name, overwrite=True)
    return block_id, Change("webhook", name, "updated" if found else "created")


def _remove_webhook(client: SyncPrefectClient, pipeline: str) -> Iterator[Change]:
    name = block_name(pipeline)
    found = load_webhook(name)
    if found is not None and found._block_document_id is not None:
        client.delete_block_document(found._block_document_id)
        yield Change("webhook", name, "removed")
