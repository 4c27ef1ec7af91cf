"""What failed, as people meet it: one line of a flow run's state, no traceback that says nothing, a row in `_runs`.

A flow run that failed before the engine wrote of it has a row too, so that
`tidemill status` says why.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from logging import Logger, LoggerAdapter
from typing import Any

from prefect.client.schemas import FlowRun, State
from prefect.states import Failed
from pydantic import ValidationError

from tidemill import config
from tidemill.errors import TidemillError
from tidemill.lake import Lake, catalog_exists
from tidemill.lake.runs import RunRecord, is_recorded, record_run
from tidemill.masking import masked, message_of

OF_RUNS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
"""Where Prefect logs the errors that end flow runs and task runs."""


def failed(error: BaseException) -> State[Any]:
    """The state of a flow run that an error ended; whoever waits for it in this process gets the error itself."""
    return Failed(message=_told(error), data=error)


def _told(error: BaseException) -> str:
    return in_one_line(f"{type(error).__name__}: {message_of(error)}")


def in_one_line(message: str) -> str:
    return "; ".join(line.strip() for line in message.splitlines() if line.strip())


def tell_errors_plainly() -> None:
    """From now on Prefect's loggers in this process tell errors as `told_plainly` does."""
    for name in OF_RUNS:
        logging.getLogger(name).addFilter(told_plainly)


def told_plainly(record: logging.LogRecord) -> bool:
    """An error of ours is its message alone; of another, the traceback helps, without secrets."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    said = record.getMessage()
    if isinstance(error, TidemillError):
        record.msg = said if repr(error) in said else _told(error)
    else:
        record.msg = masked(said)
        record.exc_text = masked("".join(traceback.format_exception(error)).rstrip())
    record.args, record.exc_info = (), None
    return True


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


def record_unread(
    given: dict[str, Any] | str,
    kind: str,
    flow_run: FlowRun,
    error: BaseException,
    logger: Logger | LoggerAdapter[Any],
) -> None:
    """Record that a flow run's parameter is not a pipeline, if it still says which lake and which name."""
    if isinstance(given, dict) and isinstance(name := given.get("name"), str):
        with suppress(ValidationError):
            record_failure(config.Lake.model_validate(given.get("lake", {})), name, kind, flow_run, error, logger)
