"""A chosen past range computed again, a version beside another, and each of it gone on with after a kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.commands import write_toml
from tests.pipelines import (
    assert_same_tables,
    make_pipeline,
    problems_of,
    quarantine_of,
    query,
    reviews,
    run,
    table_of,
    write_parquet,
)
from tests.prepared import Prepared
from tests.processes import Process, wait_until
from tidemill.cli.backfill import backfill as backfill_command
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, LakeError
from tidemill.lake import Lake, requests
from tidemill.lake.backfills import cancel_backfills
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill, tranches
from tidemill.planning.cost_limit import CostLimit
from tidemill.results.promotion import promote
from tidemill.running import backfill_run
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.stage_run import StageRun

NUM_FILES, NUM_ROWS = 4, 6


def pipeline_in(folder: Path) -> Pipeline:
    return make_pipeline(folder / "lake", f"{folder}/data/*.parquet")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("done")
    for number in range(NUM_FILES):
        name = f"2024-{number + 1:02}-05.parquet"
        write_parquet(folder / "data" / name, reviews(number * NUM_ROWS, NUM_ROWS), row_group_size=NUM_ROWS)
    run(pipeline_in(folder))
    return Prepared(folder)


@pytest.fixture
def pipeline(done: Prepared) -> Pipeline:
    """One that ran, over files of its own."""
    return pipeline_in(done.put_back())


@pytest.fixture
def data(pipeline: Pipeline) -> Path:
    return Path(pipeline.dataset.path).parent


def ledger(pipeline: Pipeline) -> dict[tuple[str, str], tuple[Any, ...]]:
    """(version, path) → what the ledger says of its one shard."""
    rows = query(pipeline.lake, "SELECT version, path, request_id, run_id, committed_at, num_rows FROM _ledger")
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert len(found) == len(rows)
    return found


def ask(pipeline: Pipeline, **selected: Any) -> str:
    with Lake(pipeline.lake) as lake:
        return request_backfill(lake, plan_backfill(pipeline, lake, Selection(**selected)))


def backfill(pipeline: Pipeline, **selected: Any) -> Any:
    return BackfillRun(pipeline, ask(pipeline, **selected)).execute()


def selected_paths(pipeline: Pipeline, **selected: Any) -> list[str]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return sorted({s.file.path for s in plan_backfill(pipeline, lake, Selection(**selected)).shards})


def with_options(pipeline: Pipeline, **sections: dict[str, Any]) -> Pipeline:
    raw = pipeline.model_dump(exclude_unset=True)
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section}
    return Pipeline.model_validate(raw)


def test_only_what_was_asked_for_is_computed_again_and_the_rest_keeps_its_ledger_rows(pipeline):
    before, rows = ledger(pipeline), table_of(pipeline)

    result = backfill(pipeline, files="2024-0[12]*")

    after = ledger(pipeline)
    changed = {path for version, path in before if before[version, path] != after[version, path]}
    assert changed == {f"2024-0{number}-05.parquet" for number in (1, 2)}
    assert (result.state, result.num_shards, result.num_rows) == ("done", 2, 2 * NUM_ROWS)
    assert table_of(pipeline) == rows
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_the_same_backfill_once_more_is_a_new_one(pipeline):
    first, second = backfill(pipeline, files="2024-01*"), backfill(pipeline, files="2024-01*")

    assert first.num_shards == second.num_shards == 1
    assert first.backfill_id != second.backfill_id


@pytest.mark.slow
def test_a_stopped_backfill_goes_on_where_it_was(pipeline):
    asked = ask(pipeline, files="2024-0[123]*")
    with Lake(pipeline.lake, read_only=True) as lake:
        some = tranches(lake, asked, 2)[0]
    BackfillRun(pipeline, asked, shards=some).execute()

    again = ask(pipeline, files="2024-0[123]*")
    result = BackfillRun(pipeline, again).execute()

    assert again == asked
    assert result.num_shards == 3 - 2
    assert {row[0].split("-")[0] for (_, path), row in ledger(pipeline).items() if path < "2024-04"} == {asked}


def test_dates_in_paths_select_files(pipeline):
    assert selected_paths(pipeline, since="2024-03") == ["2024-03-05.parquet", "2024-04-05.parquet"]
    assert selected_paths(pipeline, until="2024-02-05") == ["2024-01-05.parquet", "2024-02-05.parquet"]
    assert len(selected_paths(pipeline, since="2024", until="2024")) == NUM_FILES
    with Lake(pipeline.lake, read_only=True) as lake:
        made = plan_backfill(pipeline, lake, Selection(since="2024-03"))
    assert made.notes[0].startswith("4 files are dated by the name")


@pytest.mark.slow
def test_the_day_a_local_file_was_changed_counts_where_its_path_has_no_date(tmp_path):
    for name, day in (("a", 1_700_000_000), ("b", 1_720_000_000)):
        path = write_parquet(tmp_path / "data" / f"{name}.parquet", reviews(ord(name), 4))
        os.utime(path, (day, day))
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*.parquet")
    run(pipeline)

    assert selected_paths(pipeline, since="2024-01-01") == ["b.parquet"]


@pytest.mark.slow
def test_the_day_of_the_commit_counts_on_the_hub(tmp_path, hub):
    from tests.pipelines import MODEL

    repo = hub.add_dataset("acme/dated")
    local = write_parquet(tmp_path / "train.parquet", reviews(0, 4))
    repo.commit({"data/train.parquet": local.read_bytes()})
    pipeline = make_pipeline(tmp_path / "lake", "acme/dated", model={"path": str(MODEL)})
    run(pipeline)

    assert selected_paths(pipeline, since="2000-01-01") == ["data/train.parquet"]
    with pytest.raises(ConfigError, match="Nothing matches"):
        selected_paths(pipeline, until="2000-01-01")


@pytest.mark.slow
def test_files_of_the_hub_are_found_again_where_the_revision_says_how_they_are_read(tmp_path, hub):
    hub.add_dataset("acme/tabs").commit({"data/train.tsv": b'id\ttext\n1\t"fine\n'})
    dataset = {"quote": "", "keep": []}
    pipeline = make_pipeline(tmp_path / "lake", "acme/tabs", dataset=dataset)
    assert run(pipeline).revision.endswith(";quote=")

    assert selected_paths(pipeline, since="2000-01-01") == ["data/train.tsv"]
    assert backfill(pipeline, files="data/*").num_rows == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"files": "nope*"}, r"Nothing matches .*nope.* The dataset has 4 files"),
    ({"since": "yesterday"}, "--since 'yesterday' is not a date"),
    ({"until": "2024-13-01"}, "--until '2024-13-01' is not a date"),
    ({"since": "2024-03", "until": "2024-02"}, "--since 2024-03 is after --until 2024-02"),
    ({"shards": ("abc",)}, "abc: no such shard"),
    ({"quarantined": True}, "Nothing matches"),
]


def test_a_selector_that_means_nothing_is_refused(pipeline):
    for selected, message in REFUSED:
        with pytest.raises(ConfigError, match=message):
            selected_paths(pipeline, **selected)


def test_a_revision_of_a_model_in_a_folder_is_refused_with_the_way_to_another_model(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--model-revision v2: model.path = .* has no revisions.*--set model\.path=FOLDER"
    ):
        backfill_command(str(write_toml(tmp_path, "data/*.parquet")), model_revision="v2")


def test_a_version_that_is_not_there_is_refused_with_those_that_are(pipeline):
    with pytest.raises(LakeError, match="names no version"):
        selected_paths(pipeline, version="00000000")


def test_a_new_version_is_computed_beside_the_old_one_which_stays_promoted(pipeline, tmp_path):
    before = table_of(pipeline)
    changed = with_options(pipeline, tokenizer={"max_length": 8})

    result = backfill(changed)

    assert result.num_shards == NUM_FILES
    assert table_of(pipeline) == before
    assert problems_of(pipeline) == []
    alone = make_pipeline(tmp_path / "alone", pipeline.dataset.path, tokenizer={"max_length": 8})
    run(alone)
    new = query(pipeline.lake, f'SELECT id, label FROM "{result.table}" ORDER BY ALL')
    assert new == query(alone.lake, "SELECT id, label FROM reviews ORDER BY ALL")


@pytest.mark.slow
def test_a_version_that_lacks_shards_gets_only_those(pipeline):
    changed = with_options(pipeline, tokenizer={"max_length": 8})
    first = backfill(changed, files="2024-01*")

    rest = backfill(changed)

    assert (first.num_shards, rest.num_shards) == (1, NUM_FILES - 1)
    assert rest.version == first.version


@pytest.mark.slow
def test_a_new_revision_during_a_backfill_leaves_nothing_of_the_old_one_in_the_new_version(pipeline, data):
    changed = with_options(pipeline, tokenizer={"max_length": 8})
    asked = ask(changed)
    with Lake(pipeline.lake, read_only=True) as lake:
        first, second = tranches(lake, asked, NUM_FILES // 2)
    version = BackfillRun(changed, asked, shards=first).execute().version

    write_parquet(data / "2024-01-05.parquet", reviews(500, NUM_ROWS))
    (data / "2024-02-05.parquet").unlink()
    write_parquet(data / "2024-11-05.parquet", reviews(600, NUM_ROWS))
    run(pipeline)

    gone = query(
        pipeline.lake,
        f"SELECT path FROM _ledger WHERE version = '{version}' "
        "AND shard_id NOT IN (SELECT shard_id FROM _target_shards)",
    )
    assert gone == []
    assert BackfillRun(changed, asked, shards=second).execute().num_shards == 2
    assert backfill(changed).num_shards == 2
    paths = {path for name, path in ledger(pipeline) if name == version}
    assert paths == {path.name for path in data.iterdir()}
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_rows_in_quarantine_are_tried_again_alone(tmp_path):
    texts = reviews(0, NUM_ROWS)
    write_parquet(tmp_path / "data" / "a.parquet", texts)
    strict = make_pipeline(
        tmp_path / "lake",
        f"{tmp_path}/data/*.parquet",
        tokenizer={"max_length": 16, "long_text": "quarantine"},
        limits={"max_quarantine": 0.99},
    )
    run(strict)
    quarantined = quarantine_of(strict)
    assert 0 < len(quarantined) < NUM_ROWS
    rows = table_of(strict)

    result = backfill(strict, quarantined=True)

    assert (result.state, result.num_shards) == ("done", 1)
    assert result.num_rows + result.num_quarantined == len(quarantined)
    assert quarantine_of(strict) == quarantined
    assert table_of(strict) == rows
    assert problems_of(strict) == []


@pytest.mark.slow
def test_a_cancelled_backfill_asks_for_nothing_more(pipeline):
    asked = ask(pipeline, files="2024-0*")
    with Lake(pipeline.lake) as lake:
        assert cancel_backfills(lake, pipeline.name) == [asked]

    result = BackfillRun(pipeline, asked).execute()

    assert result.num_shards == 0
    assert query(pipeline.lake, "SELECT state FROM _backfills") == [("cancelled",)]
    assert run(pipeline).num_shards == 0


def test_a_bound_on_the_cost_stops_a_backfill_before_it_is_passed(pipeline):
    priced = with_options(pipeline, cost={"per_hour": 3600.0})
    with Lake(priced.lake) as lake:
        made = plan_backfill(priced, lake, Selection())
        asked = request_backfill(lake, made, max_cost=1e-6)

    result = BackfillRun(priced, asked).execute()

    assert (result.state, result.num_shards) == ("stopped", 0)
    assert "max_cost = 1e-06" in result.notes[0]


@pytest.mark.slow
def test_the_bound_on_the_cost_is_one_for_all_pages_of_requests(pipeline, monkeypatch):
    made: list[CostLimit] = []

    class Noted(CostLimit):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(backfill_run, "CostLimit", Noted)
    monkeypatch.setattr(requests, "PAGE_REQUESTS", 2)
    assert backfill(pipeline).num_shards == NUM_FILES
    assert len(made) == 1


def run_backfill(pipeline: Pipeline, home: Path, asked: str) -> int:
    os.environ["TIDEMILL_HOME"] = str(home)
    return int(BackfillRun(pipeline, asked).execute().num_shards)


def written(pipeline: Pipeline) -> list[Path]:
    """Files of rows; those of deletions end in `-delete`."""
    return [path for path in Path(pipeline.lake.data).rglob("ducklake-*.parquet") if "delete" not in path.name]


def watch(pipeline: Pipeline, stop: Path) -> list[list[int]]:
    """The sorted numbers of rows a shard, as a reader saw them until `stop` was there."""
    seen: set[tuple[int, ...]] = set()

    def look() -> bool:
        rows = query(pipeline.lake, "SELECT count(*) FROM reviews GROUP BY shard_id ORDER BY ALL")
        seen.add(tuple(count for (count,) in rows))
        return stop.exists()

    wait_until(look)
    return [list(counts) for counts in seen]


@pytest.mark.parametrize(
    ("num_files", "num_asked"),
    [pytest.param(4, 3, id="quick"), pytest.param(40, 12, marks=pytest.mark.soak)],
)
def test_a_killed_backfill_computes_each_shard_once_more_in_all_while_readers_see_whole_shards(
    tmp_path, num_files, num_asked
):
    for number in range(num_files):
        prefix = "asked" if number < num_asked else "other"
        write_parquet(tmp_path / "data" / f"{prefix}-{number:02}.parquet", reviews(number * 60, 60))
    pipeline = make_pipeline(tmp_path / "lake", f"{tmp_path}/data/*.parquet", limits={"shards_in_flight": 1})
    run(pipeline)
    before, rows = ledger(pipeline), table_of(pipeline)
    asked = ask(pipeline, files="asked-*")
    reader = Process(watch, pipeline, tmp_path / "stop")
    num_written = len(written(pipeline))
    killed = Process(run_backfill, pipeline, tmp_path / "home", asked)
    # Shards go one by one: the second is written when the first is committed.
    wait_until(lambda: len(written(pipeline)) >= num_written + 2)
    assert killed.kill()
    between = ledger(pipeline)
    done = {place for place in before if between[place] != before[place]}
    assert 0 < len(done) < num_asked

    assert ask(pipeline, files="asked-*") == asked
    computed = run_backfill(pipeline, tmp_path / "home", asked)

    (tmp_path / "stop").touch()
    assert reader.result() == [[60] * num_files]
    after = ledger(pipeline)
    assert computed == num_asked - len(done)
    assert {place: after[place] for place in done} == {place: between[place] for place in done}
    assert {path for _, path in after if after[_, path] != before[_, path]} == {
        f"asked-{number:02}.parquet" for number in range(num_asked)
    }
    assert table_of(pipeline) == rows
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_a_backfilled_table_is_that_of_a_fresh_run(pipeline, tmp_path):
    backfill(pipeline)
    fresh = make_pipeline(tmp_path / "fresh", pipeline.dataset.path)
    run(fresh)

    assert_same_tables(pipeline, fresh)


@pytest.mark.slow
def test_a_file_that_changed_meanwhile_fails_alone(pipeline, data):
    asked = ask(pipeline)
    write_parquet(data / "2024-02-05.parquet", reviews(400, NUM_ROWS))

    result = BackfillRun(pipeline, asked).execute()

    assert (result.state, result.num_shards) == ("failed", NUM_FILES - 1)
    assert [failure["path"] for failure in result.failures] == ["2024-02-05.parquet"]


@pytest.mark.slow
def test_a_dataset_that_moved_as_a_whole_is_read_where_it_is_now(pipeline, data):
    moved_to = data.rename(data.with_name("moved"))
    moved = with_options(pipeline, dataset={"path": f"{moved_to}/*.parquet"})

    assert backfill(moved, files="2024-01*").state == "done"


@pytest.mark.slow
def test_a_version_that_was_swapped_out_while_a_file_changed_can_be_completed_and_swapped_in_again(pipeline, data):
    changed = with_options(pipeline, tokenizer={"max_length": 8})
    new = backfill(changed).version
    write_parquet(data / "2024-01-05.parquet", reviews(400, NUM_ROWS))
    StageRun(pipeline, "ingest").execute()
    backfill(changed)
    with Lake(pipeline.lake) as lake:
        old = promote(lake, pipeline.name, new).previous_version
        assert promote(lake, pipeline.name, old).state == "incomplete"

    assert backfill(pipeline, version=old).num_shards == 1

    with Lake(pipeline.lake) as lake:
        assert promote(lake, pipeline.name, old).state == "promoted"
    assert problems_of(pipeline) == []


def test_a_backfill_that_was_killed_after_its_last_commit_is_not_computed_again(pipeline):
    asked = ask(pipeline, files="2024-01*")
    BackfillRun(pipeline, asked).execute()
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: cursor.execute("UPDATE _backfills SET state = 'open'"), message="not closed")
        assert plan_backfill(pipeline, lake, Selection(files="2024-01*")).num_shards == 0

    assert BackfillRun(pipeline, asked).execute().num_shards == 0
    assert query(pipeline.lake, "SELECT state FROM _backfills") == [("done",)]
