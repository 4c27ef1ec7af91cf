"""The flow against a running Prefect server, beside the engine without Prefect."""

from __future__ import annotations

import gzip
import random
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.settings.legacy import Setting

from tests.flows.conftest import flow_run_of, states_of, task_runs_of
from tests.hub.faults import FaultKind, Faults, Request
from tests.pipelines import assert_same_tables, make_pipeline, reviews, run, table_of, write_parquet
from tests.processes import PATIENCE_SECONDS
from tidemill.config import Lake, Pipeline
from tidemill.errors import ConfigError, DatasetError
from tidemill.flows.follow import how_it_ended
from tidemill.flows.local import run_under_prefect
from tidemill.lake.ducklake.locks import open_lock
from tidemill.progress import Quiet
from tidemill.sources.hub import RANGE_RETRIES
from tidemill.values.columns import HEAD_BYTES

NUM_FILES, NUM_ROWS = 4, 25
STAGES = ("ingest", "tokenize", "infer", "materialize")


def stage_of(task_run: TaskRun) -> str:
    return task_run.name.partition(" ")[0]


@dataclass(frozen=True)
class Finished:
    pipeline: Pipeline
    flow_run: FlowRun
    task_runs: list[TaskRun]


def write_files(folder: Path) -> str:
    for i in range(NUM_FILES):
        write_parquet(folder / f"part-{i}.parquet", reviews(i * NUM_ROWS, NUM_ROWS))
    return str(folder / "*.parquet")


