"""What Tidemill's things are called at a Prefect server, and how they are told from other people's."""

from __future__ import annotations

from tidemill.config import STAGES

TAG = "tidemill"
"""Of every deployment, flow run and automation."""

ENTRYPOINTS: dict[str, str] = {
    "run": "tidemill.flows.run.run_pipeline",
    **{stage: f"tidemill.flows.stage.{stage}" for stage in STAGES},
    "backfill": "tidemill.flows.backfill.run_backfill",
    "gc": "tidemill.flows.gc.collect",
    "retrain": "tidemill.flows.retrain.learn",
}
"""By kind: the flow, as whatever Python has Tidemill installed imports it."""


LOOPBACK = ("127.0.0.1", "localhost")
"""The host of a server that runs here, as its users write it."""


def flow_name(kind: str) -> str:
    return f"tidemill-{kind}"


def deployment_title(kind: str, pipeline: str) -> str:
    """What the UI calls a deployment, such as `reviews-chain` or `reviews-infer`: no pipeline's name has a hyphen."""
    return f"{pipeline}-{'chain' if kind == 'run' else kind}"


def deployment_name(kind: str, pipeline: str) -> str:
    """A deployment as Prefect's commands take it, its flow's name before the title."""
    return f"{flow_name(kind)}/{deployment_title(kind, pipeline)}"


def pipeline_tag(pipeline: str) -> str:
    return f"pipeline:{pipeline}"


def block_name(pipeline: str) -> str:
    """The block that keeps the address of a pipeline's alerts."""
    return f"tidemill-{pipeline.replace('_', '-')}"


def pipeline_resource(pipeline: str) -> dict[str, str]:
    """The resource that a pipeline's events are about."""
    return {"prefect.resource.id": f"tidemill.pipeline.{pipeline}", "prefect.resource.name": pipeline}
