"""A lake that an older Tidemill wrote is refused with the command that migrates it, and works after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands import tidemill
from tests.lakes import take_listings_back_to_layout_3, take_rows_back_to_layout_4
from tests.pipelines import make_pipeline, problems_of, query, reviews, run, table_of, write_parquet
from tidemill.config import Pipeline
from tidemill.errors import LakeError
from tidemill.lake import Lake
from tidemill.lake.ducklake.connection import LAYOUT_VERSION
from tidemill.lake.tables import SYSTEM_TABLES, SYSTEM_VIEWS, existing_columns
from tidemill.planning.plan import make_plan
from tidemill.reports.status import pipeline_status
from tidemill.results.migration.layouts import STEPS, migrate, to_layout_2, to_layout_4

LAYOUT_1 = {
    "_requests": """
        pipeline VARCHAR, version VARCHAR, shard_id VARCHAR, request_id VARCHAR, run_id VARCHAR,
        reason VARCHAR, requested_at TIMESTAMPTZ""",
    "_ledger": """
        pipeline VARCHAR, version VARCHAR, shard_id VARCHAR, path VARCHAR, content VARCHAR, request_id VARCHAR,
        run_id VARCHAR, revision VARCHAR, kept VARCHAR, copied_from VARCHAR, num_rows BIGINT,
        num_quarantined BIGINT, num_distinct BIGINT, num_tokens BIGINT,
        num_computed_tokens BIGINT, num_padded_tokens BIGINT,
        ingest_seconds DOUBLE, tokenize_seconds DOUBLE, infer_seconds DOUBLE, device VARCHAR, resolved JSON,
        committed_at TIMESTAMPTZ""",
    "_runs": """
        run_id VARCHAR, pipeline VARCHAR, version VARCHAR, revision VARCHAR, kind VARCHAR, who VARCHAR, host VARCHAR,
        pid INTEGER, why VARCHAR, flow_run_id VARCHAR, state VARCHAR, started_at TIMESTAMPTZ,
        finished_at TIMESTAMPTZ, num_shards BIGINT, num_shards_failed BIGINT, num_copied BIGINT, num_rows BIGINT,
        num_quarantined BIGINT, num_rows_removed BIGINT, num_tokens BIGINT, num_retries BIGINT,
        estimated_seconds DOUBLE, seconds DOUBLE, cost DOUBLE, currency VARCHAR, message VARCHAR""",
}
"""The tables that later layouts changed, as the first release made them; those that are missing are new."""


def take_back_to_layout_1(pipeline: Pipeline) -> None:
    def body(cursor: Any) -> None:
        take_rows_back_to_layout_4(cursor)
        take_listings_back_to_layout_3(cursor)
        for table, columns in LAYOUT_1.items():
            cursor.execute(f"CREATE TABLE {table}__old ({columns})")
            names = ", ".join(name for name, _ in existing_columns(cursor, f"{table}__old"))
            cursor.execute(f"INSERT INTO {table}__old SELECT {names} FROM {table}")
            cursor.execute(f"DROP TABLE {table}")
            cursor.execute(f"ALTER TABLE {table}__old RENAME TO {table}")
        for table in ("_backfills", "_forgotten", "_data_files"):
            cursor.execute(f"DROP TABLE {table}")
        cursor.execute("UPDATE _layout SET layout_version = 1")

    with Lake(pipeline.lake) as lake:
        lake.write(body, message="as layout 1 was")
    for owner_file in Path(pipeline.lake.data).glob("tidemill-lake-*"):
        owner_file.unlink()


def columns_of(pipeline: Pipeline) -> dict[str, set[tuple[str, str]]]:
    with Lake(pipeline.lake, read_only=True, any_layout=True) as lake:
        return {table: set(existing_columns(lake.cursor(), table)) for table in (*SYSTEM_TABLES, *SYSTEM_VIEWS)}


@pytest.fixture
def old(tmp_path: Path) -> Pipeline:
    """A lake of layout 1, with rows in it."""
    for i in range(2):
        write_parquet(tmp_path / "data" / f"part-{i}.parquet", reviews(50 * i, 30))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*")
    run(pipeline)
    take_back_to_layout_1(pipeline)
    return pipeline


@pytest.mark.slow
def test_an_older_lake_is_refused_until_it_is_migrated_and_works_then(old, tmp_path):
    catalog, home = old.lake.catalog, tmp_path / "home"
    with pytest.raises(LakeError, match=r"has layout 1; .* `tidemill migrate 'sqlite:.*'`"):
        run(old)
    refused = tidemill("sql", catalog, "SELECT 1", home=home)
    assert (refused.returncode, "tidemill migrate" in refused.stderr) == (2, True)

    first, again = (tidemill("migrate", catalog, home=home) for _ in range(2))

    assert first.returncode == 0, first.stderr
    assert f"from layout 1 to {LAYOUT_VERSION}" in first.stdout
    assert "new in _ledger: num_forgotten" in first.stdout
    assert (again.returncode, "is current" in again.stdout) == (0, True)
    fresh = make_pipeline(tmp_path / "fresh", f"{tmp_path}/data/*")
    before = table_of(old)
    run(fresh)
    assert columns_of(old) == columns_of(fresh)
    write_parquet(tmp_path / "data" / "part-1.parquet", reviews(300, 40))
    assert (run(old).state, run(fresh).state) == ("done", "done")
    assert table_of(old).keys() == table_of(fresh).keys() != before.keys()
    assert problems_of(old) == []
    assert pipeline_status(old)["rows"] == 70


@pytest.mark.slow
def test_listings_of_every_revision_survive_the_step_that_writes_each_file_once(tmp_path):
    """Four revisions of a folder, of which the last is the first again."""
    data = tmp_path / "data"
    write_parquet(data / "a.parquet", reviews(0, 20))
    write_parquet(data / "b.parquet", reviews(40, 20))
    pipeline = make_pipeline(tmp_path / "one", f"{data}/*")
    run(pipeline)
    write_parquet(data / "b.parquet", reviews(80, 30))
    run(pipeline)
    write_parquet(data / "c.parquet", reviews(120, 20))
    run(pipeline)
    (data / "c.parquet").unlink()
    write_parquet(data / "b.parquet", reviews(40, 20))
    run(pipeline, yes=True)
    before, table = listings_of(pipeline), table_of(pipeline)
    with Lake(pipeline.lake) as lake:
        lake.write(take_listings_back_to_layout_3, message="as layout 3 was")
        old = listings_of(pipeline, "_files", "_shards")
        lake.write(to_layout_4, message="migrate")

    assert before == listings_of(pipeline) == old
    assert len({revision for revision, *_ in before}) == 3
    assert query(pipeline.lake, "SELECT path, count(*) FROM _files GROUP BY path ORDER BY path") == [
        ("a.parquet", 1),
        ("b.parquet", 2),
        ("c.parquet", 1),
    ]
    with Lake(pipeline.lake, read_only=True) as lake:
        plan, _ = make_plan(pipeline, lake)
    assert plan.is_up_to_date
    assert (table_of(pipeline), problems_of(pipeline)) == (table, [])
    write_parquet(data / "a.parquet", reviews(0, 25))
    assert run(pipeline).num_shards == 1
    assert problems_of(pipeline) == []


def listings_of(pipeline: Pipeline, files: str = "_revision_files", shards: str = "_revision_shards") -> list[Any]:
    return query(
        pipeline.lake,
        "SELECT f.revision, path, f.url, f.size, f.content, f.num_shards, s.shard_id, s.first_row, s.num_rows "
        f"FROM {files} f LEFT JOIN {shards} s USING (pipeline, revision, path) ORDER BY ALL",
    )


@pytest.mark.slow
def test_a_step_that_raises_leaves_the_lake_as_it_was(old):
    columns = columns_of(old)

    def fails(cursor: Any) -> list[str]:
        cursor.execute("ALTER TABLE _runs ADD COLUMN never VARCHAR")
        cursor.execute("DROP TABLE _ledger")
        raise RuntimeError("a step fails")

    with pytest.raises(RuntimeError, match="a step fails"):
        migrate(old.lake, steps=(to_layout_2, fails))

    assert columns_of(old) == columns
    with pytest.raises(LakeError, match="has layout 1"):
        run(old)
    assert migrate(old.lake).changes
    assert problems_of(old) == []


@pytest.mark.slow
def test_a_newer_lake_is_refused_by_every_command(tmp_path):
    home = tmp_path / "home"
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 20))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*")
    run(pipeline)
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: cursor.execute("UPDATE _layout SET layout_version = 99"), message="newer")

    for command in (["migrate", pipeline.lake.catalog], ["sql", pipeline.lake.catalog, "SELECT 1"]):
        done = tidemill(*command, home=home)
        assert done.returncode == 2
        assert "layout 99" in done.stderr
        assert "as new as the one that wrote it" in done.stderr


def test_there_is_nothing_to_migrate_where_no_lake_is(tmp_path):
    done = tidemill("migrate", f"sqlite:{tmp_path}/none.sqlite", home=tmp_path / "home")
    assert (done.returncode, "no lake to migrate" in done.stderr) == (2, True)
    assert not (tmp_path / "none.sqlite").exists()


def test_there_is_a_step_from_every_layout_to_the_next():
    assert len(STEPS) == LAYOUT_VERSION - 1
