"""A backup made while a run writes is whole, and goes on where it is put back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.pipelines import assert_same_tables, make_pipeline, problems_of, reviews, run, table_of, write_parquet
from tests.postgres import create_database, find_initdb
from tests.processes import Process, run_in_process, wait_until
from tests.variants import variants
from tidemill.config import Pipeline
from tidemill.errors import LakeError
from tidemill.lake.ducklake.catalog import catalog_exists

NUM_FILES = 5


def num_done(pipeline: Pipeline) -> int:
    return len(list(Path(pipeline.lake.data).rglob("ducklake-*.parquet")))


def back_up(pipeline: Pipeline, backup: Path) -> None:
    """As docs/operations.md says: the catalog first, then the files that it names, which never change."""
    kind, _, where = pipeline.lake.catalog.partition(":")
    if kind == "sqlite":
        copy = f"import sqlite3; sqlite3.connect({where!r}).execute(\"VACUUM INTO '{backup}/lake.sqlite'\")"
        subprocess.run([sys.executable, "-c", copy], check=True)
    else:
        dump = [str(pg_tool("pg_dump")), "-Fc", "-f", f"{backup}/lake.dump", where]
        subprocess.run(dump, check=True, capture_output=True)
    shutil.copytree(pipeline.lake.data, backup / "lake")


def put_back(pipeline: Pipeline, backup: Path, folder: Path, postgres_server: str = "") -> Pipeline:
    """Beside the original: so the catalog has to be told where its data lies now."""
    shutil.copytree(backup / "lake", folder / "lake")
    moved = f"UPDATE ducklake_metadata SET value = '{folder}/lake/' WHERE key = 'data_path'"
    catalog = f"sqlite:{folder}/lake.sqlite"
    if postgres_server:
        conninfo = f"{postgres_server} dbname={create_database(postgres_server)}"
        restore = [str(pg_tool("pg_restore")), "-d", conninfo, f"{backup}/lake.dump"]
        subprocess.run(restore, check=True, capture_output=True)
        with psycopg.connect(conninfo, autocommit=True) as session:
            session.execute(moved)
        catalog = f"postgres:{conninfo}"
    else:
        shutil.copy(backup / "lake.sqlite", folder / "lake.sqlite")
        script = f"import sqlite3; c = sqlite3.connect('{folder}/lake.sqlite'); c.execute({moved!r}); c.commit()"
        subprocess.run([sys.executable, "-c", script], check=True)
    return make_pipeline(folder, pipeline.dataset.path, lake={"catalog": catalog, "data": f"{folder}/lake"})


def pg_tool(name: str) -> Path:
    initdb = find_initdb()
    assert initdb is not None
    return initdb.resolve().with_name(name)


@pytest.mark.parametrize("kind", variants(["sqlite", "postgres"], ["sqlite"]))
def test_a_backup_made_while_a_run_writes_is_whole_and_goes_on_elsewhere(kind, tmp_path, request):
    postgres = kind == "postgres"
    lake = {"catalog": request.getfixturevalue("postgres_catalog")} if postgres else {}
    server = request.getfixturevalue("postgres_server") if postgres else ""
    for i in range(NUM_FILES):
        write_parquet(tmp_path / "data" / f"part-{i}.parquet", reviews(60 * i, 60))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", lake=lake)
    (tmp_path / "backup").mkdir()
    running = Process(run_in_process, pipeline, tmp_path / "home")
    wait_until(lambda: num_done(pipeline) >= 2)
    back_up(pipeline, tmp_path / "backup")
    running.result()

    restored = put_back(pipeline, tmp_path / "backup", tmp_path / "two", server)

    assert problems_of(restored) == []
    rows = table_of(restored)
    assert 0 < len(rows) <= 60 * NUM_FILES
    assert run(restored).num_shards == NUM_FILES - len(rows) // 60
    assert_same_tables(restored, pipeline)
    assert problems_of(pipeline) == []


def test_a_lake_that_was_moved_whole_is_found_and_a_copy_beside_it_is_refused(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 20))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*")
    run(pipeline)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    moved = make_pipeline(tmp_path / "two", f"{tmp_path}/data/*")
    with pytest.raises(LakeError, match=r"keeps its data in .*/one/lake"):
        run(moved)

    shutil.rmtree(tmp_path / "one")

    assert catalog_exists(moved.lake)
    assert run(moved).num_shards == 0
    assert problems_of(moved) == []
