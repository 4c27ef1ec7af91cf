"""A second run computes what changed, and its table equals a fresh run's."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipelines import (
    assert_same_tables,
    make_pipeline,
    problems_of,
    quarantine_of,
    query,
    reviews,
    run,
    shards_of,
    table_of,
    write_parquet,
)
from tests.prepared import Prepared
from tidemill.errors import LimitExceeded, ModelError
from tidemill.lake import Lake
from tidemill.planning.plan import make_plan
from tidemill.progress import Quiet
from tidemill.results.verify import verify_pipeline

SLICED: dict[str, Any] = {"dataset": {"shard_bytes": 3000}}


def plan_of(pipeline):
    with Lake(pipeline.lake, read_only=True) as lake:
        return make_plan(pipeline, lake)[0].to_json()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path / "data")


def write_files(folder: Path) -> Path:
    for i in range(4):
        write_parquet(folder / f"part-{i}.parquet", reviews(100 * i, 40), row_group_size=20)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("done")
    run(pipeline_over(folder, write_files(folder / "data")))
    return Prepared(folder)


@pytest.fixture
def folder(done: Prepared) -> Path:
    """Has files, `data`, and a lake, `one`, into which they were run."""
    return done.put_back()


@pytest.fixture(scope="module")
def lines_done(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("lines_done")
    run(pipeline_over(folder, write_lines(folder / "lines"), **SLICED))
    return Prepared(folder)


@pytest.fixture
def lines_folder(lines_done: Prepared) -> Path:
    """Has a text file in `lines`, and a lake, `one`, into which it was run in several slices."""
    return lines_done.put_back()


def pipeline_over(tmp_path: Path, files: Path, folder: str = "one", **sections):
    return make_pipeline(tmp_path / folder, f"{files}/*", **sections)


def test_a_second_run_computes_nothing(tmp_path, files):
    pipeline = pipeline_over(tmp_path, files)
    first, second = run(pipeline), run(pipeline)
    assert (first.state, first.num_rows, first.num_shards) == ("done", 160, 4)
    assert (second.state, second.num_shards, second.num_rows_removed) == ("done", 0, 0)
    assert query(pipeline.lake, "SELECT count(*) FROM _runs WHERE state = 'done'") == [(2,)]


def test_a_new_revision_costs_the_files_that_changed(folder):
    files = folder / "data"
    pipeline = pipeline_over(folder, files)
    write_parquet(files / "part-1.parquet", reviews(500, 50), row_group_size=20)
    write_parquet(files / "part-9.parquet", reviews(700, 30))
    (files / "part-3.parquet").unlink()
    plan = plan_of(pipeline)
    assert plan["files"] == {
        "new": ["part-9.parquet"],
        "changed": ["part-1.parquet"],
        "failed": {},
        "unfinished": [],
        "unchanged": 2,
        "removed": ["part-3.parquet"],
        "renamed": {},
    }
    result = run(pipeline)
    assert (result.num_rows, result.num_copied, result.num_rows_removed) == (80, 0, 80)
    fresh = pipeline_over(folder, files, "fresh")
    run(fresh)
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_a_renamed_and_a_duplicated_file_cost_nothing(folder):
    files = folder / "data"
    pipeline = pipeline_over(folder, files)
    (files / "part-0.parquet").rename(files / "renamed.parquet")
    shutil.copy(files / "part-1.parquet", files / "again.parquet")
    assert plan_of(pipeline)["files"]["renamed"] == {"part-0.parquet": "renamed.parquet"}
    result = run(pipeline)
    assert (result.num_copied, result.num_tokens, result.num_rows_removed) == (2, 0, 0)
    fresh = pipeline_over(folder, files, "fresh")
    assert run(fresh).num_copied == 1
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_files_that_swap_contents_cost_nothing(folder):
    files = folder / "data"
    pipeline = pipeline_over(folder, files)
    (files / "part-0.parquet").rename(folder / "aside")
    (files / "part-1.parquet").rename(files / "part-0.parquet")
    (folder / "aside").rename(files / "part-1.parquet")
    result = run(pipeline)
    assert (result.num_copied, result.num_tokens) == (2, 0)
    fresh = pipeline_over(folder, files, "fresh")
    run(fresh)
    assert_same_tables(pipeline, fresh)


def test_slices_once_cut_are_kept_whatever_shard_bytes_says(folder):
    smaller = pipeline_over(folder, folder / "data", dataset={"shard_bytes": 500})
    assert run(smaller).num_shards == 0


@pytest.mark.slow
def test_vanished_files_that_take_too_many_rows_need_a_yes(folder):
    files = folder / "data"
    pipeline = pipeline_over(folder, files)
    for name in ("part-0.parquet", "part-1.parquet"):
        (files / name).unlink()
    before = table_of(pipeline)
    with pytest.raises(LimitExceeded, match="80 of 160 rows"):
        run(pipeline)
    assert table_of(pipeline) == before
    assert run(pipeline, yes=True).num_rows_removed == 80
    assert len(table_of(pipeline)) == 80


@pytest.mark.slow
def test_changing_the_kept_columns_computes_no_prediction(folder):
    files = folder / "data"
    rekept = pipeline_over(folder, files, dataset={"keep": ["rating as stars", "part"], "key": ["id", "domain"]})
    result = run(rekept)
    assert (result.num_tokens, result.num_rewritten) == (0, 4)
    fresh = pipeline_over(
        folder, files, "fresh", dataset={"keep": ["rating as stars", "part"], "key": ["id", "domain"]}
    )
    run(fresh)
    assert_same_tables(rekept, fresh)
    assert problems_of(rekept) == []


@pytest.mark.slow
def test_kept_columns_and_files_may_change_at_once(folder):
    files = folder / "data"
    write_parquet(files / "part-2.parquet", reviews(600, 30))
    (files / "part-3.parquet").rename(files / "moved.parquet")
    changed = {"keep": ["domain", "part"]}
    result = run(pipeline_over(folder, files, dataset=changed))
    assert (result.state, result.num_rows, result.num_copied) == ("done", 70, 1)
    fresh = pipeline_over(folder, files, "fresh", dataset=changed)
    run(fresh)
    assert_same_tables(pipeline_over(folder, files, dataset=changed), fresh)


def break_pages(path: Path) -> bytes:
    """Make a Parquet file's pages unreadable and leave its footer; returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    return whole