@pytest.fixture(scope="module")
def finished(prefect_settings: dict[Setting, str], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A pipeline that was run under Prefect, undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    pipeline = make_pipeline(folder, write_files(folder / "data"))
    with temporary_settings(prefect_settings):
        flow_run = flow_run_of(run_under_prefect(pipeline, progress=Quiet()))
        return Finished(pipeline, flow_run, task_runs_of(flow_run, num_expected=len(STAGES) * NUM_FILES))


def test_every_shard_has_a_completed_task_run_of_each_stage(finished):
    assert finished.flow_run.state_name == "Completed"
    expected = {f"{stage} part-{i}.parquet:0" for stage in STAGES for i in range(NUM_FILES)}
    assert {task_run.name for task_run in finished.task_runs} == expected
    ends = {(task_run.state_name, task_run.run_count) for task_run in finished.task_runs}
    assert ends == {("Completed", 1)}


def test_the_table_is_the_one_of_a_direct_run(finished, tmp_path):
    direct = make_pipeline(tmp_path, finished.pipeline.dataset.path)
    run(direct)
    assert_same_tables(finished.pipeline, direct)


def test_task_runs_are_tied_to_those_whose_results_they_take(finished):
    names = {task_run.id: task_run.name for task_run in finished.task_runs}
    inputs = {
        task_run.name: {names[found.id] for given in task_run.task_inputs.values() for found in given}
        for task_run in finished.task_runs
    }
    takes = {"ingest": set(), "tokenize": {"ingest"}, "infer": {"tokenize"}, "materialize": {"infer"}}
    assert inputs == {
        f"{stage} part-{i}.parquet:0": {f"{given} part-{i}.parquet:0" for given in takes[stage]}
        for stage in STAGES
        for i in range(NUM_FILES)
    }


class LockedUntilRetried(Quiet):
    """Another writer takes the lake's lock when the first shard is read, and lets go when a step met it."""

    def __init__(self, lake: Lake) -> None:
        self._lock, self._taken, self._let_go = open_lock(lake), threading.Event(), threading.Event()
        self._writer = threading.Thread(target=self._write)
        self.retried_steps: Counter[str] = Counter()

    def ingested(self, *_: object, **__: object) -> None:
        if not self._taken.is_set():
            self._writer.start()
            self._taken.wait()

    def retried(self, step: str, error: BaseException) -> None:
        self.retried_steps[f"{step}: {type(error).__name__}"] += 1
        self._let_go.set()

    def _write(self) -> None:
        with self._lock.held():
            self._taken.set()
            self._let_go.wait(PATIENCE_SECONDS)


def test_a_commit_that_meets_a_locked_lake_is_retried_with_backoff(prefect_server, tmp_path):
    write_parquet(tmp_path / "one.parquet", reviews(0, NUM_ROWS))
    pipeline = make_pipeline(tmp_path, str(tmp_path / "one.parquet"), lake={"lock_timeout_seconds": 0.2})
    progress = LockedUntilRetried(pipeline.lake)
    result = run_under_prefect(pipeline, progress=progress)
    task_runs = task_runs_of(flow_run_of(result), num_expected=len(STAGES))
    assert progress.retried_steps["materialize: LakeLocked"] == result.num_retries >= 1
    run_counts = {stage_of(task_run): task_run.run_count for task_run in task_runs}
    assert run_counts == {"ingest": 1, "tokenize": 1, "infer": 1, "materialize": 1 + result.num_retries}
    [committed] = [task_run for task_run in task_runs if stage_of(task_run) == "materialize"]
    states = {state.name: state for state in states_of(committed)}
    scheduled = states["AwaitingRetry"].state_details.scheduled_time
    assert scheduled is not None
    assert scheduled > states["AwaitingRetry"].timestamp
    assert states["Retrying"].timestamp >= scheduled
    assert result.state == "done"
    assert len(table_of(pipeline)) == NUM_ROWS


class ColumnReadsFail(Faults):
    """The first `num_left` reads of a Parquet file's front get a 503. Its footer, at its end, is always read."""

    def __init__(self, size: int, num_left: int) -> None:
        super().__init__()
        self._size, self.num_left = size, num_left

    def draw(self, request: Request) -> FaultKind | None:
        start = (request.range or "").removeprefix("bytes=").partition("-")[0]
        if request.method != "GET" or not start or int(start) > self._size // 2 or not self.num_left:
            return None
        self.num_left -= 1
        return "503"


@pytest.mark.slow
def test_a_read_that_meets_a_hub_error_beyond_the_readers_own_retries_is_retried(prefect_server, hub, tmp_path):
    rows = reviews(0, 60)
    body = write_parquet(tmp_path / "one.parquet", rows).read_bytes()
    pipeline = make_pipeline(tmp_path / "prefect", "prefect/reviews")
    hub.add_dataset("prefect/reviews").commit({"data/train.parquet": body})
    hub.faults = faults = ColumnReadsFail(len(body), num_left=RANGE_RETRIES + 1)
    result = run_under_prefect(pipeline, progress=Quiet())
    assert faults.num_left == 0
    task_runs = task_runs_of(flow_run_of(result), num_expected=len(STAGES))
    run_counts = {stage_of(task_run): task_run.run_count for task_run in task_runs}
    assert run_counts == {"ingest": 2, "tokenize": 1, "infer": 1, "materialize": 1}
    assert (result.state, result.num_retries, len(table_of(pipeline))) == ("done", 1, rows.num_rows)


@pytest.mark.slow
def test_a_file_that_is_cut_short_is_tried_once_and_fails_alone(prefect_server, tmp_path):
    (tmp_path / "data").mkdir()
    for i in (0, 2):
        lines = ["id,text", *(f"{i}-{row},A fine film number {row}." for row in range(NUM_ROWS))]
        (tmp_path / "data" / f"part-{i}.csv").write_text("\n".join(lines) + "\n")
    # Its front, which is looked at before, is whole.
    noise = random.Random(0).randbytes(2 * HEAD_BYTES).hex()
    (tmp_path / "data" / "part-1.csv.gz").write_bytes(gzip.compress(f"id,text\n1,{noise}\n".encode())[:-100])
    pipeline = make_pipeline(tmp_path, str(tmp_path / "data" / "*.csv*"), dataset={"keep": []})
    result = run_under_prefect(pipeline, progress=Quiet())
    flow_run = flow_run_of(result)
    assert result.state == "failed"
    assert [(failure["path"], failure["error"]) for failure in result.failures] == [("part-1.csv.gz", "FormatError")]
    assert flow_run.state_name == "Failed"
    assert flow_run.state is not None
    assert "part-1.csv" in (flow_run.state.message or "")
    assert {path for path, _ in table_of(pipeline)} == {"part-0.csv", "part-2.csv"}
    num_cuts = 4  # A shard of each good file, the end of the first with the bad one, and the end of the last.
    task_runs = task_runs_of(flow_run, num_expected=num_cuts + 2 * len(STAGES))
    failed = [(task_run.name, task_run.run_count) for task_run in task_runs if task_run.state_name == "Failed"]
    assert failed == [("cut part-0.csv and on", 1)]


def test_a_stopped_run_is_a_cancelled_flow_run_and_the_next_one_goes_on(prefect_server, tmp_path):
    class StoppedAtFirstCommit(Quiet):
        def committed(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    pipeline = make_pipeline(tmp_path, write_files(tmp_path / "data"), limits={"shards_in_flight": 1})
    stopped = run_under_prefect(pipeline, progress=StoppedAtFirstCommit())
    assert stopped.state == "stopped"
    assert flow_run_of(stopped).state_name == "Cancelled"
    assert run_under_prefect(pipeline, progress=Quiet()).num_shards < NUM_FILES
    assert len(table_of(pipeline)) == NUM_FILES * NUM_ROWS


@pytest.mark.parametrize(
    ("states", "is_complete", "expected"),
    [
        (["done", "done"], True, "done"),
        (["done", "failed"], True, "failed"),
        (["stopped", "done"], True, "done"),
        (["stopped"], False, "stopped"),
        (["stopped", "failed"], False, "failed"),
        ([], False, "failed"),
        ([], True, "done"),
    ],
)
def test_a_backfill_is_as_its_flow_runs_ended(states, is_complete, expected):
    """One that went over `limits.max_quarantine` has failed, though it committed every shard."""
    assert how_it_ended(states, is_complete=is_complete) == expected


def test_input_that_cannot_be_worked_on_raises_what_the_engine_raises(prefect_server, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        run_under_prefect(make_pipeline(tmp_path, str(tmp_path / "nowhere.parquet")), progress=Quiet())


def test_a_catalogs_password_does_not_reach_the_prefect_server(prefect_server, tmp_path):
    lake = {"catalog": "postgres:host=127.0.0.1 port=1 dbname=x password=swordfish"}
    with pytest.raises(Exception, match="PostgreSQL"):
        run_under_prefect(make_pipeline(tmp_path, "nowhere", name="secretive", lake=lake), progress=Quiet())
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
    # Another test's may have begun after it.
    [latest, *_] = [run for run in runs if run.parameters.get("pipeline", {}).get("name") == "secretive"]
    assert latest.parameters["pipeline"]["lake"]["catalog"].endswith("password=***")
    assert "swordfish" not in latest.model_dump_json()


def test_a_configured_server_that_does_not_answer_is_named_with_the_way_out(tmp_path):
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ConfigError, match=r"127\.0\.0\.1:9/api does not answer.*--direct"),
    ):
        run_under_prefect(make_pipeline(tmp_path, "nowhere"), progress=Quiet())
