"""What all tasks share: no cache, no stored results, and one rule for trying again.

Results are references to files of the store. A second record of what is done
would be wrong one day: the lake's ledger is the only one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun

from tidemill.errors import SourceUnavailable, is_retryable
from tidemill.retry import backoff_seconds

LONGEST_DELAY_SECONDS = 8.0
"""Prefect sleeps through it whatever happens, so it bounds what Ctrl-C waits for."""
JITTER = 0.5
TASK: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}

OnRetry = Callable[[str, BaseException], None]


def delays(retries: int) -> list[float]:
    """Seconds before each retry, before jitter. Prefect takes at most 50 and repeats the last."""
    return [min(LONGEST_DELAY_SECONDS, backoff_seconds(attempt)) for attempt in range(min(retries, 50))]


def with_retries(task: Task[..., Any], *, retries: int, stop: threading.Event, on_retry: OnRetry) -> Task[..., Any]:
    """The task, tried again as often as the pipeline says, if the error says that it is retryable.

    Prefect waits for the backoff. What a server asks for comes on top and is
    waited for here, in the rule: Prefect's own delays are fixed beforehand, and
    do not end when the run is to stop.
    """

    def try_again(task: Task[..., Any], _: TaskRun, state: State[Any]) -> bool:
        error = state.data
        if not isinstance(error, BaseException) or not is_retryable(error) or stop.is_set():
            return False
        on_retry(task.name, error)
        asked = error.wait_seconds if isinstance(error, SourceUnavailable) else None
        return not stop.wait(asked or 0.0)

    return task.with_options(
        retries=retries,
        retry_delay_seconds=delays(retries),
        retry_jitter_factor=JITTER,
        retry_condition_fn=try_again,
    )
