"""A row that is forgotten is nowhere in the lake, the catalog or the store, and does not come back."""

from __future__ import annotations

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.commands import answer, tidemill, write_toml
from tests.holding import Transaction
from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, reviews, run, table_of, write_parquet
from tests.prepared import Prepared
from tests.variants import variants
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, LakeLocked
from tidemill.lake import Lake
from tidemill.lake.tables import identifier
from tidemill.results.retirement import remove_shards
from tidemill.upkeep import forget as forgetting
from tidemill.upkeep.forget import forget, preview
from tidemill.upkeep.housekeeping import DAY_SECONDS, collect_garbage, has_done_something

PERSON = "zzz-Wilhelmine-Quakenbrueck"
"""Sorts last, so that it is the greatest value in the statistics of its columns."""
ORPHAN = "ducklake-00000000-0000-7000-8000-000000000000.parquet"
CONDITION = f"id LIKE '%{PERSON}%'"


def with_person(rows: pa.Table, *, good: int = 7, bad: int = 9) -> pa.Table:
    """A person's review, and one of hers that cannot be processed, for it has no text."""
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    for i in (good, bad):
        columns["id"][i] = f"{PERSON}-{i}"
        columns["domain"][i] = f"{PERSON} at home"
    columns["text"][good] = f"{PERSON} says: a film about nothing at all."
    columns["text"][bad] = None
    return pa.table(columns, schema=rows.schema)


def make_lake(tmp_path: Path, **lake: str) -> Pipeline:
    write_parquet(tmp_path / "data" / "a.parquet", with_person(reviews(0, 60)))
    write_parquet(tmp_path / "data" / "b.parquet", reviews(100, 60))
    made = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", lake=lake, limits={"max_quarantine": 0.5})
    assert run(made).state == "done"
    return made


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Pipeline]:
    folder = tmp_path_factory.mktemp("made")
    made = make_lake(folder)
    return Prepared(folder), made


@pytest.fixture
def made(prepared: tuple[Prepared, Pipeline]) -> Pipeline:
    """A person is in its lake, whose catalog is SQLite's."""
    lake, pipeline = prepared
    lake.put_back()
    return pipeline


@pytest.fixture(params=variants(["sqlite", "postgres"], ["sqlite"]))
def pipeline(tmp_path: Path, request: pytest.FixtureRequest) -> Pipeline:
    if request.param == "postgres":
        return make_lake(tmp_path, catalog=request.getfixturevalue("postgres_catalog"))
    found: Pipeline = request.getfixturevalue("made")
    return found


def add_version(pipeline: Pipeline, version: str = "0badcafe") -> None:
    """Another version beside the promoted one, with the same rows."""
    [(promoted,)] = query(pipeline.lake, "SELECT promoted_version FROM _pipelines")

    def body(cursor: Any) -> None:
        cursor.execute(f"CREATE TABLE reviews__{version} AS SELECT * FROM reviews__{promoted}")
        for table in ("_versions", "_ledger", "_quarantine"):
            cursor.execute(
                f"INSERT INTO {table} SELECT * REPLACE (? AS version) FROM {table} WHERE version = ?",
                [version, promoted],
            )

    with Lake(pipeline.lake) as lake:
        lake.write(body, message="another version")


def leave_behind(pipeline: Pipeline) -> None:
    """What killed processes leave: a file that no catalog knows, and a store file that was never published."""
    written = next(path for path in Path(pipeline.lake.data).rglob("*.parquet") if PERSON in text_of(path))
    shutil.copy(written, written.with_name(ORPHAN))
    partial = Path(pipeline.store.path) / ".dead.partial"
    partial.write_bytes(PERSON.encode())
    os.utime(partial, (time.time() - 3600,) * 2)


def text_of(path: Path) -> str:
    found = path.read_bytes().decode("utf-8", "replace")
    return found + (str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else "")


