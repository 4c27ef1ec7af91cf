"""Housekeeping removes what nobody needs, and nothing that somebody does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.commands import answer, tidemill, write_toml
from tests.holding import Transaction
from tests.pipelines import make_pipeline, problems_of, query, reviews, run, table_of, write_parquet
from tests.prepared import Prepared
from tests.variants import variants
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.lake.ducklake.connection import CATALOG
from tidemill.results.retirement import remove_shards
from tidemill.storage.conversions import conversion_folder, keep_conversion
from tidemill.storage.features import features_file
from tidemill.upkeep.housekeeping import DAY_SECONDS, collect_garbage, has_done_something

ORPHAN = "ducklake-00000000-0000-7000-8000-000000000000.parquet"


def make_lake(tmp_path: Path, **lake: Any) -> Pipeline:
    """A lake with several small files and two dataset revisions, of which the second replaced a file."""
    for i in range(4):
        write_parquet(tmp_path / "data" / f"part-{i}.parquet", reviews(80 * i, 60))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", lake=lake)
    run(pipeline)
    write_parquet(tmp_path / "data" / "part-3.parquet", reviews(400, 70))
    run(pipeline)
    return pipeline


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Pipeline]:
    folder = tmp_path_factory.mktemp("made")
    pipeline = make_lake(folder)
    return Prepared(folder), pipeline


@pytest.fixture
def made(prepared: tuple[Prepared, Pipeline]) -> Pipeline:
    lake, pipeline = prepared
    lake.put_back()
    return pipeline


def let_days_pass(pipeline: Pipeline, days: int) -> None:
    """Everything that is there was written so many days earlier."""
    with Lake(pipeline.lake) as lake, lake.locked():
        cursor = lake.cursor()
        for table, column in (("snapshot", "snapshot_time"), ("files_scheduled_for_deletion", "schedule_start")):
            cursor.execute(
                f"UPDATE {CATALOG}.ducklake_{table} SET {column} = {column}::TIMESTAMPTZ - INTERVAL {days} DAY"
            )
    for folder in (pipeline.lake.data, pipeline.store.path):
        for path in Path(folder).rglob("*.*"):
            os.utime(path, (path.stat().st_mtime - days * DAY_SECONDS,) * 2)


def parquet_files(pipeline: Pipeline) -> set[str]:
    return {path.name for path in Path(pipeline.lake.data).rglob("*.parquet")}


def count_of(pipeline: Pipeline, table: str) -> int:
    return int(query(pipeline.lake, f"SELECT count(*) FROM {table}")[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", variants(["sqlite", "postgres"], ["sqlite"]))
def test_an_open_insert_and_an_open_reader_are_left_alone(kind, tmp_path, request):
    if kind == "postgres":
        pipeline = make_lake(tmp_path, catalog=request.getfixturevalue("postgres_catalog"))
    else:
        pipeline = request.getfixturevalue("made")
    table = query(pipeline.lake, "SELECT 'reviews__' || promoted_version FROM _pipelines")[0][0]
    assert collect_garbage(pipeline, dry_run=False)["merged_files"] == {table: 4}
    written = next(Path(pipeline.lake.data).rglob("ducklake-*.parquet"))
    shutil.copy(written, written.with_name(ORPHAN))
    Path(pipeline.lake.data, "main", "theirs.parquet").touch()
    let_days_pass(pipeline, 40)
    before, files = table_of(pipeline), parquet_files(pipeline)
    count = "SELECT count(*), sum(row_number) FROM reviews"
    reader = Transaction(pipeline.lake, tmp_path / "reader", [count])
    insert = f"INSERT INTO {table} SELECT * REPLACE ('open' AS shard_id) FROM {table} LIMIT 60"
    writer = Transaction(pipeline.lake, tmp_path / "writer", [insert], writing=True)
    [inserted] = parquet_files(pipeline) - files

    facts = collect_garbage(pipeline, dry_run=False)

    assert (facts["orphans"], facts["old_files"], facts["expired_snapshots"] > 10) == (1, 4, True)
    assert parquet_files(pipeline) >= {inserted, "theirs.parquet"}
    assert reader.end(count) == [list(row) for row in query(pipeline.lake, count)]
    answer = writer.end("COMMIT")
    # A transaction that began before another's commit is refused.
    assert ("locked" if kind == "sqlite" else "duplicate key") in answer
    assert count_of(pipeline, "reviews") == len(before)
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: cursor.execute(f"DELETE FROM {table} WHERE shard_id = 'open'"), message="away")
    assert table_of(pipeline) == before
    assert problems_of(pipeline) == []
    assert run(pipeline).num_shards == 0


@pytest.mark.slow
def test_what_nobody_needs_is_named_first_and_then_removed(made):
    """A listing of a revision that left no row, an abandoned rewrite, and store files; not those of an open request."""
    pipeline = made
    [(version, kept, shard)] = query(
        pipeline.lake, "SELECT version, kept, shard_id FROM _ledger WHERE path = 'part-0.parquet'"
    )
    table = f"reviews__{version}"
    write_parquet(Path(pipeline.dataset.path).parent / "part-3.parquet", reviews(600, 30))
    run(pipeline)
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: cursor.execute(f"CREATE TABLE {table}__{kept} AS FROM {table}"), message="rewrite")
        lake.write(lambda cursor: remove_shards(cursor, "reviews", version, [shard], wanted_still=True), message="open")
    let_days_pass(pipeline, 2)
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: cursor.execute(f"CREATE TABLE {table}__0badcafe AS FROM {table}"), message="rewrite")
    keep_conversion("unused", lambda folder: folder.mkdir())
    os.utime(conversion_folder("unused"), (0, 0))
    features_file("unused").parent.mkdir()
    features_file("unused").touch()
    os.utime(features_file("unused"), (0, 0))
    before, files, listed = table_of(pipeline), parquet_files(pipeline), count_of(pipeline, "_files")

    looked = collect_garbage(pipeline, dry_run=True)
    assert (table_of(pipeline), parquet_files(pipeline), count_of(pipeline, "_files")) == (before, files, listed)
    done = collect_garbage(pipeline, dry_run=False)
    again = collect_garbage(pipeline, dry_run=True)

    assert looked["abandoned_tables"] == [f"{table}__{kept}"]
    assert looked["left_over_rows"] == {"_shards": 1, "_files": 1, "_revisions": 1}
    assert looked["store_files"] == 10
    assert (looked["conversions"], conversion_folder("unused").exists()) == (1, False)
    assert (looked["features"], features_file("unused").exists()) == (1, False)
    assert {**looked, "dry_run": False, "seconds": 0} == {**done, "seconds": 0}
    assert not has_done_something(again)
    assert {path.parent.name for path in Path(pipeline.store.path).rglob("*.arrow")} == {"rows", "tokens"}
    assert query(pipeline.lake, "SELECT state FROM _runs WHERE kind = 'gc'") == [("done",)]
    assert (run(pipeline).num_shards, len(table_of(pipeline)), problems_of(pipeline)) == (1, 210, [])


def test_files_in_a_folder_that_two_lakes_share_are_no_orphans(made, tmp_path):
    pipeline = made
    other = make_pipeline(tmp_path / "other", pipeline.dataset.path, lake={"data": pipeline.lake.data})
    run(other)
    let_days_pass(pipeline, 3)

    done = collect_garbage(other, dry_run=False)

    assert done["orphans"] == 0
    assert "Another lake keeps its data" in done["notes"][0]
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_the_command_says_what_it_would_do_and_does_it_with_yes(tmp_path):
    home = tmp_path / "home"
    for i in range(3):
        write_parquet(tmp_path / "data" / f"part-{i}.parquet", reviews(80 * i, 60))
    toml = write_toml(tmp_path, f"{tmp_path}/data/*", extra="[limits]\nshards_together = 1\n")
    assert tidemill("gc", toml, home=home).returncode == 2
    answer("run", toml, "--direct", home=home)

    looked = tidemill("gc", toml, home=home)
    done = tidemill("gc", toml, "--yes", home=home)

    assert looked.returncode == 0, looked.stderr
    assert "merge 3 files of reviews__" in looked.stdout
    assert f"tidemill gc {toml} --yes" in looked.stdout
    assert (done.returncode, "done in" in done.stdout) == (0, True)
    assert "nothing to do" in tidemill("gc", toml, home=home).stdout
