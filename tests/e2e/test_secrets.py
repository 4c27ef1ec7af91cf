"""A password in a pipeline file is in nothing that the commands print or the lake records."""

from __future__ import annotations

import json

import pytest

from tests.commands import tidemill, write_toml
from tests.pipelines import reviews, write_parquet
from tests.postgres import create_database, create_user

PASSWORD, PIECES = "Tr0ub 4dor", ("Tr0ub", "4dor")


@pytest.fixture
def catalog(postgres_server: str) -> str:
    user, database = create_user(postgres_server, PASSWORD), create_database(postgres_server)
    return f"postgres:{postgres_server} dbname={database} user={user} password = '{PASSWORD}'"


def test_no_command_prints_and_no_table_holds_the_catalogs_password(tmp_path, catalog):
    home = tmp_path / "home"
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 20))
    toml = write_toml(tmp_path, f"{tmp_path}/data/*")
    toml.write_text(toml.read_text() + f"[lake]\ncatalog = {json.dumps(catalog)}\ndata = '{tmp_path}/lake'\n")
    commands = [
        ("run", toml, "--direct"),
        ("plan", toml),
        ("status", toml),
        ("verify", toml),
        ("gc", toml, "--dry-run"),
        ("forget", toml, "--where", "true"),
        ("sql", toml, "DROP TABLE reviews"),
        ("sql", catalog, "SELECT 1 FROM nowhere"),
        ("sql", catalog.replace("dbname=", "dbname=no"), "SELECT 1"),
        ("migrate", catalog),
        ("plan", toml, "--set", f"lake.catalog=mysql:{catalog}"),
        ("deploy", toml),
    ]

    said = [done.stdout + done.stderr for done in (tidemill(*words, home=home) for words in commands)]
    tables = [
        tidemill("sql", toml, f"FROM {table}", "--json", home=home).stdout
        for table in ("_pipelines", "_versions", "_files", "_ledger", "_runs", "ducklake_snapshots('lake')")
    ]

    assert "Nobody is here to ask" in said[5]
    assert '"kind":"run"' in tables[4]
    for text in (*said, *tables):
        assert text
        assert not [piece for piece in PIECES if piece in text], text
