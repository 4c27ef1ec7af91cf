"""A flow run that failed before the engine wrote of it has a row in `_runs` too, so that `tidemill status` says why."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from logging import Logger, LoggerAdapter
from typing import Any

from prefect.client.schemas import FlowRun

from tidemill import config
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.runs import RunRecord, is_recorded, record_run
from tidemill.masking import message_of


def record_failure(
    spec: config.Lake,
    pipeline: str,
    kind: str,
    flow_run: FlowRun,
    error: BaseException,
    logger: Logger | LoggerAdapter[Any],
    *,
    run_id: str | None = None,
    since: datetime | None = None,
    why: str = "",
) -> None:
    """Write the row of a run that has none. A lake that cannot be reached is told of in the log, and that is all.

    Its own row is told by `run_id`, or by this process having written one of its kind `since` it began.
    """
    try:
        if not catalog_exists(spec):
            return
        with Lake(spec) as lake:
            now = datetime.now(UTC)
            record = RunRecord(
                run_id or secrets.token_hex(6),
                pipeline,
                kind=kind,
                why=why or kind,
                flow_run_id=str(flow_run.id),
                state="failed",
                started_at=now,
                finished_at=now,
                seconds=0.0,
                message=f"{type(error).__name__}: {message_of(error)}",
            )
            if not is_recorded(lake.cursor(), record, since=since):
                record_run(lake, record)
    except Exception as e:  # noqa: BLE001 — the flow run has failed of something else, which it tells.
        logger.warning("What failed could not be recorded in the lake: %s", message_of(e))
