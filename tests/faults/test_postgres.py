"""PostgreSQL goes away, or lets go of a session: the work goes on, or ends in one message and the next run goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.commands import tidemill
from tests.pipelines import assert_same_tables, make_pipeline, problems_of, query, reviews, run, write_parquet
from tests.postgres import Server, create_database, find_initdb
from tidemill import config
from tidemill.config import Pipeline
from tidemill.errors import LakeError, LakeUnavailable
from tidemill.lake import Lake, ensure_system_tables
from tidemill.lake.ducklake import postgres
from tidemill.lake.ducklake.catalog import catalog_exists
from tidemill.lake.ducklake.claims import open_claims
from tidemill.lake.ducklake.connection import Cursor
from tidemill.progress import Quiet

NUM_FILES, ROWS = 5, 8
END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if find_initdb() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = Server()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def spec(server: Server, tmp_path: Path) -> config.Lake:
    catalog = f"postgres:{server.conninfo} dbname={create_database(server.conninfo)}"
    return config.Lake(catalog=catalog, data=f"{tmp_path}/lake")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("undisturbed")
    for i in range(NUM_FILES):
        write_parquet(folder / "data" / f"{i}.parquet", reviews(ROWS * i, ROWS))
    pipeline = make_pipeline(folder, f"{folder}/data/*")
    run(pipeline)
    return pipeline


@pytest.fixture
def pipeline(spec: config.Lake, undisturbed: Pipeline, tmp_path: Path) -> Pipeline:
    lake = {"catalog": spec.catalog, "data": spec.data}
    return make_pipeline(tmp_path, undisturbed.dataset.path, lake=lake, limits={"shards_in_flight": 1})


class AtFirstCommit(Quiet):
    def __init__(self, happens: Callable[[], None]) -> None:
        self._happens, self._has_happened = happens, False

    def committed(self, path: str, **_: int) -> None:
        if not self._has_happened:
            self._has_happened = True
            self._happens()


def end_sessions(spec: config.Lake) -> None:
    """All that anybody has in the database, locks included."""
    with psycopg.connect(spec.catalog.partition(":")[2], autocommit=True) as connection:
        connection.execute(END_OTHERS)


def test_a_writer_whose_lock_is_lost_never_commits_on_what_another_one_changed(spec):
    """The other enters, and commits, between the first one's statements and its COMMIT: that is made anew."""
    seen: list[int] = []

    def append(cursor: Cursor) -> None:
        seen.append(cursor.execute("SELECT count(*) FROM _layout").fetchall()[0][0])
        cursor.execute("INSERT INTO _layout SELECT * FROM _layout LIMIT 1")

    with Lake(spec) as one, Lake(spec) as other:
        ensure_system_tables(one)

        def overtaken(cursor: Cursor) -> None:
            append(cursor)
            if len(seen) == 1:
                one._lock.close()
                other.write(append, message="the other")

        one.write(overtaken, message="one")
        assert seen == [1, 1, 2]
        assert one.cursor().execute("SELECT count(*) FROM _layout").fetchall() == [(3,)]


def test_a_commit_whose_sessions_are_ended_is_retryable_and_what_came_before_stays(spec):
    with Lake(spec) as lake:
        ensure_system_tables(lake)

        def ended(cursor: Cursor) -> None:
            cursor.execute("INSERT INTO _layout SELECT * FROM _layout")
            end_sessions(spec)

        with pytest.raises(LakeUnavailable, match=r"does not answer.*lake\.catalog") as lost:
            lake.write(ended, message="ended")
        assert lost.value.retryable
        assert lake.cursor().execute("SELECT count(*) FROM _layout").fetchall() == [(1,)]
        lake.write(lambda cursor: cursor.execute("INSERT INTO _layout SELECT * FROM _layout"), message="again")
        assert lake.cursor().execute("SELECT count(*) FROM _layout").fetchall() == [(2,)]


def test_claims_whose_session_is_ended_are_taken_again_unless_another_took_them(spec):
    with Lake(spec) as lake:
        ensure_system_tables(lake)
    mine, other = open_claims(spec), open_claims(spec)
    assert mine.hold("a")
    assert mine.hold("b")
    end_sessions(spec)
    assert other.hold("b")

    assert mine.hold("c")

    assert not other.hold("a")
    assert not mine.hold("b")
    mine.release("a")
    assert other.hold("a")
    end_sessions(spec)
    mine.release("c")
    mine.close()
    other.close()


@pytest.mark.parametrize("by", ["sessions ended", "restart"])
def test_a_run_goes_on_when_postgresql_is_back(server, spec, pipeline, undisturbed, by):
    happens = server.restart if by == "restart" else lambda: end_sessions(spec)
    result = run(pipeline, progress=AtFirstCommit(happens))
    assert (result.state, result.num_shards, result.num_rows) == ("done", NUM_FILES, NUM_FILES * ROWS)
    assert_same_tables(pipeline, undisturbed)
    assert problems_of(pipeline) == []
    assert query(spec, "SELECT state, num_shards FROM _runs") == [("done", NUM_FILES)]


@pytest.mark.slow
def test_a_run_whose_postgresql_stays_away_ends_in_one_message_and_the_next_goes_on(
    server, spec, pipeline, undisturbed, monkeypatch, tmp_path
):
    monkeypatch.setattr(postgres, "RECONNECT_SECONDS", 0.1)
    monkeypatch.setattr("tidemill.retry.FIRST_DELAY_SECONDS", 0.01)
    try:
        with pytest.raises(LakeUnavailable, match="Give the same command again"):
            run(pipeline, progress=AtFirstCommit(server.stop))
        toml = tmp_path / "reviews.toml"
        toml.write_text(
            f'name = "reviews"\n[dataset]\npath = "{pipeline.dataset.path}"\ntext = "text"\n'
            f'[model]\npath = "{pipeline.model.path}"\n[lake]\ncatalog = "{spec.catalog}"\ndata = "{spec.data}"\n'
        )
        for words in (["verify", toml], ["status", toml], ["plan", toml], ["sql", toml, "SELECT 1"]):
            told: subprocess.CompletedProcess[str] = tidemill(*words, home=tmp_path / "home")
            assert (told.returncode, told.stdout, "Traceback" in told.stderr) == (1, "", False), told.stderr
            # Where the cores are busy a wait may last long enough to be told before.
            lines = told.stderr.splitlines()
            assert [line for line in lines if line.startswith("tidemill: ")] == lines[-1:], lines
            assert "does not answer" in lines[-1]
    finally:
        server.start()
    assert run(pipeline).state == "done"
    assert_same_tables(pipeline, undisturbed)
    assert problems_of(pipeline) == []


@pytest.mark.parametrize("words", ["dbname=nowhere", "user=nobody"])
def test_a_catalog_that_lets_nobody_in_is_wrong_input(server, words):
    with pytest.raises(LakeError, match=r"refuses.*Check lake\.catalog"):
        catalog_exists(config.Lake(catalog=f"postgres:{server.conninfo} dbname=postgres {words}"))