@pytest.mark.slow
def test_a_file_that_comes_back_gets_the_columns_that_were_asked_for_meanwhile(folder):
    """Columns are never taken for read that were not: neither of a file that was away, nor while it is."""
    files, broken = folder / "data", folder / "data" / "part-1.parquet"
    pipelines = [
        pipeline_over(folder, files, dataset={"keep": keep}) for keep in (["domain"], ["domain", "part"], ["rating"])
    ]
    run(pipelines[0])
    whole = break_pages(broken)
    assert run(pipelines[0]).state == "failed"
    broken.write_bytes(whole)
    assert run(pipelines[1]).state == "done"
    assert {row["part"] for row in table_of(pipelines[1]).values()} == {"train", "test"}

    break_pages(broken)
    assert run(pipelines[2]).state == "failed"
    assert plan_of(pipelines[2])["num_shards_rewritten"] == 1
    assert "1 shard without key or kept columns" in " ".join(notes_of(pipelines[2]))
    (files / "part-0.parquet").rename(files / "moved.parquet")
    assert run(pipelines[2]).state == "failed"
    broken.write_bytes(whole)
    result = run(pipelines[2])

    assert (result.state, result.num_tokens, result.num_rewritten) == ("done", 0, 1)
    fresh = pipeline_over(folder, files, "fresh", dataset={"keep": ["rating"]})
    run(fresh)
    assert_same_tables(pipelines[2], fresh)
    assert (notes_of(pipelines[2]), problems_of(pipelines[2])) == ([], [])


@pytest.mark.slow
def test_a_shard_committed_with_former_columns_gets_its_own_and_no_other_row_is_touched(folder):
    """As a run leaves it whose pipeline file was older than that of a run beside it."""
    pipeline = pipeline_over(folder, folder / "data")
    before = table_of(pipeline)
    [(table, shard_id)] = query(
        pipeline.lake, "SELECT 'reviews__' || version, min(shard_id) FROM _ledger GROUP BY version"
    )

    def leave(cursor):
        cursor.execute(f"UPDATE {table} SET domain = NULL WHERE shard_id = '{shard_id}'")
        cursor.execute(f"UPDATE _ledger SET kept = 'former', checksum_by = NULL WHERE shard_id = '{shard_id}'")

    with Lake(pipeline.lake) as lake:
        lake.write(leave, message="former columns")
    assert run(pipeline).num_rewritten == 1
    assert (table_of(pipeline), problems_of(pipeline)) == (before, [])


