"""Make a Prefect server hold what pipelines are to be there, and nothing else of theirs.

Deploying compares what is wanted with what is there and writes only what
differs: an update throws away runs that were scheduled, and starts an
automation's clock anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from tidemill.config import Pipeline
from tidemill.errors import ConfigError
from tidemill.flows import automations
from tidemill.flows.names import ENTRYPOINTS, TAG, block_name, flow_name, pipeline_tag
from tidemill.flows.wanted import Wanted, all_wanted, keeps_webhook
from tidemill.flows.webhooks import load_webhook
from tidemill.masking import shown_catalog
from tidemill.reports.alerts import webhook_url

SLUG = "cron"
T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """What deploying did to one object of the server."""

    object: Literal["deployment", "automation", "webhook"]
    name: str
    change: Literal["created", "updated", "unchanged", "removed"]


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
        ids[one.name], change = _write_deployment(client, one, existing[one.name])
        changes.append(Change("deployment", one.name, change))
    changes += _write_automations(client, automations.shared(), [TAG], shared=True)
    for pipeline in {one.pipeline.name: one.pipeline for one in wanted}.values():
        changes += _write_pipelines_automations(client, pipeline, ids)
    return changes


def remove(client: SyncPrefectClient, names: Sequence[str]) -> list[Change]:
    """Take away all that was deployed of some pipelines, and what all share once none is left."""
    changes = []
    for name in names:
        for kind in ENTRYPOINTS:
            full = f"{flow_name(kind)}/{name}"
            if found := _read_deployment(client, full):
                client.delete_deployment(found.id)
                changes.append(Change("deployment", full, "removed"))
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
        elif found.description != one.fields["description"]:
            what = f"another pipeline file ({found.description})"
        else:
            continue
        raise ConfigError(
            f"The server has a deployment {one.name} of {what}. Rename this pipeline, or replace that deployment "
            "with --yes."
        )


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


def _write_deployment(
    client: SyncPrefectClient, wanted: Wanted, found: DeploymentResponse | None
) -> tuple[UUID, Literal["created", "updated", "unchanged"]]:
    fields = wanted.fields
    schedule = wanted.schedule
    schedules = [DeploymentScheduleCreate(schedule=schedule, active=True, slug=SLUG)] if schedule else []
    if found is None:
        flow_id = client.create_flow_from_name(flow_name(wanted.kind))
        return client.create_deployment(
            flow_id,
            wanted.pipeline.name,
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
    if [_when(one.schedule) for one in found.schedules] != [_when(one.schedule) for one in schedules]:
        for one in found.schedules:
            client.delete_deployment_schedule(found.id, one.id)
        if schedules:
            client.create_deployment_schedules(found.id, schedules)
        changed = True
    return found.id, "updated" if changed else "unchanged"


def _when(schedule: object) -> tuple[Any, Any]:
    return getattr(schedule, "cron", None), getattr(schedule, "timezone", None)


def _write_pipelines_automations(
    client: SyncPrefectClient, pipeline: Pipeline, ids: dict[str, UUID]
) -> Iterator[Change]:
    deployments = {kind: ids[f"{flow_name(kind)}/{pipeline.name}"] for kind in ENTRYPOINTS}
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