def places_of(pipeline: Pipeline, text: str) -> set[str]:
    """Where `text` lies: every file of lake and store, byte by byte, and every table of a PostgreSQL catalog."""
    folder = Path(pipeline.store.path).parent
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and text in text_of(path)}
    if pipeline.lake.catalog.startswith("postgres:"):
        with psycopg.connect(pipeline.lake.catalog.partition(":")[2]) as session:
            names = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for name in [*(name for (name,) in names), "pg_stats"]:
                rows = session.execute(f'SELECT t::text FROM "{name}" t').fetchall()
                found |= {name} if any(text in row for (row,) in rows) else set()
    return found


def recompute(pipeline: Pipeline, path: str) -> None:
    """Have a file's shards computed again, as a backfill does."""
    shards = query(pipeline.lake, f"SELECT DISTINCT version, shard_id FROM _ledger WHERE path = '{path}'")
    with Lake(pipeline.lake) as lake:
        for version, shard_id in shards:
            remove = partial(remove_shards, pipeline="reviews", version=version, shard_ids=[shard_id])
            lake.write(remove, message="again")
    assert run(pipeline).num_shards == 1


def test_a_forgotten_person_is_nowhere(pipeline):
    add_version(pipeline)
    leave_behind(pipeline)
    before, quarantined = table_of(pipeline), quarantine_of(pipeline)
    held = places_of(pipeline, PERSON)
    assert any(place.endswith(".parquet") for place in held)
    assert any(place.startswith("store/rows/") for place in held)
    assert any("sqlite" in place or place.startswith("ducklake_") for place in held)

    found = preview(pipeline, CONDITION)
    erasure = forget(pipeline, CONDITION)

    assert (found.num_rows, found.paths) == (2, {"a.parquet": 2})
    assert [(version["rows"], version["quarantined"]) for version in found.versions] == [(1, 1), (1, 1)]
    assert erasure.erased
    assert "the source" in erasure.unreached[0]
    assert places_of(pipeline, PERSON) == set()
    rest = {place: row for place, row in before.items() if PERSON not in row["id"]}
    assert len(rest) == len(before) - 1
    assert table_of(pipeline) == rest
    assert quarantine_of(pipeline) == {place: why for place, why in quarantined.items() if place[1] != 9}
    assert problems_of(pipeline) == []
    assert query(pipeline.lake, "SELECT DISTINCT num_forgotten FROM _ledger WHERE path = 'a.parquet'") == [(2,)]
    assert query(pipeline.lake, "SELECT kind, state, num_rows_removed FROM _runs WHERE kind = 'forget'") == [
        ("forget", "done", 2)
    ]


@pytest.mark.slow
def test_a_clock_that_is_behind_leaves_nothing(made, monkeypatch):
    """Every file was written later than it is now. Only one that is being written now is not reached, and told."""
    leave_behind(made)
    later = time.time() + 10 * DAY_SECONDS
    for folder in (made.lake.data, made.store.path):
        for path in Path(folder).rglob("*.*"):
            os.utime(path, (later, later))
    assert len(forget(made, CONDITION).unreached) == 5
    assert places_of(made, PERSON) == set()

    monkeypatch.setattr(forgetting, "UNPUBLISHED_SECONDS", DAY_SECONDS)
    Path(made.store.path, ".alive.partial").write_bytes(PERSON.encode())
    told = forget(made, CONDITION, history=True).unreached
    assert "1 file of the store, being written" in " ".join(told)
    assert places_of(made, PERSON) == {"store/.alive.partial"}


@pytest.mark.slow
def test_a_person_is_found_by_a_key_of_any_name(tmp_path):
    names = ['we"ird', "it's", "a.b", "$", "with blank", "ünï", "a/b~c", "[0]", "*", "back\\slash", "select"]
    rows = with_person(reviews(0, 30))
    for name in names:
        rows = rows.append_column(name, rows["id"])
    write_parquet(tmp_path / "data" / "a.parquet", rows)
    made = make_pipeline(
        tmp_path / "one", f"{tmp_path}/data/*", dataset={"key": names, "keep": []}, limits={"max_quarantine": 0.5}
    )
    assert run(made).state == "done"

    for name in names:
        assert preview(made, f"{identifier(name)} LIKE '%{PERSON}%'").num_rows == 2, name
    forget(made, f"{identifier(names[0])} LIKE '%{PERSON}%'")
    assert places_of(made, PERSON) == set()
    assert problems_of(made) == []


