"""What opening a lake leaves in place: DuckDB's guard, and statistics of tables that hold nothing yet."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb
import pytest

from tidemill import config
from tidemill.errors import LakeError
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.ducklake.connection import CATALOG, extension_file
from tidemill.lake.tables import SYSTEM_TABLES


@pytest.fixture
def lake(tmp_path):
    with Lake(config.Lake(catalog=f"sqlite:{tmp_path}/lake.sqlite", data=f"{tmp_path}/lake")) as lake:
        ensure_system_tables(lake)
        yield lake


def test_sql_cannot_load_an_extension_whose_signature_is_wrong(lake, tmp_path):
    forged = tmp_path / "postgres_scanner.duckdb_extension"
    body = bytearray(Path(extension_file("postgres_scanner")).read_bytes())
    body[-1] ^= 1
    forged.write_bytes(body)
    cursor = lake.cursor()
    for statement in ("SELECT 1", "SET allow_unsigned_extensions = true"):
        with contextlib.suppress(duckdb.InvalidInputException):
            cursor.execute(statement)
        with pytest.raises(duckdb.Error, match="signature"):
            cursor.execute(f"LOAD '{forged}'")


def test_one_snapshot_is_the_lake_as_it_was_when_it_was_opened(lake):
    count = "SELECT count(*) FROM _layout"
    with Lake(lake.spec, read_only=True, one_snapshot=True) as reader:
        lake.write(lambda cursor: cursor.execute("INSERT INTO _layout SELECT * FROM _layout"), message="twice")
        assert reader.cursor().execute(count).fetchall() == [(1,)]
        assert reader.cursor().execute(count).fetchall() == [(1,)]
    assert lake.cursor().execute(count).fetchall() == [(2,)]


def test_one_snapshot_of_another_layout_is_refused(lake):
    lake.write(lambda cursor: cursor.execute("UPDATE _layout SET layout_version = 99"), message="newer")
    with pytest.raises(LakeError, match="layout 99"):
        Lake(lake.spec, read_only=True, one_snapshot=True)


def test_a_name_in_sql_is_never_a_variable_of_python(lake):
    rows = duckdb.sql("SELECT 1 AS one")
    with pytest.raises(duckdb.CatalogException, match="rows"):
        lake.cursor().execute("SELECT * FROM rows")
    assert rows.fetchall() == [(1,)]


def test_whoever_scans_tables_gets_all_threads_and_small_statements_one(lake):
    setting = "SELECT current_setting('threads')"
    with duckdb.connect() as alone, Lake(lake.spec, read_only=True, scans=True) as scanning:
        assert scanning.cursor().execute(setting).fetchall() == alone.execute(setting).fetchall()
    assert lake.cursor().execute(setting).fetchall() == [(1,)]


def test_all_statements_of_a_snapshot_see_the_lake_as_it_was(lake):
    runs = "SELECT count(*) FROM _runs"
    with lake.snapshot() as cursor:
        assert cursor.execute(runs).fetchall() == [(0,)]
        lake.write(lambda other: other.execute("INSERT INTO _runs (run_id) VALUES ('r')"), message="a run")
        assert cursor.execute(runs).fetchall() == [(0,)]
    with lake.snapshot() as cursor:
        assert cursor.execute(runs).fetchall() == [(1,)]


def test_every_system_table_is_empty_but_has_statistics(lake):
    """Without them DuckLake looks at each column again for every query of an empty table."""
    cursor = lake.cursor()
    counted = {name: cursor.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in SYSTEM_TABLES}
    assert counted == {name: int(name == "_layout") for name in SYSTEM_TABLES}
    known = cursor.execute(
        f"SELECT table_name FROM {CATALOG}.ducklake_table JOIN {CATALOG}.ducklake_table_stats USING (table_id)"
    ).fetchall()
    assert {name for (name,) in known} == set(SYSTEM_TABLES)
