"""Several machines, as docker/compose.yaml has them: its server and workers with PostgreSQL and S3 between them.

Each worker has a home of its own, so that they share nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
from prefect import get_client
from prefect.client.schemas import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tests.compose import SERVICES, Here
from tests.pipelines import make_pipeline, problems_of, query, reviews, run, table_of
from tests.processes import PATIENCE_SECONDS, wait_until
from tests.s3 import Bucket, S3Server, free_ports, is_up
from tidemill.config import Pipeline
from tidemill.flows import backfill
from tidemill.flows.deploy import deploy
from tidemill.lake import Lake
from tidemill.lake.ducklake.locks import open_lock
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill

NUM_ROWS = 55
"""In a shard: more than a lake keeps in its catalog."""
BUCKET = SERVICES["setup"]["command"][3]
GPUS = ["tidemill-gpu@worker-gpu-0", "tidemill-gpu@worker-gpu-1"]
AUTH = "tidemill:sesame"


class Machines:
    """A Prefect server in PostgreSQL, the bucket and the pools; workers come and go."""

    def __init__(self, here: Here, url: str, bucket: Bucket, conninfo: str) -> None:
        self._here, self.url, self.bucket, self._conninfo = here, url, bucket, conninfo

    @contextmanager
    def workers(self, *services: str) -> Iterator[None]:
        """A service that is named twice is a second machine with a GPU of its own."""
        with ExitStack() as stack:
            for service in dict.fromkeys(services):
                for number in range(services.count(service)):
                    stack.enter_context(self._worker(service, number))
            yield

    @contextmanager
    def _worker(self, service: str, number: int) -> Iterator[None]:
        machine = replace(self._here, replaced={**self._here.replaced, "worker-gpu-0": f"worker-gpu-{number}"})
        home = self._here.folder / f"{service}-{number}"
        process = machine.start(
            service, home.with_suffix(".log"), TIDEMILL_HOME=str(home), PREFECT_HOME=str(home / "prefect")
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def pipeline(self, folder: Path, name: str, num_files: int) -> Pipeline:
        """A pipeline over new files in the bucket, whose results and store lie there too."""
        for i in range(num_files):
            body = io.BytesIO()
            pq.write_table(reviews(NUM_ROWS * i, NUM_ROWS), body)
            self.bucket.put(f"{name}/data/{i:02}.parquet", body.getvalue())
        with psycopg.connect(f"{self._conninfo} dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return make_pipeline(
            folder,
            self.bucket.address(f"{name}/data/*"),
            name=name,
            lake={"catalog": f"postgres:{self._conninfo} dbname={name}", "data": self.bucket.address(f"{name}/lake")},
            store={"path": self.bucket.address(f"{name}/store")},
            schedule={"pool": "tidemill-cpu", "infer": {"pool": "tidemill-gpu"}, "backfill": {"pool": "tidemill-gpu"}},
        )


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, postgres_server: str, s3_server: S3Server) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    with psycopg.connect(f"{postgres_server} dbname=postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE prefect")
    address = dict(word.split("=") for word in postgres_server.split())
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    here = Here(
        folder, {"0.0.0.0": "127.0.0.1", "http://prefect-server:4200/api": url, "http://s3:8333": s3_server.url}
    )
    here.write_secrets(
        postgres_password="sesame",
        prefect_auth=AUTH,
        s3_access_key=s3_server.access_key,
        s3_secret_key=s3_server.secret_key,
    )
    server = here.start(
        "prefect-server",
        folder / "server.log",
        PREFECT_SERVER_API_PORT=str(port),
        PREFECT_SERVER_DATABASE_HOST=address["host"],
        PREFECT_SERVER_DATABASE_PORT=address["port"],
        PREFECT_HOME=str(folder / "prefect"),
    )
    try:
        wait_until(lambda: is_up(f"{url}/health") or server.poll() is not None)
        setup = here.start("setup", folder / "setup.log", PREFECT_HOME=str(folder / "setup"))
        code = setup.wait(timeout=PATIENCE_SECONDS)
        assert code == 0, (folder / "server.log").read_text() + (folder / "setup.log").read_text()
        yield Machines(here, url, Bucket(s3_server, BUCKET), postgres_server)
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def machines(started: Machines, bucket: Bucket) -> Iterator[Machines]:
    """The machines, with this process at their server and their S3 store."""
    with temporary_settings({PREFECT_API_URL: started.url, PREFECT_API_AUTH_STRING: AUTH}):
        yield started


def wait_for(flow_runs: Sequence[FlowRun], name: str, number: int) -> None:
    """Until so many of the flow runs are in a state; one that does not end well is an error at once."""
    with get_client(sync_client=True) as client:

        def there() -> bool:
            found = [client.read_flow_run(flow_run.id).state for flow_run in flow_runs]
            states = [state for state in found if state is not None]
            assert not [state for state in states if state.is_final() and not state.is_completed()], states
            return [state.name for state in states].count(name) == number

        wait_until(there)


@pytest.mark.parametrize(
    ("num_shards", "tranche"),
    [pytest.param(12, 6, id="12", marks=pytest.mark.slow), pytest.param(60, 20, id="60", marks=pytest.mark.soak)],
)
def test_a_backfill_in_tranches_is_shared_by_the_workers_of_its_pool(
    tmp_path, machines, monkeypatch, num_shards, tranche
):
    monkeypatch.setattr(backfill, "TRANCHE_SHARDS", tranche)
    pipeline = machines.pipeline(tmp_path, f"shared_{num_shards}", num_shards)
    run(pipeline)
    before = table_of(pipeline)
    with Lake(pipeline.lake) as lake:
        backfill_id = request_backfill(lake, plan_backfill(pipeline, lake, Selection()))
    with machines.workers("worker-gpu", "worker-gpu"), get_client(sync_client=True) as client:
        deploy(client, [(pipeline, tmp_path / "shared.toml")])
        with closing(open_lock(pipeline.lake)) as lock, lock.held():  # Neither ends before the other has begun.
            flow_runs = backfill.submit_backfill(client, pipeline, backfill_id)
            assert len(flow_runs) == num_shards / tranche
            wait_for(flow_runs, "Running", 2)
        wait_for(flow_runs, "Completed", len(flow_runs))
    runs = query(
        pipeline.lake, f"SELECT worker, sum(num_shards) FROM _runs WHERE backfill_id = '{backfill_id}' GROUP BY worker"
    )
    assert sorted(worker for worker, _ in runs) == GPUS
    assert sum(shards for _, shards in runs) == num_shards
    assert set(query(pipeline.lake, "SELECT DISTINCT worker FROM _ledger")) == {(name,) for name in GPUS}
    assert len(before) == num_shards * NUM_ROWS
    assert {place: row | {"score": pytest.approx(row["score"], abs=1e-4)} for place, row in before.items()} == table_of(
        pipeline
    )
    assert problems_of(pipeline) == []


@pytest.mark.soak
def test_stages_are_carried_out_by_the_machines_of_their_pools(tmp_path, machines):
    pipeline = machines.pipeline(tmp_path, "staged", 2)
    run(pipeline)
    body = io.BytesIO()
    pq.write_table(reviews(1000, NUM_ROWS), body)
    machines.bucket.put("staged/data/02.parquet", body.getvalue())
    with machines.workers("worker-cpu", "worker-gpu"), get_client(sync_client=True) as client:
        deploy(client, [(pipeline, tmp_path / "staged.toml")])
        ingest = client.read_deployment_by_name("tidemill-ingest/staged-ingest")
        wait_for([client.create_flow_run_from_deployment(ingest.id)], "Completed", 1)
        count = "SELECT count(*) FROM staged"
        wait_until(lambda: query(pipeline.lake, count) == [(3 * NUM_ROWS,)])
        done = "SELECT kind, worker FROM _runs WHERE kind <> 'run' AND state = 'done' AND num_shards > 0"
        wait_until(lambda: len(query(pipeline.lake, done)) == 4)
    cpu, gpu = "tidemill-cpu@worker-cpu", GPUS[0]
    assert dict(query(pipeline.lake, done)) == {"ingest": cpu, "tokenize": cpu, "infer": gpu, "materialize": cpu}
    assert problems_of(pipeline) == []