@pytest.mark.slow
def test_a_forgotten_row_does_not_come_back(tmp_path):
    """Neither when its shard is computed again, nor in a renamed file, nor, by its key, in one that changed."""
    file = write_parquet(tmp_path / "data" / "a.parquet", with_person(reviews(0, 30)))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", limits={"max_quarantine": 0.5})
    run(pipeline)
    forget(pipeline, CONDITION)
    rest = table_of(pipeline)
    assert run(pipeline).num_shards == 0

    recompute(pipeline, "a.parquet")
    assert table_of(pipeline) == rest
    renamed = file.rename(file.with_name("c.parquet"))
    assert run(pipeline).num_copied == 1
    assert len(table_of(pipeline)) == 28
    write_parquet(renamed, with_person(reviews(0, 40)))
    run(pipeline)

    assert len(table_of(pipeline)) == 38
    assert quarantine_of(pipeline) == {}
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_a_forgotten_row_stays_away_when_a_column_of_its_folder_is_kept_later(tmp_path):
    write_parquet(tmp_path / "data" / "day=1" / "a.parquet", reviews(0, 10))
    first, later = (
        make_pipeline(tmp_path / "one", f"{tmp_path}/data/**/*.parquet", dataset={"key": [], "keep": keep})
        for keep in (["rating"], ["rating", "day"])
    )
    run(first)
    forget(first, "row_number = 3")

    assert run(later).state == "done"

    assert query(later.lake, "SELECT count(*), count(*) FILTER (row_number = 3) FROM reviews") == [(9, 0)]


@pytest.mark.soak
def test_a_forgotten_person_is_nowhere_on_s3(tmp_path, bucket):
    write_parquet(tmp_path / "data" / "a.parquet", with_person(reviews(0, 60)))
    sections = {"lake": {"data": bucket.address("lake")}, "store": {"path": bucket.address("store")}}
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", limits={"max_quarantine": 0.5}, **sections)
    run(pipeline)
    [written] = [key for key in bucket.keys("lake/") if key.endswith(".parquet")]
    bucket.put(
        f"{written.rpartition('/')[0]}/ducklake-00000000-0000-7000-8000-000000000000.parquet", bucket.get(written)
    )
    assert any(PERSON.encode() in bucket.get(key) for key in bucket.keys("store/"))

    assert has_done_something(collect_garbage(pipeline, dry_run=True)) is False
    forget(pipeline, CONDITION)

    assert not [key for key in bucket.keys("") if PERSON.encode() in bucket.get(key)]
    assert len([key for key in bucket.keys("lake/") if key.endswith(".parquet")]) == 1
    assert (len(table_of(pipeline)), problems_of(pipeline)) == (58, [])


@pytest.mark.slow
def test_a_key_that_another_row_has_is_not_forgotten_with_it(tmp_path):
    rows = reviews(0, 30)
    rows = rows.set_column(rows.schema.get_field_index("id"), "id", pa.array(["same"] * 30))
    file = write_parquet(tmp_path / "data" / "a.parquet", rows)
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*")
    run(pipeline)

    forget(pipeline, "row_number = 3")

    assert query(pipeline.lake, "SELECT row_offset, key_hash FROM _forgotten") == [(3, None)]
    write_parquet(file, pa.concat_tables([rows, rows.slice(0, 5)]))
    run(pipeline)
    assert len(table_of(pipeline)) == 35


