"""Stop a pipeline: its flow runs at the server, its runs in other processes of this machine, its open backfills."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.config import Pipeline
from tidemill.flows.client import configured_server, server_url
from tidemill.flows.names import TAG, pipeline_tag
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.ducklake.claims import is_alive, open_claims
from tidemill.lake.runs import running_on

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def cancel_pipeline(pipeline: Pipeline, backfill_id: str | None = None) -> dict[str, Any]:
    """Give up open backfills, and ask every run to stop; they end by themselves, with what they committed.

    Raises:
        ConfigError: a server is configured and cannot be asked; what runs in this machine's processes was.
        RunFailed: the server stopped answering meanwhile.
    """
    backfills, runs = [], []
    if catalog_exists(pipeline.lake):
        from tidemill.lake.backfills import cancel_backfills

        with Lake(pipeline.lake) as lake:
            backfills = cancel_backfills(lake, pipeline.name, backfill_id)
            runs = _signal_runs(lake, pipeline, backfill_id)
    if server_url():
        with configured_server() as client:
            runs = [*_cancel_flow_runs(client, pipeline, backfill_id), *runs]
    return {"pipeline": pipeline.name, "backfills": backfills, "runs": runs}


def _signal_runs(lake: Lake, pipeline: Pipeline, backfill_id: str | None) -> list[dict[str, str]]:
    """Ctrl-C for runs that live on this machine and no worker looks after. A living run holds its claim."""
    rows = running_on(lake.cursor(), pipeline.name, socket.gethostname(), backfill_id=backfill_id)
    found = []
    with closing(open_claims(lake.spec)) as claims:
        for run_id, pid in rows:
            if pid != os.getpid() and is_alive(claims, run_id) and not _has_worker(pid):
                os.kill(pid, signal.SIGINT)
                found.append({"name": run_id, "how": f"process {pid}"})
    return found


def _has_worker(pid: int) -> bool:
    """Whether a Prefect worker started the process; it is stopped through the server, or it would be run again."""
    try:
        return b"PREFECT__FLOW_RUN_ID=" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _cancel_flow_runs(client: SyncPrefectClient, pipeline: Pipeline, backfill_id: str | None) -> list[dict[str, str]]:
    """What runs, is about to, or was due; what a schedule will bring is left to come."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Cancelling

    wanted = FlowRunFilter.model_validate(
        {
            "tags": {"all_": [TAG, pipeline_tag(pipeline.name)]},
            "state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}},
            "expected_start_time": {"before_": datetime.now(UTC)},
        }
    )
    found = []
    for flow_run in client.read_flow_runs(flow_run_filter=wanted):
        if backfill_id in (None, flow_run.parameters.get("backfill_id")) and flow_run.deployment_id is not None:
            client.set_flow_run_state(flow_run.id, Cancelling(message="tidemill cancel"))
            found.append({"name": flow_run.name, "how": "flow run"})
    return found
