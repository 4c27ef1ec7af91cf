"""What is damaged is found, whatever byte it is, and comes back as a fresh run would have made it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path

import pytest

from tests.commands import answer, tidemill, write_toml
from tests.pipelines import (
    assert_same_tables,
    make_pipeline,
    problems_of,
    query,
    reviews,
    run,
    shards_of,
    table_of,
    write_parquet,
)
from tests.prepared import Prepared
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, InvariantBroken, LakeError
from tidemill.lake import Lake
from tidemill.lake.data_files import note_files
from tidemill.lake.listings import unlist_target
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.results.retirement import remove_shards
from tidemill.results.verify import verify_pipeline
from tidemill.running.backfill_run import BackfillRun
from tidemill.upkeep.forget import forget, preview
from tidemill.upkeep.housekeeping import collect_garbage
from tidemill.upkeep.repair import repair

SEED = 11


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Pipeline]:
    """A lake of four files with a few shards each."""
    folder = tmp_path_factory.mktemp("repair")
    for i in range(4):
        write_parquet(folder / "data" / f"part-{i}.parquet", reviews(40 * i, 24), row_group_size=12)
    pipeline = make_pipeline(folder / "one", f"{folder}/data/*", dataset={"shard_bytes": 1800})
    assert run(pipeline).num_shards > 4
    return Prepared(folder / "one"), pipeline


@pytest.fixture
def pipeline(made: tuple[Prepared, Pipeline]) -> Pipeline:
    prepared, pipeline = made
    prepared.put_back()
    return pipeline


@pytest.fixture(scope="module")
def fresh(made: tuple[Prepared, Pipeline], tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    _, pipeline = made
    folder = tmp_path_factory.mktemp("fresh")
    other = make_pipeline(folder, pipeline.dataset.path, dataset={"shard_bytes": 1800})
    run(other)
    return other


def data_files(pipeline: Pipeline, of: str = "") -> list[Path]:
    return sorted(Path(pipeline.lake.data, "main").glob(f"{of}*/ducklake-*.parquet"))


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(raw)


def damages(pipeline: Pipeline) -> Iterator[set[str]]:
    with Lake(pipeline.lake, read_only=True) as lake:
        yield from (set(damage.shard_ids) for damage in verify_pipeline(lake, pipeline.name).damages)


def move_to_files(pipeline: Pipeline) -> None:
    """What the catalog holds of the system tables becomes files, as housekeeping makes them of many more rows."""
    with Lake(pipeline.lake) as lake:
        for table in ("_revisions", "_files", "_shards", "_ledger", "_requests", "_runs", "_pipelines", "_data_files"):
            flush = f"CALL ducklake_flush_inlined_data('lake', table_name => '{table}')"
            lake.write(methodcaller("execute", flush), message="flush")
        note_files(lake)


@pytest.mark.parametrize(
    ("num_flips", "merged"),
    [
        pytest.param(2, False, id="2, a file a shard"),
        pytest.param(100, False, id="100, a file a shard", marks=pytest.mark.soak),
        pytest.param(100, True, id="100, merged files", marks=pytest.mark.soak),
    ],
)
def test_every_flipped_bit_is_found_and_repaired(pipeline, fresh, num_flips, merged):
    if merged:
        collect_garbage(pipeline, dry_run=False, min_age_seconds=0)
    draw = random.Random(SEED)
    for _ in range(num_flips):
        path = draw.choice(data_files(pipeline))
        bit = draw.randrange(8 * path.stat().st_size)
        flip(path, bit)
        assert problems_of(pipeline), (path, bit)
        flip(path, bit)
    assert problems_of(pipeline) == []
    for path in data_files(pipeline):
        flip(path, draw.randrange(8 * path.stat().st_size))

    done = repair(pipeline)

    assert (done.problems, done.num_shards) == ([], len(shards_of(fresh)))
    assert_same_tables(pipeline, fresh)


@pytest.mark.parametrize(
    "how", ["other bytes", *(pytest.param(how, marks=pytest.mark.soak) for how in ("gone", "cut"))]
)
def test_a_file_that_cannot_be_read_is_named_with_its_shards_and_brought_back(pipeline, fresh, how):
    [path, *_] = data_files(pipeline, "reviews")
    shards = query(pipeline.lake, f"SELECT DISTINCT shard_id FROM {path.parent.name} WHERE filename = '{path}'")
    before = query(pipeline.lake, "SELECT count(*) FROM _ledger WHERE worker IS NOT NULL")
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if how == "cut" else b"x" * path.stat().st_size)

    [problem] = problems_of(pipeline)
    done = repair(pipeline)

    assert str(path) in problem
    assert all(shard_id in problem for (shard_id,) in shards)
    assert (done.num_files, done.num_shards, done.problems) == (1, len(shards), [])
    assert query(pipeline.lake, "SELECT count(*) FROM _ledger WHERE worker IS NOT NULL") == before
    assert query(pipeline.lake, "SELECT why FROM _runs WHERE kind = 'backfill'") == [("repair",)]
    assert_same_tables(pipeline, fresh)


@pytest.mark.parametrize(
    "tables",
    [
        ("_revisions", "_files", "_shards"),
        pytest.param(("_ledger",), marks=pytest.mark.slow),
        pytest.param(("_files", "_shards"), marks=pytest.mark.soak),
        pytest.param(("_revisions",), marks=pytest.mark.soak),
        pytest.param(("_requests", "_runs", "_data_files"), marks=pytest.mark.soak),
    ],
)
def test_a_system_table_whose_file_is_damaged_is_made_again_from_what_else_is_known(pipeline, fresh, tables):
    move_to_files(pipeline)
    for path in [path for table in tables for path in data_files(pipeline, table)]:
        path.write_bytes(b"x" * path.stat().st_size)

    problems = problems_of(pipeline)
    assert all(any(problem.startswith(f"{table}: the data file") for problem in problems) for table in tables), problems
    assert repair(pipeline).problems == []

    assert_same_tables(pipeline, fresh)
    listed = "SELECT shard_id FROM _revision_shards JOIN _pipelines ON revision = target_revision ORDER BY ALL"
    assert query(pipeline.lake, listed) == query(pipeline.lake, "SELECT shard_id FROM _ledger ORDER BY ALL")
    assert run(pipeline).num_shards == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "tables",
    [
        pytest.param(("_shards",), marks=pytest.mark.soak),
        pytest.param(("_revisions",), marks=pytest.mark.soak),
        ("_revisions", "_files", "_shards"),
    ],
)
def test_a_listing_of_several_revisions_is_made_again(tmp_path, tables):
    for n in range(2):
        write_parquet(tmp_path / "data" / f"{n}.parquet", reviews(12 * n, 12))
        pipeline = make_pipeline(tmp_path, f"{tmp_path}/data/*")
        run(pipeline)
    before = table_of(pipeline)
    move_to_files(pipeline)
    for path in [path for table in tables for path in data_files(pipeline, table)]:
        path.write_bytes(b"x" * path.stat().st_size)

    assert repair(pipeline).problems == []

    assert table_of(pipeline) == before
    assert query(pipeline.lake, "SELECT path, num_shards FROM _target_files ORDER BY ALL") == [
        ("0.parquet", 1),
        ("1.parquet", 1),
    ]


@pytest.mark.slow
def test_a_repair_that_was_killed_before_it_had_listed_anew_is_gone_on_with(pipeline, fresh):
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: unlist_target(cursor, pipeline.name), message="as a killed repair leaves it")
    [problem] = problems_of(pipeline)
    assert "lists no file" in problem
    with pytest.raises(LakeError, match="tidemill repair"):
        preview(pipeline, "true")

    assert repair(pipeline).problems == []

    assert_same_tables(pipeline, fresh)


@pytest.mark.slow
def test_a_run_goes_on_beside_hashes_that_cannot_be_read(tmp_path):
    write_parquet(tmp_path / "data" / "a.parquet", reviews(0, 12))
    pipeline = make_pipeline(tmp_path, f"{tmp_path}/data/*")
    run(pipeline)
    move_to_files(pipeline)
    for path in data_files(pipeline, "_data_files"):
        path.write_bytes(b"x" * path.stat().st_size)
    write_parquet(tmp_path / "data" / "b.parquet", reviews(12, 12))

    result = run(pipeline)

    assert (result.state, result.num_rows) == ("done", 12)
    assert any("hashes of new data files" in note for note in result.notes)
    assert query(pipeline.lake, "SELECT state FROM _runs ORDER BY started_at") == [("done",), ("done",)]


def test_what_no_other_place_knows_is_a_matter_for_a_backup(pipeline):
    move_to_files(pipeline)
    for path in data_files(pipeline, "_pipelines"):
        path.unlink()
    with pytest.raises(LakeError, match=r"_pipelines are damaged.*backup"):
        repair(pipeline)


def test_a_place_without_any_file_is_not_taken_for_damage(pipeline):
    done = query(pipeline.lake, "SELECT count(*) FROM _ledger")
    for path in data_files(pipeline):
        path.unlink()
    with pytest.raises(LakeError, match="None of the lake's files"):
        repair(pipeline)
    assert query(pipeline.lake, "SELECT count(*) FROM _ledger") == done


@pytest.mark.slow
def test_a_backfill_of_shards_in_an_unreadable_file_replaces_them(pipeline, fresh):
    [path, *_] = data_files(pipeline, "reviews")
    path.write_bytes(b"x" * path.stat().st_size)
    [shard_ids] = damages(pipeline)

    with Lake(pipeline.lake) as lake:
        plan = plan_backfill(pipeline, lake, Selection(shards=tuple(shard_ids)))
        backfill_id = request_backfill(lake, plan)
    result = BackfillRun(pipeline, backfill_id).execute()

    assert (result.state, result.num_shards) == ("done", len(shard_ids))
    assert problems_of(pipeline) == []
    assert_same_tables(pipeline, fresh)


def test_removing_shards_from_an_unreadable_file_names_the_command_that_mends_it(pipeline):
    [path, *_] = data_files(pipeline, "reviews")
    path.write_bytes(b"x" * path.stat().st_size)
    [shard_ids] = damages(pipeline)
    [(version,)] = query(pipeline.lake, "SELECT promoted_version FROM _pipelines")
    with Lake(pipeline.lake) as lake, pytest.raises(InvariantBroken, match="tidemill repair"):
        lake.write(lambda cursor: remove_shards(cursor, "reviews", version, sorted(shard_ids)), message="remove")


@pytest.mark.slow
def test_housekeeping_leaves_a_table_with_an_unreadable_file_and_goes_on(pipeline, fresh):
    [path, *_] = data_files(pipeline, "reviews")
    path.write_bytes(b"x" * path.stat().st_size)

    facts = collect_garbage(pipeline, dry_run=False, min_age_seconds=0)

    assert any("tidemill repair" in note for note in facts["notes"])
    assert query(pipeline.lake, "SELECT state FROM _runs WHERE kind = 'gc'") == [("done",)]
    assert repair(pipeline).problems == []
    assert_same_tables(pipeline, fresh)


@pytest.mark.slow
def test_forget_gets_past_an_unreadable_file_and_says_what_it_did_not_ask(pipeline):
    rows = table_of(pipeline)
    [path, *_] = data_files(pipeline, "reviews")
    [(elsewhere,)] = query(pipeline.lake, f"SELECT any_value(id) FROM {path.parent.name} WHERE filename <> '{path}'")
    [(inside,)] = query(pipeline.lake, f"SELECT any_value(id) FROM {path.parent.name} WHERE filename = '{path}'")
    path.write_bytes(b"x" * path.stat().st_size)
    assert any("cannot be read" in note for note in preview(pipeline, f"id = '{elsewhere}'").notes)

    done = forget(pipeline, f"id = '{elsewhere}'")

    assert any("tidemill repair" in place for place in done.unreached)
    assert not path.exists()
    assert repair(pipeline).problems == []
    assert {row["id"] for row in rows.values()} - {row["id"] for row in table_of(pipeline).values()} == {elsewhere}
    forget(pipeline, f"id = '{inside}'")
    assert inside not in {row["id"] for row in table_of(pipeline).values()}
    assert problems_of(pipeline) == []
    with pytest.raises(ConfigError, match="No row"):
        preview(pipeline, f"id = '{inside}'")


@pytest.mark.slow
def test_the_commands_say_what_is_wrong_and_what_mends_it(tmp_path):
    home = tmp_path / "home"
    write_parquet(tmp_path / "data" / "part.parquet", reviews(0, 20))
    toml = write_toml(tmp_path, f"{tmp_path}/data/*")
    answer("run", toml, "--direct", home=home)
    [path, *_] = home.rglob("ducklake-*.parquet")
    flip(path, 8 * (path.stat().st_size // 2))

    verified = tidemill("verify", toml, home=home)
    asked = tidemill("repair", toml, home=home)
    repaired = tidemill("repair", toml, "--yes", home=home)
    again = tidemill("repair", toml, home=home)

    assert (verified.returncode, "wrong: " in verified.stdout) == (1, True), verified.stderr
    assert f"tidemill repair {toml}" in verified.stdout
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    assert (repaired.returncode, "1 data file taken out, 1 shard computed again" in repaired.stdout) == (0, True)
    assert (again.returncode, "nothing to repair" in again.stdout) == (0, True)
    assert tidemill("verify", toml, home=home).returncode == 0
