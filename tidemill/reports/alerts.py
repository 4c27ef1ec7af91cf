"""Tell someone: a failure, a stale table, a run that stopped at its cost, a recovery, labels that moved.

An alert is JSON with a field `text`, sent by HTTP POST, which is what chat
services take. A webhook that fails fails nothing: it is told, and that is all.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from datetime import UTC, datetime
from typing import Any, Literal

from tidemill.config import Pipeline
from tidemill.errors import ConfigError, counted
from tidemill.lake import Cursor
from tidemill.lake.runs import last_fresh, num_quarantined_by_failed

Kind = Literal["failed", "stale", "max_cost", "recovered", "changed"]
ANSWER_SECONDS = 10.0


def alert(pipeline: Pipeline, kind: Kind, text: str, **facts: Any) -> str | None:
    """Send an alert, if the pipeline wants this kind; returns what went wrong with sending it."""
    if pipeline.alerts.webhook is None or kind not in pipeline.alerts.on:
        return None
    body = json.dumps({"text": text, "kind": kind, "pipeline": pipeline.name, **facts}, default=str)
    wrong: list[str] = []
    # A timeout bounds each wait for some bytes, and not the whole answer: the thread is left to itself.
    sending = threading.Thread(target=_post, args=(pipeline, body.encode(), wrong), daemon=True)
    sending.start()
    sending.join(ANSWER_SECONDS)
    if sending.is_alive():
        wrong = [f"no whole answer within {ANSWER_SECONDS:g} s"]
    return f"The alert {kind!r} could not be sent to alerts.webhook: {wrong[0]}" if wrong else None


def _post(pipeline: Pipeline, body: bytes, wrong: list[str]) -> None:
    """Adds what went wrong to `wrong`; the address, which may be a secret, is not part of it."""
    try:
        request = urllib.request.Request(
            webhook_url(pipeline), body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
            pass
    except (ConfigError, OSError) as e:
        wrong.append(str(e))
    except Exception as e:  # noqa: BLE001 — of an address or an answer that is none, Python's client may raise anything.
        wrong.append(type(e).__name__)


def webhook_url(pipeline: Pipeline) -> str:
    """The address, taken from the environment if `alerts.webhook` is `$NAME`.

    Raises:
        ConfigError: there is no such variable, or no such address.
    """
    url = pipeline.alerts.webhook or ""
    if url.startswith("$"):
        if not os.environ.get(url[1:]):
            raise ConfigError(f"alerts.webhook = {url}, and the environment has no {url[1:]}. Set it.")
        url = os.environ[url[1:]]
    if not url.startswith(("http://", "https://")):
        raise ConfigError("alerts.webhook is not an http:// or https:// address.")
    return url


def staleness(cursor: Cursor, pipeline: Pipeline) -> str | None:
    """What to say of a table that is older than `alerts.max_age`; None of one that is not."""
    if pipeline.alerts.max_age is None:
        return None
    fresh = last_fresh(cursor, pipeline.name)
    age = None if fresh is None else (datetime.now(UTC) - fresh).total_seconds()
    if age is not None and age <= pipeline.alerts.max_age:
        return None
    told = "was never up to date" if age is None else f"was last up to date {_hours(age)} ago"
    return f"{pipeline.name} {told}; alerts.max_age is {_hours(pipeline.alerts.max_age)}."


def recovery(cursor: Cursor, pipeline: Pipeline, num_rows: int) -> str | None:
    """What to say of a run that is done after one that failed.

    None while rows are still in quarantine of which a run found more than
    `limits.max_quarantine`: one that had nothing to do mends nothing.
    """
    num_left = num_quarantined_by_failed(cursor, pipeline.name, pipeline.limits.max_quarantine)
    return None if num_left else f"{pipeline.name} works again: {counted(num_rows, 'row')}."


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
