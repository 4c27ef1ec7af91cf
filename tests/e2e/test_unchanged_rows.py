"""One changed row makes a new file: the model is given that row, and the table is a fresh run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import take_rows_back_to_layout_4
from tests.pipelines import (
    assert_same_tables,
    make_pipeline,
    problems_of,
    query,
    reviews,
    run,
    table_of,
    write_parquet,
)
from tests.prepared import Prepared
from tests.variants import variants
from tidemill.config import STAGES, Pipeline
from tidemill.lake import Lake
from tidemill.lake.checksums import set_checksums
from tidemill.lake.tables import table_name
from tidemill.planning.backfill_plan import Selection, plan_backfill, request_backfill
from tidemill.planning.plan import make_plan
from tidemill.progress import Quiet
from tidemill.results.migration.layouts import migrate
from tidemill.running.backfill_run import BackfillRun
from tidemill.running.stage_run import StageRun
from tidemill.running.stages import workspace
from tidemill.upkeep.forget import forget

NUM_ROWS = 40
SOME_SHARDS: dict[str, Any] = {"shard_bytes": 1500}


def changed_rows(rows: pa.Table) -> pa.Table:
    """One text changed, one row inserted and one removed: all rows behind have other numbers."""
    columns = rows.to_pydict()
    columns["text"][7] = "This one was written anew, and badly."
    for name, values in columns.items():
        values.insert(20, "A row that was not there." if name == "text" else values[0])
        del values[30]
    columns["id"][20] = "inserted"
    return pa.table(columns, schema=rows.schema)


def write(path: Path, rows: pa.Table) -> None:
    if path.suffix == ".parquet":
        write_parquet(path, rows, row_group_size=10)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))


def pipeline_over(folder: Path, name: str = "one", **sections: Any) -> Pipeline:
    return make_pipeline(folder / name, f"{folder}/data/*", **{"dataset": SOME_SHARDS, **sections})


def plan_of(pipeline: Pipeline) -> dict[str, Any]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return make_plan(pipeline, lake)[0].to_json()


def assert_same_as_fresh(pipeline: Pipeline, folder: Path, **sections: Any) -> None:
    fresh = pipeline_over(folder, "fresh", **sections)
    run(fresh)
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("done")
    write(folder / "data" / "export.parquet", reviews(0, NUM_ROWS))
    run(pipeline_over(folder))
    return Prepared(folder)


@pytest.fixture
def folder(done: Prepared) -> Path:
    """Has a file in `data`, and a lake, `one`, into which it was run."""
    return done.put_back()


def test_of_a_changed_file_the_changed_rows_are_computed_as_the_plan_said(folder):
    pipeline = pipeline_over(folder)
    write(folder / "data" / "export.parquet", changed_rows(reviews(0, NUM_ROWS)))

    planned = plan_of(pipeline)
    assert (planned["rows"], planned["rows_to_compute"], planned["rows_to_compute_at_most"]) == (NUM_ROWS, 2, False)
    result = run(pipeline)

    assert (result.state, result.num_rows, result.num_unchanged) == ("done", NUM_ROWS, NUM_ROWS - 2)
    assert query(
        pipeline.lake, "SELECT sum(num_unchanged), sum(num_tokens - num_unchanged_tokens)::BIGINT FROM _ledger"
    ) == [(NUM_ROWS - 2, result.num_tokens)]
    assert query(pipeline.lake, "SELECT sum(num_computed_tokens)::BIGINT FROM _ledger") == [(result.num_tokens,)]
    assert_same_as_fresh(pipeline, folder)


def test_where_a_file_of_the_table_is_gone_the_plan_counts_every_row_of_a_new_file(folder):
    pipeline = pipeline_over(folder)
    write(folder / "data" / "next.parquet", changed_rows(reviews(0, NUM_ROWS)))
    for file in Path(pipeline.lake.data).rglob("reviews__*/*.parquet"):
        file.unlink()
    assert plan_of(pipeline)["rows_to_compute"] == NUM_ROWS


@pytest.mark.slow
@pytest.mark.parametrize("stays", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_new_file_is_answered_by_its_sibling_and_one_stage_after_the_other_does_as_much(folder, stays):
    """A sibling that left the dataset leaves the table with the last stage."""
    pipeline = pipeline_over(folder)
    write(folder / "data" / "next.parquet", changed_rows(reviews(0, NUM_ROWS)))
    if not stays:
        (folder / "data" / "export.parquet").unlink()
    assert plan_of(pipeline)["rows_to_compute"] == 2

    done = {stage: StageRun(pipeline, stage, yes=True).execute() for stage in STAGES}

    assert (done["infer"].num_rows, done["infer"].num_unchanged) == (NUM_ROWS, NUM_ROWS - 2)
    assert done["materialize"].num_tokens == done["infer"].num_tokens
    assert_same_as_fresh(pipeline, folder)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", variants(["parquet", "jsonl"], ["parquet"]))
def test_the_rest_of_a_new_file_is_answered_by_its_sibling_too_where_the_run_was_interrupted(tmp_path, suffix):
    class Interrupting(Quiet):
        def committed(self, path, **counts):
            raise KeyboardInterrupt

    pipeline = pipeline_over(tmp_path, limits={"shards_in_flight": 1})
    write(tmp_path / "data" / f"export.{suffix}", reviews(0, NUM_ROWS))
    run(pipeline)
    write(tmp_path / "data" / f"next.{suffix}", changed_rows(reviews(0, NUM_ROWS)))

    assert run(pipeline, progress=Interrupting()).state == "stopped"
    [(begun,)] = query(pipeline.lake, f"SELECT sum(num_rows)::BIGINT FROM _ledger WHERE path LIKE '%next.{suffix}'")
    assert 0 < begun < NUM_ROWS
    run(pipeline)

    computed = (
        "SELECT sum(num_rows - num_unchanged)::BIGINT FROM _ledger "
        f"WHERE path LIKE '%next.{suffix}' AND copied_from IS NULL"
    )
    assert query(pipeline.lake, computed) == [(2,)]
    assert_same_as_fresh(pipeline, tmp_path)


@pytest.mark.slow
def test_rows_in_another_order_keep_their_answers_bit_by_bit_and_open_no_model(tmp_path, monkeypatch):
    """Every score of every label, and of texts in windows; a row without a text has nothing to be computed."""
    options: dict[str, Any] = {
        "model": {"all_scores": True},
        "tokenizer": {"max_length": 16, "long_text": "windows"},
        "limits": {"max_quarantine": 0.1},
    }
    texts = [None, *reviews(0, NUM_ROWS)["text"].to_pylist()[1:]]
    rows = reviews(0, NUM_ROWS).set_column(reviews(0, 0).column_names.index("text"), "text", [texts])
    pipeline = pipeline_over(tmp_path, **options)
    write(tmp_path / "data" / "export.jsonl", rows)
    run(pipeline)
    before = by_id(pipeline)
    write(tmp_path / "data" / "export.jsonl", rows.sort_by("id"))
    monkeypatch.setattr(workspace, "load_runner", refuse)

    result = run(pipeline)

    assert (result.state, result.num_tokens, result.num_unchanged) == ("done", 0, NUM_ROWS - 1)
    assert by_id(pipeline) == before
    assert problems_of(pipeline) == []


def by_id(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in table_of(pipeline).values()}


def refuse(*_: object) -> None:
    raise AssertionError("the model was opened")


@pytest.mark.slow
def test_what_is_asked_for_again_is_computed_and_what_was_forgotten_stays_away(folder):
    pipeline = pipeline_over(folder)
    forgotten = reviews(0, 1)["id"][0].as_py()
    forget(pipeline, f"id = '{forgotten}'")
    write(folder / "data" / "export.parquet", changed_rows(reviews(0, NUM_ROWS)))
    assert run(pipeline).num_unchanged == NUM_ROWS - 3
    assert forgotten not in by_id(pipeline)

    with Lake(pipeline.lake) as lake:
        backfill_id = request_backfill(lake, plan_backfill(pipeline, lake, Selection(files="export*")))
    again = BackfillRun(pipeline, backfill_id).execute()

    assert (again.state, again.num_unchanged) == ("done", 0)
    assert again.num_tokens == query(pipeline.lake, "SELECT sum(num_tokens)::BIGINT FROM _ledger")[0][0]
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_an_older_lake_computes_nothing_again_and_learns_its_texts_file_by_file(folder):
    pipeline = pipeline_over(folder)
    [(version,)] = query(pipeline.lake, "SELECT version FROM _versions")

    def body(cursor: Any) -> None:
        take_rows_back_to_layout_4(cursor)
        set_checksums(cursor, pipeline.name, version, table_name(pipeline.name, version))
        cursor.execute("UPDATE _layout SET layout_version = 4")

    with Lake(pipeline.lake) as lake:
        lake.write(body, message="as layout 4 was")
    assert "Older rows have none" in " ".join(migrate(pipeline.lake).changes)
    assert (problems_of(pipeline), run(pipeline).num_shards) == ([], 0)

    rows = changed_rows(reviews(0, NUM_ROWS))
    write(folder / "data" / "export.parquet", rows)
    assert plan_of(pipeline)["rows_to_compute"] == NUM_ROWS
    assert run(pipeline).num_unchanged == 0
    write(folder / "data" / "export.parquet", rows.slice(0, NUM_ROWS - 1))
    assert run(pipeline).num_unchanged == NUM_ROWS - 1
    assert problems_of(pipeline) == []
