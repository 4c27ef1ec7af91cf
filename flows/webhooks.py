"""The address of a deployed pipeline's alerts, which a Prefect server keeps encrypted: whoever knows it can post."""

from __future__ import annotations

from prefect.blocks.webhook import Webhook

from tidemill.config import Pipeline
from tidemill.flows.names import block_name

KEPT = "prefect-block:"


def kept_webhook(pipeline: Pipeline) -> str | None:
    """`alerts.webhook` as a deployment's parameter has it: an address that is given literally is in the block."""
    address = pipeline.alerts.webhook
    return address if address is None or address.startswith("$") else KEPT + block_name(pipeline.name)


def with_webhook(pipeline: Pipeline) -> Pipeline:
    """A deployment's pipeline with the address that its alerts are sent to."""
    address = pipeline.alerts.webhook or ""
    found = load_webhook(address.removeprefix(KEPT)) if address.startswith(KEPT) else None
    if found is None:
        return pipeline
    alerts = pipeline.alerts.model_copy(update={"webhook": found.url.get_secret_value()})
    return pipeline.model_copy(update={"alerts": alerts})


def load_webhook(name: str) -> Webhook | None:
    try:
        found = Webhook.load(name)
    except ValueError:
        return None
    assert isinstance(found, Webhook)
    return found
