"""A catalog is the same lake in every spelling, and one that is there is never taken for none."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tidemill import config
from tidemill.errors import ConfigError, InputError, LakeError, LakeLocked
from tidemill.lake import Lake, catalog_exists, ensure_system_tables
from tidemill.lake.ducklake import catalog as lake_catalog
from tidemill.lake.ducklake.claims import open_claims
from tidemill.lake.ducklake.data import DataFolder
from tidemill.pipeline_file import lake_to_read, named_catalog
from tidemill.places import catalog_with_options, settled_catalog
from tidemill.upkeep.housekeeping import impatient

SECRET = "p w'd\\%@:/#?&="
USER, DATABASE = "o'dd u\\ser", "my db'\"x"
ODD_NAMES = ["with blank", "q?mode=ro", "h#x", "it's", "per%20cent", "ünï", "semi;colon", "a[1]*"]


def addresses(host: str, port: str) -> list[str]:
    """One database in all the ways that PostgreSQL knows."""
    user, secret, database = (quote(part, safe="") for part in (USER, SECRET, DATABASE))
    place = f"{user}:{secret}@{host}:{port}/{database}?application_name=a%20b&options=-c%20work_mem%3D8MB"
    quoted = [part.replace("\\", "\\\\").replace("'", "\\'") for part in (USER, SECRET, DATABASE)]
    keywords = f"user = '{quoted[0]}' password='{quoted[1]}' dbname='{quoted[2]}' application_name='a b'"
    return [
        *(f"{kind}://{place}" for kind in ("postgres", "postgresql")),
        *(f"postgres:{kind}://{place}" for kind in ("postgres", "postgresql")),
        *(
            f"{kind}:host={host} port={port} {keywords} options='-c work_mem=8MB'"
            for kind in ("postgres", "postgresql")
        ),
    ]


def test_a_database_has_one_spelling_whichever_it_was_given_in():
    spelled = [settled_catalog(address) for address in addresses("db.internal", "5433")]
    facts = [conninfo_to_dict(catalog.removeprefix("postgres:")) for catalog in spelled]

    assert facts == len(facts) * [
        {
            "host": "db.internal",
            "port": "5433",
            "user": USER,
            "password": SECRET,
            "dbname": DATABASE,
            "application_name": "a b",
            "options": "-c work_mem=8MB",
        }
    ]
    assert [settled_catalog(catalog) for catalog in spelled] == spelled
    assert conninfo_to_dict(catalog_with_options(spelled[0], "-c lock_timeout=1s").removeprefix("postgres:")) == facts[
        0
    ] | {"options": "-c work_mem=8MB -c lock_timeout=1s"}


def test_a_database_is_one_lake_in_every_spelling(postgres_server, tmp_path):
    server = conninfo_to_dict(postgres_server)
    with psycopg.connect(f"{postgres_server} dbname=postgres", autocommit=True) as session:
        session.execute(psycopg.sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(psycopg.sql.Identifier(USER)))
        session.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(DATABASE)))
    for number, address in enumerate(addresses(str(server["host"]), str(server["port"]))):
        spec = config.Lake(catalog=address, data=str(tmp_path / "lake"))
        with Lake(spec) as lake:
            ensure_system_tables(lake)
            lake.write(
                lambda cursor: cursor.execute("INSERT INTO _layout SELECT * FROM _layout LIMIT 1"), message="one"
            )
        assert open_claims(spec).hold(address)
        reader = lake_to_read({"lake": {"catalog": address, "data": spec.data}})
        assert reader is not None
        assert (reader.catalog, named_catalog(address)) == (spec.catalog, spec.catalog)
        with Lake(impatient(spec), read_only=True) as lake:
            assert lake.cursor().execute("SELECT count(*) FROM _layout").fetchall() == [(number + 2,)]


def test_a_file_has_one_spelling_whichever_it_was_given_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settled_catalog("sqlite:~/a b.sqlite") == f"sqlite:{tmp_path}/a b.sqlite"
    assert (
        settled_catalog(f"sqlite:file://{quote(str(tmp_path))}/it%27s%20%23.sqlite")
        == f"sqlite:{tmp_path}/it's #.sqlite"
    )
    assert (
        settled_catalog("sqlite:file:a/b.sqlite") == settled_catalog("sqlite:a/b.sqlite") == named_catalog("a/b.sqlite")
    )


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_kind_are_places_for_catalog_and_data(tmp_path, name):
    folder = tmp_path / name
    spec = config.Lake(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")
    with Lake(spec) as lake:
        ensure_system_tables(lake)
        lake.write(lambda cursor: cursor.execute("CREATE TABLE t AS FROM range(100)"), message="rows")
        assert not DataFolder(lake).is_shared()

    assert (folder / "lake.sqlite").is_file()
    assert len(list((folder / "lake").rglob("*.parquet"))) == 1
    other = config.Lake(catalog=f"sqlite:{tmp_path}/other.sqlite", data=f"{folder}/lake")
    with Lake(other) as lake:
        ensure_system_tables(lake)
        assert DataFolder(lake).is_shared()


@pytest.mark.parametrize(
    "catalog",
    [
        "mysql:host=a",
        "sqlite:",
        "sqlite:file:/a?mode=ro",
        "sqlite:file://elsewhere/a",
        "postgres:host",
        "postgresql://u:hidden@[/x",
        "postgres:password='hidden",
    ],
)
def test_what_is_no_catalog_is_refused_without_its_password(catalog):
    with pytest.raises(ValueError, match="Give sqlite:FILE") as refused:
        settled_catalog(catalog)
    assert "hidden" not in str(refused.value)
    if not catalog.startswith("mysql"):
        with pytest.raises(ConfigError, match="The lake's catalog"):
            named_catalog(catalog)


@pytest.fixture(params=["sqlite", "postgres"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> config.Lake:
    """Of a lake that is there."""
    is_file = request.param == "sqlite"
    catalog = f"sqlite:{tmp_path}/lake.sqlite" if is_file else str(request.getfixturevalue("postgres_catalog"))
    spec = config.Lake(catalog=catalog, data=f"{tmp_path}/lake")
    with Lake(spec) as lake:
        ensure_system_tables(lake)
    lake_catalog._DATA_PATHS.clear()  # As in another process.
    return spec


def empty(spec: config.Lake, how: str) -> None:
    kind, _, where = spec.catalog.partition(":")
    if kind == "sqlite" and how == "whole":
        Path(where).write_bytes(b"")
    elif kind == "sqlite":
        with sqlite3.connect(where) as session:
            tables = session.execute("SELECT name FROM sqlite_master WHERE name LIKE 'ducklake%'").fetchall()
            for (name,) in tables:
                session.execute(f"DROP TABLE {name}" if how == "drop" else f"DELETE FROM {name}")
    else:
        with psycopg.connect(where, autocommit=True) as session:
            if how == "whole":
                session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            tables = session.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'ducklake%'").fetchall()
            for (name,) in tables:
                session.execute(f"{'DROP TABLE' if how == 'drop' else 'TRUNCATE'} {name} CASCADE")


@pytest.mark.parametrize("how", ["whole", "drop", "delete"])
@pytest.mark.parametrize("old_owner_file", [False, True])
def test_an_emptied_catalog_beside_data_is_refused_and_not_begun_anew(spec, how, old_owner_file):
    if old_owner_file:
        next(Path(spec.data).glob("tidemill-lake-*")).write_text("what\ndata of a lake\n")
    empty(spec, how)

    for ask in (catalog_exists, Lake, lambda spec: Lake(spec, read_only=True)):
        with pytest.raises(LakeError, match=r"holds no lake, and .*lake holds the data of one .*from a backup"):
            ask(spec)
    elsewhere = spec.model_copy(update={"data": f"{spec.data}-of-a-new-lake"})
    assert not catalog_exists(elsewhere)


@pytest.mark.slow
def test_a_new_lake_may_keep_its_data_beside_anothers(spec, tmp_path, request):
    new = [f"sqlite:{tmp_path}/new.sqlite"]
    if spec.catalog.startswith("postgres:"):
        from tests.postgres import create_database

        server = request.getfixturevalue("postgres_server")
        new.append(f"postgres:{server} dbname={create_database(server)}")
    for catalog in new:
        with Lake(config.Lake(catalog=catalog, data=spec.data)) as lake:
            ensure_system_tables(lake)
            assert DataFolder(lake).is_shared()


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def no_folder(file: Path) -> None:
    folder = file.parent
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("a file")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (directory, "it is a directory"),
        (no_folder, "Not a directory"),
        (lambda file: file.write_bytes(b"\0" * 100 + file.read_bytes()[100:]), "not a database"),
        (lambda file: file.write_bytes(bytes(byte ^ 0x5A for byte in file.read_bytes())), "not a database"),
        (lambda file: file.write_text("something else altogether\n" * 100), "not a database"),
    ],
    ids=["a directory", "no folder", "a damaged header", "encrypted", "another file"],
)
def test_a_catalog_that_cannot_be_opened_is_not_taken_for_none(tmp_path, damage, said):
    folder = tmp_path / "catalog"
    spec = config.Lake(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{tmp_path}/lake")
    with Lake(spec) as lake:
        ensure_system_tables(lake)
    lake_catalog._DATA_PATHS.clear()
    damage(folder / "lake.sqlite")

    for ask in (catalog_exists, lambda spec: Lake(spec, read_only=True)):
        with pytest.raises(InputError, match=rf"is there and cannot be opened: .*{re.escape(said)}.*from a backup"):
            ask(spec)


def test_a_catalog_that_another_program_keeps_for_itself_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lake_catalog, "BUSY_SECONDS", 0)
    file = tmp_path / "lake.sqlite"
    with sqlite3.connect(file) as holder:
        holder.execute("CREATE TABLE t (a)")
        holder.commit()
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LakeLocked, match=r"kept .*lake\.sqlite for itself"):
            catalog_exists(config.Lake(catalog=f"sqlite:{file}", data=f"{tmp_path}/lake"))
        holder.rollback()
