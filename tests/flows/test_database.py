"""The database that a Prefect server begins with: a copy of one that all migrations have made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import metadata

import pytest
from prefect.settings import PREFECT_HOME, temporary_settings

from tidemill.flows.gate import _lay_out_own_database


@pytest.fixture
def template(tmp_path, monkeypatch):
    """What an earlier server has left, as small as can be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = tmp_path / "tidemill" / f"prefect-{metadata.version('prefect')}.sqlite"
    made.parent.mkdir()
    with closing(sqlite3.connect(made)) as database, database:
        database.execute("CREATE TABLE laid_out (number INTEGER)")
    return made


def test_a_server_begins_with_a_whole_copy_and_leaves_nothing_beside_it(tmp_path, template):
    home = tmp_path / "prefect"
    with temporary_settings({PREFECT_HOME: home}):
        _lay_out_own_database()
    assert [path.name for path in home.iterdir()] == ["prefect.db"]
    assert (home / "prefect.db").read_bytes() == template.read_bytes()


def test_a_database_that_is_there_stays(tmp_path, template):
    home = tmp_path / "prefect"
    home.mkdir()
    (home / "prefect.db").write_bytes(b"its own")
    with temporary_settings({PREFECT_HOME: home}):
        _lay_out_own_database()
    assert (home / "prefect.db").read_bytes() == b"its own"


def test_where_the_settings_name_another_database_none_is_made(tmp_path, template, monkeypatch):
    home = tmp_path / "prefect"
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://db/prefect")
    with temporary_settings({PREFECT_HOME: home}):
        _lay_out_own_database()
    assert not (home / "prefect.db").exists()