def notes_of(pipeline):
    with Lake(pipeline.lake, read_only=True) as lake:
        return verify_pipeline(lake, pipeline.name).notes


def test_a_changed_option_is_reported_and_not_computed(folder):
    pipeline = pipeline_over(folder, folder / "data")
    promoted = run(pipeline).version
    shorter = pipeline_over(folder, folder / "data", tokenizer={"max_length": 16})
    result = run(shorter)
    assert (result.version, result.num_shards) == (promoted, 0)
    assert "max_length: auto → 16" in result.notes[0]


def test_too_much_quarantine_keeps_the_old_rows(folder):
    files = folder / "data"
    pipeline = pipeline_over(folder, files)
    before = table_of(pipeline)
    bad = reviews(0, 40)
    bad = bad.set_column(2, "text", pa.array([None] * 20 + bad["text"].to_pylist()[20:]))
    write_parquet(files / "part-0.parquet", bad)
    (files / "part-3.parquet").unlink()
    result = run(pipeline)
    assert result.state == "failed"
    assert "limits.max_quarantine" in result.notes[-1]
    with Lake(pipeline.lake, read_only=True) as lake:
        assert lake.cursor().execute("SELECT count(*) FROM reviews").fetchone() == (len(before),)
    lenient = pipeline_over(folder, files, limits={"max_quarantine": 0.6})
    assert run(lenient).state == "done"
    assert len(quarantine_of(lenient)) == 20
    assert len(table_of(lenient)) == 100


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "lines")


def write_lines(folder: Path) -> Path:
    folder.mkdir()
    (folder / "reviews.jsonl").write_text(as_lines(reviews(0, 60)))
    return folder


def as_lines(table: pa.Table) -> str:
    return "".join(json.dumps(row) + "\n" for row in table.to_pylist())


def test_an_appended_file_costs_its_last_slice_and_what_was_appended(lines_folder):
    lines = lines_folder / "lines"
    pipeline = pipeline_over(lines_folder, lines, **SLICED)
    before = shards_of(pipeline)
    assert len(before) > 2
    with (lines / "reviews.jsonl").open("a") as file:
        file.write(as_lines(reviews(200, 20)))
    second = run(pipeline)
    assert second.state == "done"
    kept = before & shards_of(pipeline)
    assert len(kept) >= len(before) - 1
    assert second.num_shards == len(shards_of(pipeline) - kept)
    fresh = pipeline_over(lines_folder, lines, "fresh", **SLICED)
    run(fresh)
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_a_text_file_that_shrinks_loses_its_rows(lines_folder):
    lines = lines_folder / "lines"
    options = {**SLICED, "limits": {"max_removed": 1.0}}
    pipeline = pipeline_over(lines_folder, lines, **options)
    kept = (lines / "reviews.jsonl").read_text().splitlines(keepends=True)[:30]
    (lines / "reviews.jsonl").write_text("".join(kept))
    assert run(pipeline).state == "done"
    assert len(table_of(pipeline)) == 30
    assert problems_of(pipeline) == []


