"""One real Prefect server for all tests here, and what it knows of a run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas import FlowRun, TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings

from tidemill.run import RunResult

START_SECONDS = 120
RECORD_SECONDS = 30


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    url = f"http://127.0.0.1:{port}/api"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
            env=inherited | own,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_healthy(url, home / "server.log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_healthy(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def prefect_server(prefect_url: str) -> Iterator[str]:
    """The server, configured for this test."""
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield prefect_url


@pytest.fixture
def no_prefect_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def flow_run_of(result: RunResult | dict[str, Any]) -> FlowRun:
    facts = result if isinstance(result, dict) else vars(result)
    name = FlowRunFilterName(any_=[f"{facts['pipeline']}-{facts['run_id']}"])
    with get_client(sync_client=True) as client:
        [found] = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=name))
    return found


def task_runs_of(flow_run: FlowRun, *, num_expected: int) -> list[TaskRun]:
    """The task runs, once the server, which records them from events, has recorded that all of them ended."""
    deadline = time.monotonic() + RECORD_SECONDS
    mine = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
    while True:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_run_filter=mine)
        if [run.state is not None and run.state.is_final() for run in found] == [True] * num_expected:
            return found
        assert time.monotonic() < deadline, [(run.name, run.state_name) for run in found]
        time.sleep(0.3)


def states_of(task_run: TaskRun) -> list[State[Any]]:
    with get_client(sync_client=True) as client:
        return client.read_task_run_states(task_run.id)
