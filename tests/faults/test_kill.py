"""SIGKILL at random moments: the next run's table equals an undisturbed run's."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tests.pipelines import assert_same_tables, make_pipeline, problems_of, reviews, run, table_of, write_parquet
from tests.processes import Process, run_in_process
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.lake.pipelines import Target
from tidemill.planning.columns import kept_fingerprint
from tidemill.results.adoption import adopt
from tidemill.running.run import Run, adoption_of
from tidemill.running.stages.workspace import predictions_file
from tidemill.storage.store import Store

SEED = 7


def write_revision(folder: Path, revision: int, num_files: int) -> None:
    """Two shards a file; the second revision changes a third of the files, removes one and renames one."""
    for i in range(num_files):
        changed = revision == 2 and i % 3 == 0
        table = reviews(20 * i + (1000 if changed else 0), 16)
        write_parquet(folder / f"part-{i:02}.parquet", table, row_group_size=8)
    if revision == 2:
        (folder / "part-01.parquet").unlink()
        (folder / "part-02.parquet").rename(folder / "renamed.parquet")


def pipeline_over(folder: Path, files: Path) -> Pipeline:
    return make_pipeline(folder, f"{files}/*", dataset={"shard_bytes": 900})


@pytest.mark.parametrize(("num_kills", "num_files"), [(1, 6), pytest.param(100, 12, marks=pytest.mark.soak)])
def test_a_run_killed_at_any_moment_is_completed_by_the_next(tmp_path, num_kills, num_files):
    draw = random.Random(SEED)
    first, second = tmp_path / "first", tmp_path / "second"
    write_revision(first, 1, num_files)
    write_revision(second, 2, num_files)
    files = tmp_path / "files"
    expected = pipeline_over(tmp_path / "expected", second)
    started = time.monotonic()
    assert Process(run_in_process, expected, tmp_path / "home").result()["num_shards"] >= 2 * num_files - 4
    duration = time.monotonic() - started
    num_killed = 0
    for attempt in range(num_kills):
        # Every second attempt is killed while it takes up the second revision.
        disturbed = pipeline_over(tmp_path / f"disturbed-{attempt}", files)
        if attempt % 2:
            point(files, first)
            Process(run_in_process, disturbed, tmp_path / "home").result()
        point(files, second)
        process = Process(run_in_process, disturbed, tmp_path / "home")
        time.sleep(draw.uniform(0.0, duration) if attempt else 0.0)  # The first is killed before it can have ended.
        num_killed += process.kill()
        result = Process(run_in_process, disturbed, tmp_path / "home").result()
        assert result["state"] == "done"
        assert problems_of(disturbed) == []
        assert_same_tables(disturbed, expected)
        assert not list((tmp_path / f"disturbed-{attempt}" / "store" / "predictions").iterdir())
    assert num_killed > 0


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [1, pytest.param(60, marks=pytest.mark.soak)])
def test_a_run_killed_while_it_copies_unchanged_rows_is_completed_by_the_next(tmp_path, num_kills):
    """Each file changes in one row, and one of them is named anew."""
    draw = random.Random(SEED)
    first, second, files = tmp_path / "first", tmp_path / "second", tmp_path / "files"
    for i in range(4):
        rows = reviews(20 * i, 16)
        write_parquet(first / f"part-{i}.parquet", rows, row_group_size=8)
        changed = rows.to_pydict()
        changed["text"][i] = f"Changed in file {i}."
        name = "named-anew" if i == 3 else f"part-{i}"
        write_parquet(second / f"{name}.parquet", pa.table(changed, schema=rows.schema), row_group_size=8)
    expected = pipeline_over(tmp_path / "expected", second)
    Process(run_in_process, expected, tmp_path / "home").result()
    duration = None
    for attempt in range(num_kills + 1):
        disturbed = pipeline_over(tmp_path / f"disturbed-{attempt}", files)
        point(files, first)
        Process(run_in_process, disturbed, tmp_path / "home").result()
        point(files, second)
        started = time.monotonic()
        process = Process(run_in_process, disturbed, tmp_path / "home")
        if duration is None:
            assert process.result()["num_unchanged"] == 4 * 15
            duration = time.monotonic() - started
        else:
            time.sleep(draw.uniform(0.0, duration))
            process.kill()
            assert Process(run_in_process, disturbed, tmp_path / "home").result()["state"] == "done"
        assert problems_of(disturbed) == []
        assert_same_tables(disturbed, expected)
        # However often it was begun, no shard had more to compute than its changed row.
        with Lake(disturbed.lake, read_only=True) as lake:
            counts = lake.cursor().execute("SELECT max(num_rows - num_unchanged), sum(num_unchanged) FROM _ledger")
            assert counts.fetchall() == [(1, 4 * 15)]


def test_predictions_that_outlived_their_commit_leave_with_the_next_run(tmp_path):
    """As a run leaves them that is killed between its commit and their removal."""
    write_parquet(tmp_path / "data" / "part.parquet", reviews(0, 8))
    pipeline = pipeline_over(tmp_path, tmp_path / "data")
    run(pipeline)
    with Lake(pipeline.lake, read_only=True) as lake:
        done = lake.cursor().execute("SELECT pipeline, version, shard_id, request_id FROM _ledger").fetchall()
    store = Store(pipeline.store.path, max_bytes=2**20)
    name, version, shard_id, _ = done[0]
    of_another_request = predictions_file(name, version, shard_id, "another")
    for file in (*(predictions_file(*each) for each in done), of_another_request):
        store.write(file, pa.table({"row_number": [0]}))

    run(pipeline)

    assert store.names("predictions") == {of_another_request.name}


def point(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


@pytest.mark.slow
def test_a_run_killed_once_it_took_up_a_revision_leaves_a_renamed_file_renamed(tmp_path):
    """It is no vanished file, whose rows would be too many to remove unasked."""
    for i in range(2):
        write_parquet(tmp_path / "files" / f"{i}.parquet", reviews(8 * i, 8))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/files/*", limits={"max_removed": 0.0})
    run(pipeline)
    (tmp_path / "files" / "0.parquet").rename(tmp_path / "files" / "renamed.parquet")
    killed = Run(pipeline)
    plan = killed.prepare()
    with Lake(pipeline.lake) as lake:
        target = Target(
            pipeline.name, plan.version, plan.revision, killed.run_id, plan.table, kept_fingerprint(plan.kept)
        )
        assert adopt(lake, target, adoption_of(plan))

    result = run(pipeline)

    assert (result.state, result.num_copied, result.num_tokens) == ("done", 1, 0)
    assert {path for path, _ in table_of(pipeline)} == {"1.parquet", "renamed.parquet"}
    assert problems_of(pipeline) == []
