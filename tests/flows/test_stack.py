"""The local stack, by its commands: it comes up, catches up, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.states import Scheduled

from tests.commands import tidemill
from tests.flows.conftest import free_port
from tests.pipelines import make_pipeline, query, reviews, write_parquet
from tests.processes import eventually, wait_until
from tidemill.flows import stack
from tidemill.flows.client import reaching
from tidemill.flows.deploy import deploy

NUM_FILES = 2


@pytest.fixture
def home(tmp_path):
    """A folder for a stack, which is ended whatever the test does."""
    yield tmp_path / "home"
    stack.stop(tmp_path / "home")


def up(home: Path, port: int) -> dict[str, object]:
    done = tidemill("up", "--port", str(port), "--json", home=home)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("num_due", [pytest.param(2, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.soak)])
def test_a_stack_that_was_down_across_due_times_catches_up_and_computes_nothing_twice(home, tmp_path, num_due):
    for i in range(NUM_FILES):
        write_parquet(tmp_path / "data" / f"part-{i}.parquet", reviews(i * 20, 20))
    pipeline = make_pipeline(tmp_path, str(tmp_path / "data" / "*.parquet"))
    port = free_port()
    first = up(home, port)
    assert up(home, port) == first | {"state": "running"}
    started = stack.running(home)
    assert started is not None
    with reaching(started.url), get_client(sync_client=True) as client:
        deploy(client, [(pipeline, tmp_path / "reviews.toml")])
        deployment = client.read_deployment_by_name("tidemill-run/reviews-chain")
        client.update_work_pool("tidemill", WorkPoolUpdate(is_paused=True))  # Nobody takes them before it is down.
        due = [
            client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=datetime.now(UTC))).id
            for _ in range(num_due)
        ]
        assert tidemill("down", home=home).stdout == "Stopped.\n"
        assert stack.processes(started.stack_id) == []
        up(home, port)
        client.update_work_pool("tidemill", WorkPoolUpdate(is_paused=False))
        ended = eventually(
            lambda: [client.read_flow_run(flow_run_id).state_name for flow_run_id in due],
            lambda names: set(names) <= {"Completed", "Failed", "Crashed"},
        )
    assert ended == ["Completed"] * num_due
    assert query(pipeline.lake, "SELECT count(*), count(DISTINCT shard_id) FROM _ledger") == [(NUM_FILES, NUM_FILES)]
    assert query(pipeline.lake, "SELECT sum(num_shards), count(*) FROM _runs") == [(NUM_FILES, num_due)]
    assert tidemill("down", home=home).stdout == "Stopped.\n"
    assert tidemill("down", home=home).stdout == "Nothing is up.\n"


@pytest.mark.slow
def test_what_a_killed_supervisor_leaves_is_ended_and_a_killed_worker_is_started_again(home):
    started = stack.start(home, port=free_port(), pools=["tidemill"], flow_runs=1)

    def workers() -> list[int]:
        return [pid for pid in stack.processes(started.stack_id) if b"worker" in command(pid)]

    wait_until(lambda: len(workers()) == 1)
    [worker] = workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(workers()) == 1 and workers() != [worker])
    os.kill(started.pid, signal.SIGKILL)
    wait_until(lambda: stack.running(home) is None)
    assert stack.processes(started.stack_id) != []
    assert tidemill("down", home=home).stdout == "Stopped.\n"
    assert stack.processes(started.stack_id) == []


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_stack_never_signals_a_process_that_is_not_its_own(home):
    """A recorded id may have become another process's: this one's, for example."""
    home.mkdir()
    record = {"stack_id": "0123456789abcdef", "pid": os.getpid(), "port": 1, "pools": [], "flow_runs": 1}
    (home / "stack.json").write_text(json.dumps(record))
    assert stack.running(home) is None
    assert stack.stop(home) is False
    assert not (home / "stack.json").exists()


def test_what_is_in_the_way_is_told_with_the_way_out(home, tmp_path):
    (tmp_path / "reviews.toml").write_text('name = "x"\n[dataset]\npath = "d"\ntext = "t"\n[model]\npath = "m"\n')
    done = tidemill("deploy", tmp_path / "reviews.toml", home=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert "`tidemill up`" in done.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = tidemill("up", "--port", str(taken.getsockname()[1]), home=home)
    assert done.returncode == 2
    assert "--port" in done.stderr
