"""Reviews sorted by labels of one's own: from the pipeline file to the table, and again when something changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.commands import answer, tidemill, write_toml
from tests.nli import save_nli
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
from tests.versions import compute_version
from tidemill.config import Pipeline
from tidemill.errors import ModelError
from tidemill.lake import Lake
from tidemill.planning.backfill_plan import Selection, plan_backfill
from tidemill.planning.estimates import BYTES_PER_TOKEN
from tidemill.planning.plan import make_plan
from tidemill.reports.compare import compare_versions
from tidemill.results.promotion import promote

LABELS = ["comedy", "war", "a love story"]
NUM_ROWS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_nli(tmp_path_factory.mktemp("nli"), "bert")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_parquet(
        tmp_path / "data" / "a.parquet", with_texts(reviews(0, NUM_ROWS), {3: None, 5: "", 9: "the film " * 99})
    )
    write_parquet(tmp_path / "data" / "b.parquet", reviews(100, NUM_ROWS))
    return tmp_path


def with_texts(rows: pa.Table, texts: dict[int, str | None]) -> pa.Table:
    column = rows["text"].to_pylist()
    for number, text in texts.items():
        column[number] = text
    return rows.set_column(rows.column_names.index("text"), "text", pa.array(column, pa.string()))


def topics(
    folder: Path, model: Path, *, lake: str = "one", all_scores: bool = True, sections: Any = None, **options: Any
) -> Pipeline:
    options = {"candidate_labels": LABELS, **options}
    return make_pipeline(
        folder / lake,
        f"{folder}/data/*.parquet",
        model={"path": str(model), "task": "zero-shot-classification", "all_scores": all_scores, "options": options},
        **{"limits": {"max_quarantine": 0.5}, **(sections or {})},
    )


def test_reviews_are_sorted_by_labels_of_ones_own(folder, model):
    pipeline = topics(folder, model)

    result = run(pipeline)

    rows = table_of(pipeline)
    assert (result.state, len(rows)) == ("done", 2 * NUM_ROWS - 1)
    for row in rows.values():
        assert list(row["scores"]) == LABELS
        assert row["score"] == max(row["scores"].values()) == row["scores"][row["label"]]
        assert sum(row["scores"].values()) == pytest.approx(1)
        assert row["truncated"] == (row["num_tokens"] > 64)
    assert len({row["label"] for row in rows.values()}) > 1
    assert rows["a.parquet", 9]["truncated"]
    assert quarantine_of(pipeline) == {("a.parquet", 3): ("ingest", "text is null")}
    assert query(pipeline.lake, "SELECT typeof(label), typeof(score), typeof(scores) FROM reviews LIMIT 1") == [
        ("VARCHAR", "FLOAT", "MAP(VARCHAR, FLOAT)")
    ]
    assert problems_of(pipeline) == []
    assert run(pipeline).num_shards == 0


@pytest.mark.slow
def test_of_a_changed_file_the_changed_rows_are_computed(folder, model):
    pipeline = topics(folder, model, all_scores=False)
    run(pipeline)
    write_parquet(folder / "data" / "b.parquet", with_texts(reviews(100, NUM_ROWS), {7: "A comedy, and no war in it."}))
    (folder / "data" / "a.parquet").rename(folder / "data" / "c.parquet")
    with Lake(pipeline.lake, read_only=True) as lake:
        planned = make_plan(pipeline, lake)[0].to_json()

    result = run(pipeline)

    assert planned["rows_to_compute"] == 1
    assert (result.num_copied, result.num_rows - result.num_unchanged) == (1, 1)
    fresh = topics(folder, model, all_scores=False, lake="fresh")
    run(fresh)
    assert_same_tables(pipeline, fresh)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_other_options_are_another_version_which_is_compared_and_promoted(folder, model):
    pipeline, several = topics(folder, model), topics(folder, model, multi_label=True)
    first = run(pipeline).version
    tokens = {path: path.stat().st_mtime_ns for path in (folder / "one" / "store" / "tokens").iterdir()}

    second = compute_version(several)

    assert {path: path.stat().st_mtime_ns for path in (folder / "one" / "store" / "tokens").iterdir()} == tokens
    with Lake(pipeline.lake) as lake:
        compared = compare_versions(lake, "reviews", first, second)
        assert promote(lake, "reviews", second).state == "promoted"
    assert compared["rows"]["compared"] == 2 * NUM_ROWS - 1
    assert len(compared["differences"]) == 1
    assert "multi_label" in compared["differences"][0]
    assert any(sum(row["scores"].values()) > 1.1 for row in table_of(several).values())
    assert problems_of(several) == []


@pytest.mark.slow
def test_a_row_too_long_for_its_longest_hypothesis_is_quarantined_where_it_may_not_be_cut(folder, model):
    uncut = {"tokenizer": {"long_text": "quarantine"}, "limits": {"max_quarantine": 1}}
    pipeline = topics(folder, model, sections=uncut)

    run(pipeline)

    stage, reason = quarantine_of(pipeline)["a.parquet", 9]
    assert stage == "tokenize"
    assert reason.endswith("tokens exceed tokenizer.max_length 64")
    assert {row["truncated"] for row in table_of(pipeline).values()} == {False}
    assert problems_of(pipeline) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "model.options.candidate_labels = []: is empty: give a list of labels"),
        (["model.options.candidate_labels='comedy, war'"], "give a list of labels"),
        (["model.options.candidate_labels=['war', 'war']"], "holds 'war' more than once"),
        (["model.options.candidate_label=['war']"], "Did you mean model.options.candidate_labels?"),
        (["model.options.candidate_labels=['War', 'war']"], "so that no score tells their labels apart"),
        (
            ["model.options.candidate_labels=['war']", "model.options.hypothesis_template='it'"],
            "has no place for the label",
        ),
        (["model.options.candidate_labels=['war']", "tokenizer.max_length=9"], "leaves no room for a text"),
        (["model.options.candidate_labels=['war']", "tokenizer.long_text='windows'"], "Set long_text to"),
        (
            ["model.options.candidate_labels=['war']", "dataset.text_pair='domain'"],
            "dataset.text_pair gives a row two texts",
        ),
        (["model.options.candidate_labels=['war']", "model.task='text-classification'"], "is no option of model.task"),
    ],
)
def test_bad_options_are_refused_with_the_way_out_before_anything_is_written(folder, model, overrides, said):
    toml = write_toml(folder, f"{folder}/data/*.parquet", model=str(model))
    words = [word for override in ["model.task='zero-shot-classification'", *overrides] for word in ("--set", override)]

    refused = tidemill("run", toml, "--direct", *words, home=folder / "home")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert said in refused.stderr
    assert not (folder / "home" / "lake.sqlite").exists()


def test_a_plan_refuses_what_a_run_would_before_anything_is_read(folder, model):
    with pytest.raises(ModelError, match='Set long_text to "truncate" or "quarantine"'):
        make_plan(topics(folder, model, sections={"tokenizer": {"long_text": "windows"}}), None)
    with pytest.raises(ModelError, match=r"tokenizer\.max_length = 65 is more than the 64 tokens"):
        make_plan(topics(folder, model, sections={"tokenizer": {"max_length": 65}}), None)


def test_a_plan_counts_a_text_once_for_each_label_before_anything_is_measured(folder, model):
    one, several = (
        make_plan(topics(folder, model, candidate_labels=labels), None)[0].estimate.num_tokens
        for labels in (LABELS[:1], LABELS)
    )

    assert several == pytest.approx(len(LABELS) * one, abs=len(LABELS))


@pytest.mark.slow
def test_tokens_that_were_counted_of_other_labels_are_not_a_backfills(folder, model):
    run(topics(folder, model))
    same, more = topics(folder, model, multi_label=True), topics(folder, model, candidate_labels=[*LABELS, "history"])

    with Lake(same.lake) as lake:
        counted = plan_backfill(same, lake, Selection()).estimate.num_tokens
        by_bytes = plan_backfill(more, lake, Selection()).estimate.num_tokens
        [(num_tokens,)] = lake.cursor().execute("SELECT sum(num_tokens) FROM _ledger").fetchall()
        [(text_bytes,)] = lake.cursor().execute("SELECT sum(text_bytes) FROM _shards").fetchall()

    assert counted == num_tokens
    assert by_bytes == pytest.approx((len(LABELS) + 1) * text_bytes / BYTES_PER_TOKEN, abs=1)


@pytest.mark.slow
def test_the_command_line_answers_and_shows_a_table_of_labels_of_ones_own(folder, model):
    toml = write_toml(folder, f"{folder}/data/*.parquet", model=str(model))
    text = toml.read_text().replace("[model]\n", '[model]\ntask = "zero-shot-classification"\n')
    toml.write_text(f'{text}[limits]\nmax_quarantine = 0.5\n[model.options]\ncandidate_labels = ["comedy", "war"]\n')

    assert answer("run", toml, "--direct", home=folder / "home")["state"] == "done"

    found = answer("sql", toml, "SELECT label, count(*) AS n FROM reviews GROUP BY ALL", home=folder / "home")
    assert {row["label"] for row in found} <= {"comedy", "war"}
    assert sum(row["n"] for row in found) == 2 * NUM_ROWS - 1