@pytest.fixture(scope="module")
def of_parquet(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """Row number → the row that a Parquet file gives."""
    folder = tmp_path_factory.mktemp("parquet")
    write_parquet(folder / "data" / "reviews.parquet", reviews(0, 40))
    pipeline = pipeline_over(folder, folder / "data")
    assert run(pipeline).num_rows == 40
    return {number: row for (_, number), row in table_of(pipeline).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", [".csv", ".jsonl.gz", *(pytest.param(suffix, marks=pytest.mark.soak) for suffix in (".csv.gz", ".jsonl"))]
)
def test_text_formats_give_the_table_that_parquet_gives(tmp_path, of_parquet, suffix):
    table = reviews(0, 40)
    folder = tmp_path / "text"
    folder.mkdir()
    body = as_lines(table) if "jsonl" in suffix else table.to_pandas().to_csv(index=False)
    encoded = gzip.compress(body.encode()) if suffix.endswith("gz") else body.encode()
    (folder / f"reviews{suffix}").write_bytes(encoded)
    pipeline = pipeline_over(tmp_path, folder, dataset={"shard_bytes": 3000})
    assert run(pipeline).num_rows == 40
    assert run(pipeline).num_shards == 0
    found = {number: row for (_, number), row in table_of(pipeline).items()}
    assert found.keys() == of_parquet.keys()
    for number, row in found.items():
        for name in ("id", "domain", "rating", "label", "num_tokens"):
            assert row[name] == of_parquet[number][name]
        assert row["score"] == pytest.approx(of_parquet[number]["score"], abs=1e-4)


@pytest.mark.slow
def test_a_reader_sees_a_changed_text_file_old_or_new_and_nothing_between(lines_folder):
    lines = lines_folder / "lines"
    options = {**SLICED, "limits": {"shards_in_flight": 1}}
    pipeline = pipeline_over(lines_folder, lines, **options)
    (lines / "reviews.jsonl").write_text(as_lines(reviews(300, 50)))
    looks = set()

    class Looking(Quiet):
        def ingested(self, path, *, rows):
            looks.add(query(pipeline.lake, "SELECT count(*), count(DISTINCT row_number) FROM reviews")[0])

    assert run(pipeline, progress=Looking()).state == "done"
    assert looks == {(60, 60)}
    assert len(table_of(pipeline)) == 50


@pytest.mark.slow
def test_a_changed_text_file_over_the_quarantine_limit_keeps_its_old_rows(lines_folder):
    lines = lines_folder / "lines"
    pipeline = pipeline_over(lines_folder, lines, **SLICED)
    (lines / "reviews.jsonl").write_text('{"id": "x", "text": 1}\n' * 40 + as_lines(reviews(300, 20)))
    result = run(pipeline)
    assert (result.state, result.num_rows_removed) == ("failed", 0)
    assert query(pipeline.lake, "SELECT count(*) FROM reviews") == [(60,)]


@pytest.mark.slow
def test_a_rotated_file_is_copied_and_not_computed(lines_folder):
    lines = lines_folder / "lines"
    pipeline = pipeline_over(lines_folder, lines, **SLICED)
    num_before = len(shards_of(pipeline))
    (lines / "reviews.jsonl").rename(lines / "reviews.1.jsonl")
    with (lines / "reviews.1.jsonl").open("a") as file:
        file.write(as_lines(reviews(200, 5)))
    (lines / "reviews.jsonl").write_text(as_lines(reviews(300, 30)))
    result = run(pipeline)
    assert (result.state, result.num_copied) == ("done", num_before - 1)
    fresh = pipeline_over(lines_folder, lines, "fresh", **SLICED)
    run(fresh)
    assert_same_tables(pipeline, fresh)


@pytest.mark.slow
def test_a_half_read_text_file_goes_on_whatever_shard_bytes_says_now(tmp_path, lines):
    class Interrupting(Quiet):
        def committed(self, path, **counts):
            raise KeyboardInterrupt

    halted = pipeline_over(tmp_path, lines, dataset={"shard_bytes": 2000}, limits={"shards_in_flight": 1})
    assert run(halted, progress=Interrupting()).state == "stopped"
    later = pipeline_over(tmp_path, lines, dataset={"shard_bytes": 4000})
    assert run(later).state == "done"
    assert len(table_of(later)) == 60
    assert problems_of(later) == []


@pytest.mark.slow
def test_a_first_version_that_never_got_a_row_gives_way_to_the_corrected_one(tmp_path, files):
    with pytest.raises(ModelError, match="leaves no room"):
        run(pipeline_over(tmp_path, files, tokenizer={"max_length": 1}))
    assert not (tmp_path / "one" / "lake.sqlite").exists()
    assert run(pipeline_over(tmp_path, files)).num_rows == 160


@pytest.mark.slow
def test_two_pipelines_share_a_store_but_not_what_a_bad_cell_did_to_a_row(tmp_path, lines):
    rows = reviews(0, 10).to_pylist()
    rows[3]["rating"] = "bad"
    (lines / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    strict = pipeline_over(tmp_path, lines, dataset={"types": {"rating": "double"}}, limits={"max_quarantine": 1.0})
    assert run(strict).num_quarantined == 1
    lenient = pipeline_over(tmp_path, lines, name="lenient", dataset={"keep": []})
    assert run(lenient).num_rows == 10
    assert problems_of(lenient) == []


@pytest.mark.slow
def test_a_small_store_makes_room_from_what_is_committed(tmp_path, lines):
    options: dict[str, Any] = {"dataset": {"shard_bytes": 2000}, "limits": {"shards_in_flight": 1}}
    pipeline = pipeline_over(tmp_path, lines, **options, store={"max_bytes": 20_000})
    assert run(pipeline).state == "done"
    # What a shard will take is estimated before it is read.
    assert sum(path.stat().st_size for path in (tmp_path / "one" / "store").rglob("*.arrow")) <= 1.1 * 20_000


@pytest.mark.slow
def test_another_quote_reads_the_same_files_anew(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tsv").write_text('id\ttext\n1\t"x marks\n2\tfine\n3\tthe spot"\n4\tgood\n')

    def pipeline(**dataset: Any):
        settings = {"key": ["id"], "keep": [], **dataset}
        return make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*.tsv", dataset=settings)

    run(pipeline())
    assert query(pipeline().lake, "SELECT id FROM reviews ORDER BY id") == [(1,), (4,)]
    run(pipeline(quote=""))
    assert query(pipeline().lake, "SELECT id FROM reviews ORDER BY id") == [(1,), (2,), (3,), (4,)]
    assert plan_of(pipeline(quote=""))["up_to_date"]
    assert problems_of(pipeline(quote="")) == []


@pytest.mark.slow
def test_another_quote_computes_no_parquet_anew(tmp_path):
    write_parquet(tmp_path / "data" / "day=1" / "a.parquet", reviews(0, 10))
    folder, pattern = tmp_path / "lake", f"{tmp_path}/data/**/*.parquet"
    run(make_pipeline(folder, pattern, dataset={"keep": ["day"]}))
    unquoted = make_pipeline(folder, pattern, dataset={"keep": ["day"], "quote": ""})

    again = run(unquoted)

    assert (again.num_shards, again.num_rows_removed) == (0, 0)
    assert problems_of(unquoted) == []


@pytest.mark.slow
def test_files_with_the_same_bytes_in_two_folders_keep_what_their_own_folders_say(tmp_path):
    for day in ("2024-01-01", "2024-01-02"):
        write_parquet(tmp_path / "data" / f"day={day}" / "a.parquet", reviews(0, 10))
    dataset = {"key": ["day", "id"], "keep": ["rating"]}
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/**/*.parquet", dataset=dataset)
    assert run(pipeline).state == "done"
    found = query(pipeline.lake, "SELECT day, count(*) FROM reviews GROUP BY day ORDER BY day")
    assert found == [("2024-01-01", 10), ("2024-01-02", 10)]
    assert run(pipeline).num_shards == 0
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_folders_whose_columns_are_not_kept_change_nothing_of_what_a_file_is(tmp_path):
    folder = tmp_path / "data" / "day=1"
    write_parquet(folder / "a.parquet", reviews(0, 10))
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/**/*.parquet")
    run(pipeline)
    folder.rename(tmp_path / "data" / "day=2")

    moved = run(pipeline)

    assert (moved.num_shards, moved.num_copied) == (1, 1)
    assert query(pipeline.lake, "SELECT count(*) FROM _target_files WHERE contains(content, ';')") == [(0,)]


@pytest.mark.slow
def test_a_folders_column_that_is_asked_for_later_makes_another_revision(tmp_path):
    write_parquet(tmp_path / "data" / "day=1" / "a.parquet", reviews(0, 10))
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/**/*.parquet")
    before = run(pipeline)
    asking = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/**/*.parquet", dataset={"keep": ["day"]})

    asked = run(asking)

    assert asked.revision.startswith(f"{before.revision};folders=")
    assert query(pipeline.lake, "SELECT DISTINCT day FROM reviews") == [("1",)]
    assert problems_of(asking) == []
    assert run(pipeline).revision == before.revision
    assert problems_of(pipeline) == []
