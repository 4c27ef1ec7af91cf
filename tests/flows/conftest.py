"""One real Prefect server and worker for all tests here, and what the server knows of a run."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun, TaskRun
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.settings.legacy import Setting
from prefect.states import Scheduled

from tests.processes import eventually
from tidemill.config import Pipeline
from tidemill.flows import stack
from tidemill.flows.deploy import Change, deploy, remove
from tidemill.flows.names import TAG, deployment_name, pipeline_tag
from tidemill.flows.password import read_password
from tidemill.running.run import RunResult


@pytest.fixture(scope="package")
def prefect_home() -> Iterator[Path]:
    """The folder of a stack as `tidemill up` starts it: a server, and a worker for the pool `tidemill`.

    It ends with the tests of flows: a server that nobody asks computes, too.
    """
    with tempfile.TemporaryDirectory(prefix="tidemill-stack-") as folder:
        started = stack.start(Path(folder), port=free_port(), pools=["tidemill"], flow_runs=3)
        try:
            yield Path(folder)
        finally:
            stack.stop(Path(folder))
            assert stack.processes(started.stack_id) == []


@pytest.fixture(scope="package")
def prefect_settings(prefect_home: Path) -> dict[Setting, str]:
    """What clients of that server need."""
    started = stack.running(prefect_home)
    assert started is not None
    return {PREFECT_API_URL: started.url, PREFECT_API_AUTH_STRING: read_password(prefect_home)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="package")
def server(prefect_settings: dict[Setting, str]) -> tuple[str, str]:
    """The address at which a browser opens it, and its password."""
    return prefect_settings[PREFECT_API_URL].removesuffix("/api"), prefect_settings[PREFECT_API_AUTH_STRING]


@pytest.fixture
def prefect_server(prefect_settings: dict[Setting, str]) -> Iterator[str]:
    """The server, configured for this test; its address."""
    with temporary_settings(prefect_settings):
        yield prefect_settings[PREFECT_API_URL]


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as found:
        yield found


@dataclass(frozen=True)
class Deployed:
    """Deploys pipelines, runs what is deployed, and takes all of it away at the end."""

    client: SyncPrefectClient
    folder: Path
    names: set[str] = field(default_factory=set)

    def deploy(self, pipeline: Pipeline, **options: Any) -> list[Change]:
        self.names.add(pipeline.name)
        return deploy(self.client, [(pipeline, self.folder / f"{pipeline.name}.toml")], **options)

    def start(self, kind: str, pipeline: Pipeline, /, *, due: datetime | None = None, **parameters: Any) -> UUID:
        deployment = self.client.read_deployment_by_name(deployment_name(kind, pipeline.name))
        state: State[Any] = Scheduled(scheduled_time=due)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters, state=state).id

    def flow_runs(self, kind: str, pipeline: Pipeline) -> list[FlowRun]:
        deployment = self.client.read_deployment_by_name(deployment_name(kind, pipeline.name))
        mine = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}})
        return self.client.read_flow_runs(flow_run_filter=mine)

    def wait(self, flow_run_id: UUID, *names: str) -> FlowRun:
        """The flow run, once it is in one of these states; else once it has ended."""

        def there(found: FlowRun) -> bool:
            state = found.state
            return state is not None and (state.name in names if names else state.is_final())

        return eventually(lambda: self.client.read_flow_run(flow_run_id), there)


@pytest.fixture
def deployed(client: SyncPrefectClient, tmp_path: Path) -> Iterator[Deployed]:
    found = Deployed(client, tmp_path)
    yield found
    remove(client, list(found.names))


@pytest.fixture
def no_prefect_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def flow_run_of(result: RunResult | dict[str, Any]) -> FlowRun:
    """The flow run of a run that has just ended."""
    facts = result if isinstance(result, dict) else vars(result)
    mine = FlowRunFilter.model_validate({"tags": {"all_": [TAG, pipeline_tag(facts["pipeline"])]}})
    with get_client(sync_client=True) as client:
        [latest] = client.read_flow_runs(flow_run_filter=mine, sort=FlowRunSort.START_TIME_DESC, limit=1)
    assert latest.name.startswith(f"{facts['pipeline']} ")
    return latest


def task_runs_of(flow_run: FlowRun, *, num_expected: int) -> list[TaskRun]:
    """The task runs, once the server, which records them from events, has recorded that all of them ended."""
    mine = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
    with get_client(sync_client=True) as client:
        return eventually(
            lambda: client.read_task_runs(flow_run_filter=mine),
            lambda found: [run.state is not None and run.state.is_final() for run in found] == [True] * num_expected,
        )


def states_of(task_run: TaskRun) -> list[State[Any]]:
    with get_client(sync_client=True) as client:
        return client.read_task_run_states(task_run.id)
