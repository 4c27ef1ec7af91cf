"""Several writers and a reader on one lake, with both catalogs: nothing fails, is lost or is there twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipelines import make_pipeline, problems_of, query, reviews, table_of, write_parquet
from tests.processes import Process, run_in_process
from tidemill.config import Pipeline
from tidemill.errors import LakeLocked
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.ducklake.locks import open_lock
from tidemill.lake.pipelines import Target
from tidemill.lake.tables import ResultTable
from tidemill.results.adoption import Adoption, adopt
from tidemill.results.commit import Computed, commit_shards
from tidemill.shards import Shard, Slice, SourceFile

CATALOGS = ["sqlite", "postgres"]
NUM_PROCESSES = 4
NUM_FILES = 4


@pytest.fixture(params=CATALOGS)
def catalog(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/lake.sqlite"
    return str(request.getfixturevalue("postgres_catalog"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for i in range(NUM_FILES):
        write_parquet(tmp_path / "data" / f"{i}.parquet", reviews(30 * i, 12))
    return tmp_path / "data"


def pipeline_in(tmp_path: Path, catalog: str, files: Path, name: str) -> Pipeline:
    return make_pipeline(
        tmp_path, f"{files}/*", name=name, lake={"catalog": catalog}, limits={"retries": 3, "shards_in_flight": 2}
    )


@pytest.mark.parametrize(
    "same", [pytest.param(False, id="four pipelines", marks=pytest.mark.soak), pytest.param(True, id="one pipeline")]
)
def test_four_processes_write_at_once_while_a_reader_looks_on(tmp_path, catalog, files, same):
    names = ["reviews"] * NUM_PROCESSES if same else [f"reviews_{i}" for i in range(NUM_PROCESSES)]
    pipelines = [pipeline_in(tmp_path, catalog, files, name) for name in names]
    writers = [Process(run_in_process, pipeline, tmp_path / "home") for pipeline in pipelines]
    done = threading.Event()
    looks: list[Any] = []
    reader = threading.Thread(target=look_on, args=(pipelines[0], done, looks))
    reader.start()
    try:
        results = [writer.result() for writer in writers]
    finally:
        done.set()
        reader.join()
    assert [result["state"] for result in results] == ["done"] * NUM_PROCESSES
    assert not [look for look in looks if isinstance(look, BaseException)]
    assert looks[-1] <= 12 * NUM_FILES
    if same:
        assert sum(result["num_shards"] for result in results) == NUM_FILES
        assert query(pipelines[0].lake, "SELECT sum(num_dropped) FROM _runs") == [(0,)]
    for pipeline in pipelines:
        assert len(table_of(pipeline)) == 12 * NUM_FILES
        assert problems_of(pipeline) == []


def look_on(pipeline: Pipeline, done: threading.Event, looks: list[Any]) -> None:
    """Count rows again and again: whole shards of 12 at every moment."""
    looks.append(0)
    while not done.wait(0.2):
        try:
            with Lake(pipeline.lake, read_only=True) as lake:
                if (
                    lake.cursor()
                    .execute("SELECT 1 FROM duckdb_views() WHERE view_name = ?", [pipeline.name])
                    .fetchone()
                ):
                    [(count,)] = lake.cursor().execute(f"SELECT count(*) FROM {pipeline.name}").fetchall()
                    assert count % 12 == 0
                    looks.append(count)
        except Exception as e:
            if "There is no lake" not in str(e):
                looks.append(e)


@pytest.mark.slow
def test_one_shard_committed_from_two_connections_at_once_is_there_once(tmp_path, catalog):
    spec = make_pipeline(tmp_path, "x", lake={"catalog": catalog}).lake
    shard = Shard(SourceFile("a", "a", 1, "c"), Slice(0, 500, 0, 0, "content", 1))
    table = ResultTable("reviews", "v1", (), (("label", "VARCHAR"),))
    rows = pa.table({"row_number": range(500)})
    predictions = rows.append_column("label", pa.array(["POSITIVE"] * 500))
    for name, kind in (
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("stage", pa.string()),
        ("reason", pa.string()),
    ):
        predictions = predictions.append_column(name, pa.nulls(500, kind))
    with Lake(spec) as lake:
        ensure_system_tables(lake)
        target = Target("reviews", "v1", "r1", "run", table, "kept")
        adopt(lake, target, Adoption([(shard.file, 1)], [shard], [(shard.shard_id, "new")], {}, [], {}, None))
    barrier = threading.Barrier(2)

    def commit(lake: Lake, request_id: str) -> int:
        barrier.wait()
        item = Computed(shard, request_id, lambda: (rows, predictions))
        return commit_shards(lake, target, [item]).num_committed

    update = "UPDATE _requests SET request_id = ?"
    with Lake(spec) as one, Lake(spec) as other, ThreadPoolExecutor(2) as pool:
        for asked in "abcde":
            one.write(methodcaller("execute", update, [asked]), message="ask")
            assert sum(pool.map(commit, [one, other], [asked, asked])) == 1
            assert sum(pool.map(commit, [one, other], [asked, "not asked for"])) == 0
            assert query(spec, "SELECT count(*), count(DISTINCT row_number) FROM reviews") == [(500, 500)]
            assert query(spec, "SELECT count(*) FROM _ledger") == [(1,)]


def test_a_lock_held_too_long_is_a_retryable_error_that_names_the_option(tmp_path, catalog):
    spec = make_pipeline(tmp_path, "x", lake={"catalog": catalog, "lock_timeout_seconds": 0.2}).lake
    with Lake(spec) as lake:
        ensure_system_tables(lake)
        other = open_lock(spec)
        with other.held(), pytest.raises(LakeLocked, match=r"lake\.lock_timeout_seconds") as locked:
            lake.write(lambda cursor: None, message="wait")
        other.close()
        assert locked.value.retryable
        lake.write(lambda cursor: None, message="free again")
