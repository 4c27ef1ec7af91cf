"""The one retry rule, in real task runs."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from prefect import flow, task

from tidemill.errors import SchemaError, SourceUnavailable, TidemillError
from tidemill.tasks.settings import TASK, with_retries


def attempts(error: TidemillError, *, stopped: bool = False) -> list[float]:
    """When a step that raises `error` twice was called; `stopped`, the run is asked to stop at its first retry."""
    called: list[float] = []
    stop = threading.Event()

    @task(name="step", **TASK)
    def step() -> None:
        called.append(time.monotonic())
        if len(called) <= 2:
            raise error

    @flow
    def steps() -> Any:
        rule = with_retries(step, retries=2, stop=stop, on_retry=lambda *_: stop.set() if stopped else None)
        return rule.with_options(retry_delay_seconds=[0.01]).submit().result()

    with suppress(type(error)):
        steps()
    return called


def test_a_retryable_error_is_tried_again_and_another_is_not(prefect_server):
    assert len(attempts(SourceUnavailable("503"))) == 3
    assert len(attempts(SchemaError("no such column"))) == 1


def test_a_servers_own_wait_is_kept_to(prefect_server):
    first, second, _ = attempts(SourceUnavailable("429", wait_seconds=0.8))
    assert second - first >= 0.8


def test_a_stop_ends_a_servers_wait_and_the_retries(prefect_server):
    assert len(attempts(SourceUnavailable("429", wait_seconds=3600), stopped=True)) == 1


@pytest.mark.parametrize("retries", [0, 3, 80])
def test_any_number_of_retries_is_taken(prefect_server, retries):
    @task(name="step", **TASK)
    def step() -> str:
        return "done"

    @flow
    def steps() -> Any:
        rule = with_retries(step, retries=retries, stop=threading.Event(), on_retry=lambda *_: None)
        return rule.submit().result()

    assert steps() == "done"
