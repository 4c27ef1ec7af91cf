"""The automations that `deploy` keeps at the server: restarts after a crash, stages that wait for one another, alerts.

Prefect does not restart a killed flow run by itself. All of these match flow
runs with Tidemill's own tag, or one pipeline's own events: other people's flow
runs at the same server are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any
from uuid import UUID

from prefect.events.schemas.automations import AutomationCore

from tidemill.config import STAGES, Pipeline
from tidemill.flows.names import TAG, pipeline_resource, pipeline_tag

HEARTBEAT_SECONDS = 30
"""Prefect sends none more often. After three that did not come, the process is gone."""
NUM_RESTARTS = 2
RESTART_SECONDS = 10.0
"""Prefect waits no shorter for what does not happen."""
NEVER_BEGAN_SECONDS = 300.0
"""What cannot begin at all is tried for ever, so not often."""
FLOW_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}


def shared() -> list[AutomationCore]:
    """Those that all pipelines share."""
    return [
        _automation(
            "tidemill: no heartbeat is a crash",
            [TAG],
            {
                "after": ["prefect.flow-run.heartbeat"],
                "expect": ["prefect.flow-run.*"],
                "match": FLOW_RUNS,
                "match_related": _tagged(TAG),
                "for_each": ["prefect.resource.id"],
                "posture": "Proactive",
                "within": 3 * HEARTBEAT_SECONDS,
            },
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"No heartbeat came for {3 * HEARTBEAT_SECONDS} s.",
            },
        ),
        _restart(
            "tidemill: run again after a crash", [str(n) for n in range(1, NUM_RESTARTS + 1)], after=RESTART_SECONDS
        ),
        _restart("tidemill: run again what never began", "0", after=NEVER_BEGAN_SECONDS),
    ]


def _restart(name: str, run_counts: str | list[str], *, after: float) -> AutomationCore:
    """Not at once: a worker reports a crash twice, and the second report would meet the restarted flow run."""
    return _automation(
        name,
        [TAG],
        {
            "after": ["prefect.flow-run.Crashed"],
            "expect": ["prefect.flow-run.Pending", "prefect.flow-run.Running"],
            "match": FLOW_RUNS | {"prefect.run-count": run_counts},
            "match_related": _tagged(TAG),
            "for_each": ["prefect.resource.id"],
            "posture": "Proactive",
            "within": after,
        },
        {
            "type": "change-flow-run-state",
            "state": "SCHEDULED",
            "name": "AwaitingRetry",
            "message": "It crashed, and is run again by Tidemill.",
        },
    )


def chained(pipeline: Pipeline, deployments: Mapping[str, UUID]) -> Iterator[AutomationCore]:
    """A stage that did something starts the next, where stages run by themselves.

    That is where one has a cron or a pool of its own. Elsewhere the chain is one
    flow run, and a stage that someone starts by hand stays one stage.
    """
    if not runs_by_stages(pipeline):
        return
    for stage, following in pairwise(STAGES):
        yield _automation(
            f"tidemill {pipeline.name}: {following} after {stage}",
            [TAG, pipeline_tag(pipeline.name)],
            {"expect": [f"tidemill.{stage}.finished"], "match": _about(pipeline)},
            {"type": "run-deployment", "source": "selected", "deployment_id": deployments[following]},
        )


def runs_by_stages(pipeline: Pipeline) -> bool:
    """Whether stages start one another, each where and when its own schedule says."""
    return any(_runs_by_itself(pipeline, stage) for stage in STAGES)


def _runs_by_itself(pipeline: Pipeline, stage: str) -> bool:
    own = getattr(pipeline.schedule, stage)
    return own.cron is not None or own.pool not in (None, pipeline.schedule.pool)


def alerting(pipeline: Pipeline, webhook: UUID) -> Iterator[AutomationCore]:
    """What no flow run can tell: that none runs, and that one has crashed for good. The server itself sends these."""
    tags, alerts = [TAG, pipeline_tag(pipeline.name)], pipeline.alerts
    if alerts.max_age is not None and "stale" in alerts.on:
        yield _automation(
            f"tidemill {pipeline.name}: alert when stale",
            tags,
            {
                "expect": ["tidemill.pipeline.fresh"],
                "match": _about(pipeline),
                "posture": "Proactive",
                "within": max(RESTART_SECONDS, alerts.max_age),
            },
            _call(webhook, pipeline, "stale", "was not brought up to date within alerts.max_age."),
        )
    if "failed" in alerts.on:
        yield _automation(
            f"tidemill {pipeline.name}: alert when crashed",
            tags,
            {
                "expect": ["prefect.flow-run.Crashed"],
                "match": FLOW_RUNS | {"prefect.run-count": str(NUM_RESTARTS + 1)},
                "match_related": _tagged(pipeline_tag(pipeline.name)),
            },
            _call(webhook, pipeline, "failed", f"crashed, and again when it was run {NUM_RESTARTS} more times."),
        )


def _automation(name: str, tags: list[str], trigger: dict[str, Any], action: dict[str, Any]) -> AutomationCore:
    facts = {"type": "event", "posture": "Reactive", "threshold": 1, "within": 0} | trigger
    return AutomationCore.model_validate({"name": name, "tags": tags, "trigger": facts, "actions": [action]})


def _tagged(tag: str) -> dict[str, str]:
    return {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}


def _about(pipeline: Pipeline) -> dict[str, str]:
    return {"prefect.resource.id": pipeline_resource(pipeline.name)["prefect.resource.id"]}


def _call(webhook: UUID, pipeline: Pipeline, kind: str, what: str) -> dict[str, Any]:
    facts = {"text": f"{pipeline.name} {what}", "kind": kind, "pipeline": pipeline.name}
    return {"type": "call-webhook", "block_document_id": webhook, "payload": json.dumps(facts)}