@pytest.mark.slow
def test_rows_that_left_the_table_are_erased_from_the_past(made):
    pipeline = made
    write_parquet(Path(pipeline.dataset.path).parent / "a.parquet", reviews(0, 60))
    run(pipeline)
    collect_garbage(pipeline, dry_run=False)
    assert places_of(pipeline, PERSON)
    with pytest.raises(ConfigError, match=r"No row of reviews matches.*--history"):
        forget(pipeline, CONDITION)
    before = table_of(pipeline)

    forget(pipeline, CONDITION, history=True)

    assert places_of(pipeline, PERSON) == set()
    assert table_of(pipeline) == before
    assert query(pipeline.lake, "SELECT count(*) FROM _forgotten") == [(0,)]

    with Lake(pipeline.lake) as lake:
        lake.write(lambda c: c.execute("UPDATE _runs SET state = 'running' WHERE kind = 'forget'"), message="killed")
    assert forget(pipeline, CONDITION).erased, "what was interrupted is finished by the same command"
    assert query(pipeline.lake, "SELECT DISTINCT state FROM _runs") == [("done",)]


@pytest.mark.slow
def test_forgetting_goes_on_while_someone_reads_an_old_snapshot(pipeline, tmp_path):
    statements = ["SELECT count(*) FROM reviews", "SELECT count(*) FROM _quarantine"]
    reader = Transaction(pipeline.lake, tmp_path / "reader", statements)

    if pipeline.lake.catalog.startswith("postgres:"):
        with pytest.raises(LakeLocked, match="same command again"):
            forget(pipeline, CONDITION)
        unreached = ["the catalog"]
    else:
        unreached = [place for place in forget(pipeline, CONDITION).unreached if "--history" in place]

    assert query(pipeline.lake, f"SELECT count(*) FROM reviews WHERE {CONDITION}") == [(0,)]
    assert "the catalog" in unreached[0]
    reader.end("SELECT 1")
    forget(pipeline, CONDITION, history=not pipeline.lake.catalog.startswith("postgres:"))
    assert places_of(pipeline, PERSON) == set()
    assert problems_of(pipeline) == []


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("id = 'x'; DROP TABLE reviews", "cannot be read"),
        ("id IN (SELECT id FROM reviews)", "no subquery"),
        ("id = (SELECT content FROM read_text('/etc/passwd'))", "no subquery"),
        ("EXISTS (FROM ducklake_cleanup_old_files('lake', cleanup_all => true))", "no subquery"),
        ("json_serialize_plan('FROM checkpoint(''lake'')') IS NULL", r"calls json_serialize_plan\(\)"),
        ("true) FROM reviews WHERE (true", "more than a condition"),
        ("", "cannot be read"),
        ("rating + 1", "not true or false"),
        ("nobody = 'x'", "cannot be asked"),
        ("count(*) > 1", "cannot be asked"),
        ("id = 'nobody'", "No row of reviews matches"),
    ],
)
def test_what_is_no_condition_is_refused(tmp_path, bundled, condition, said):
    before = table_of(bundled)
    with pytest.raises(ConfigError, match=said) as refused:
        forget(bundled, condition)
    assert refused.value.exit_code == 2
    assert table_of(bundled) == before


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A table that none of these changes."""
    folder = tmp_path_factory.mktemp("bundled")
    write_parquet(folder / "data" / "a.parquet", reviews(0, 20))
    made = make_pipeline(folder / "one", f"{folder}/data/*")
    run(made)
    return made


@pytest.mark.slow
def test_the_command_shows_what_it_would_erase_and_asks(tmp_path):
    home = tmp_path / "home"
    write_parquet(tmp_path / "data" / "a.parquet", with_person(reviews(0, 30)))
    toml = write_toml(tmp_path, f"{tmp_path}/data/*", extra="[limits]\nmax_quarantine = 0.5\n")
    answer("run", toml, "--direct", home=home)

    asked = tidemill("forget", toml, "--where", CONDITION, home=home)
    wrong = tidemill("forget", toml, "--where", "id = 'nobody'", "--yes", home=home)
    done = tidemill("forget", toml, "--where", CONDITION, "--yes", "--json", home=home)

    assert asked.returncode == 2
    assert "matching rows: 2" in asked.stdout
    assert "from a.parquet: 2" in asked.stdout
    assert "--yes" in asked.stderr
    assert wrong.returncode == 2
    assert "--history" in wrong.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["erased"]
    assert tidemill("verify", toml, home=home).returncode == 0
