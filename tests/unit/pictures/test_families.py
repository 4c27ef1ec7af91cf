"""The figures of entities, vectors, written texts, single scores and scores of all labels."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.commands import tidemill
from tests.made_tables import ENTITY, made_table
from tests.unit.pictures.made import MARKUP, rows_of
from tidemill.config import Pipeline
from tidemill.pictures import Report, make_report
from tidemill.pictures.page import page
from tidemill.reports.query import reading

NUM_ROWS = 24
SECRET = "Zebediah Quux"
"""A name that one row alone has."""
KEPT: dict[str, Any] = {
    "id": list(range(NUM_ROWS)),
    "name": [(MARKUP, None, "b")[i % 3] for i in range(NUM_ROWS)],
    "word": ["w"] * NUM_ROWS,
    "day": pa.array([datetime.date(2026, 1, 1 + i % 3) for i in range(NUM_ROWS)]),
}


def span(text: str, word: str, entity: str, score: float = 0.75) -> dict[str, Any]:
    start = text.index(word)
    return {"entity": entity, "score": score, "word": f" {word}", "start": start, "end": start + len(word)}


def texts_and_entities() -> tuple[list[str], list[list[dict[str, Any]] | None]]:
    texts, entities = [], []
    for i in range(NUM_ROWS):
        texts.append(f"😀 Anna met {SECRET if i == 5 else 'Bob'} in <b>Paris</b>, it says, and went home on day {i}.")
        spans = [span(texts[-1], "Anna", "PER"), span(texts[-1], "Paris", MARKUP)]
        entities.append(None if i == 0 else [] if i == 1 else spans[: 1 + i % 2])
    entities[5] = [*(entities[5] or []), span(texts[5], SECRET, "PER")]
    return texts, entities


@pytest.fixture(scope="module")
def with_entities(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    texts, entities = texts_and_entities()
    results = pa.table({"entities": pa.array(entities, pa.list_(ENTITY))})
    folder = tmp_path_factory.mktemp("entities")
    return made_table(folder, "token-classification", {**KEPT, "text": texts}, results)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    results = pa.table(
        {
            "text": [f"{SECRET} wrote {'much ' * i}" for i in range(NUM_ROWS)],
            "finish_reason": ["length" if i % 6 == 0 else "stop" for i in range(NUM_ROWS)],
            "num_prompt_tokens": pa.array([10 + i for i in range(NUM_ROWS)], pa.int32()),
            "num_new_tokens": pa.array([1 + i % 3 for i in range(NUM_ROWS)], pa.int32()),
            "mood": [[MARKUP, "joy", None][i % 3] for i in range(NUM_ROWS)],
            "price": pa.array([None if i == 0 else i / 2 for i in range(NUM_ROWS)], pa.float64()),
            "about": [f"{SECRET} {i}" for i in range(NUM_ROWS)],
            "tags": pa.array([["a", SECRET] if i == 0 else ["a", "b"] for i in range(NUM_ROWS)]),
        }
    )
    kept = {
        **KEPT,
        "question": [f"What did they do on day {i}, when the sun came up over the hills?" for i in KEPT["id"]],
    }
    folder = tmp_path_factory.mktemp("written")
    return made_table(folder, "text-generation", kept, results, dataset_text="question")


def vectors_of(num_rows: int, size: int = 6) -> pa.Array:
    values = np.random.default_rng(0).normal(size=(num_rows, size)).astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size)


def check_sql(report: Report, pipeline: Pipeline) -> None:
    """What a user gets by a figure's SQL, and that nothing in it runs on the page."""
    for picture in report.pictures:
        with reading(pipeline.lake, picture.figure.sql) as (cursor, statement):
            found = cursor.execute(statement).fetchall()
        assert len(found) == len(picture.rows), picture.figure.id
        assert picture.figure.worked_out or tuple(found) == picture.rows, picture.figure.id
    assert MARKUP not in page(report)


def test_entities_are_counted_by_type_as_in_the_table(with_entities):
    report = make_report(with_entities)
    check_sql(report, with_entities)

    every = [one["entity"] for row in texts_and_entities()[1] for one in row or []]
    assert {row["entity"]: row["num_entities"] for row in rows_of(report, "entities")} == Counter(every)
    per_row = {row["entities_from"]: row["num_rows"] for row in rows_of(report, "entities-per-row")}
    assert per_row == Counter(len(row) for row in texts_and_entities()[1] if row is not None)
    by_day = rows_of(report, "entity-by-day")
    assert sum(row["num_entities"] for row in by_day) == len(every)
    assert {row["_slice"] for row in rows_of(report, "entity-by-name")} == {"NULL", MARKUP, "b"}


@pytest.mark.slow
def test_a_word_that_few_rows_have_and_texts_are_shown_only_where_texts_are_asked_for(with_entities):
    without, with_texts = (make_report(with_entities, texts=texts) for texts in (False, True))

    assert SECRET not in page(without)
    assert "it says" not in page(without)
    words = rows_of(without, "words-1")
    assert [(row["word"], row["num_rows"]) for row in words] == [("Anna", NUM_ROWS - 2)]
    assert SECRET in [row["word"] for row in rows_of(with_texts, "words-1")]
    shown = page(with_texts)
    assert 'Anna<span class="type">PER</span></mark>' in shown
    assert "&lt;b&gt;<mark" in shown
    assert len(rows_of(with_texts, "examples")) == 10


@pytest.mark.slow
def test_a_map_shows_a_bounded_sample_that_is_the_same_each_time_and_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr("tidemill.pictures.families.vectors.NUM_POINTS", 10)
    texts = [f"{SECRET} said a thing that is longer than a name would ever be, {i}" for i in KEPT["id"]]
    results = pa.table({"embedding": vectors_of(NUM_ROWS)})
    pipeline = made_table(tmp_path, "sentence-similarity", {**KEPT, "text": texts}, results)

    report, again = make_report(pipeline), make_report(pipeline)
    check_sql(report, pipeline)
    points = rows_of(report, "embedding-map")
    assert len(points) == 10
    assert points == rows_of(again, "embedding-map")
    found = report.find("embedding-map")
    assert found is not None
    assert "10 rows, drawn by chance" in found.figure.tells
    assert "embedding" not in found.columns
    assert all(point["nearest (cosine)"].count(";") == 2 for point in points)
    assert SECRET not in page(report)
    assert SECRET in page(make_report(pipeline, texts=True))
    [length] = [row for row in rows_of(report, "length-histogram") if row["num_rows"]][:1]
    assert length["length_from"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [1, 2])
def test_a_map_of_one_or_two_rows_is_no_trouble(tmp_path, num_rows):
    kept = {name: values[:num_rows] for name, values in KEPT.items()}
    pipeline = made_table(tmp_path, "sentence-similarity", kept, pa.table({"embedding": vectors_of(num_rows)}))

    assert len(rows_of(make_report(pipeline), "embedding-map")) == num_rows


@pytest.mark.slow
def test_what_a_model_wrote_has_lengths_ends_and_fields_and_no_text_unless_it_is_asked_for(written):
    report = make_report(written)
    check_sql(report, written)

    assert {row["finish_reason"]: row["num_rows"] for row in rows_of(report, "finish_reasons")} == {
        "stop": 20,
        "length": 4,
    }
    lengths = rows_of(report, "text_length-histogram")
    assert sum(row["num_rows"] for row in lengths) == NUM_ROWS
    assert {row["mood"]: row["num_rows"] for row in rows_of(report, "mood-values")} == {MARKUP: 8, "joy": 8, "NULL": 8}
    assert sum(row["num_rows"] for row in rows_of(report, "price-histogram")) == NUM_ROWS - 1
    assert rows_of(report, "about_length-histogram")
    assert [(row["element"], row["num_rows"]) for row in rows_of(report, "tags-elements")] == [
        ("a", NUM_ROWS),
        ("b", NUM_ROWS - 1),
    ]
    assert SECRET not in page(report)
    shown = page(make_report(written, texts=True))
    assert f'<h4>text</h4><p class="text" dir="auto">{SECRET} wrote' in shown
    assert "<h4>question</h4>" in shown


@pytest.mark.slow
def test_answers_that_rows_share_are_labels(tmp_path):
    results = pa.table(
        {
            "text": ["yes" if i % 3 else "no" for i in range(NUM_ROWS)],
            "finish_reason": ["stop"] * NUM_ROWS,
            "num_prompt_tokens": pa.array([5] * NUM_ROWS, pa.int32()),
            "num_new_tokens": pa.array([1] * NUM_ROWS, pa.int32()),
        }
    )
    report = make_report(made_table(tmp_path, "text-generation", KEPT, results))

    assert {row["text"]: row["num_rows"] for row in rows_of(report, "labels")} == {"yes": 16, "no": 8}
    assert report.to_json()["labels"] == {"yes": 16, "no": 8}
    assert report.find("finish_reason-by-name") is None


@pytest.mark.slow
def test_a_score_alone_has_its_spread_and_its_mean_over_slices_and_rows_without_one_do_not_count(tmp_path):
    known = [i / 10 - 1 for i in range(2, NUM_ROWS)]
    scores = [None, float("nan"), *known]
    pipeline = made_table(tmp_path, "text-ranking", KEPT, pa.table({"score": pa.array(scores, pa.float32())}))

    report = make_report(pipeline)
    check_sql(report, pipeline)
    assert sum(row["num_rows"] for row in rows_of(report, "score-histogram")) == NUM_ROWS - 2
    means = {row["_slice"]: row["_mean"] for row in rows_of(report, "score-by-name")}
    assert means["NULL"] == pytest.approx(np.mean(known[2::3]))
    assert rows_of(report, "highest-score")[0]["id"] == NUM_ROWS - 1
    assert rows_of(report, "lowest-score")[0]["id"] == 2


@pytest.mark.slow
def test_of_500_labels_with_scores_the_first_are_shown(tmp_path):
    labels = [f"label {i}" for i in range(500)]
    scores = [[(name, 1 / (1 + i)) for i, name in enumerate(labels)]] * 2
    results = pa.table(
        {
            "label": ["label 0", "label 1"],
            "score": pa.array([1.0, None], pa.float32()),
            "scores": pa.array(scores, pa.map_(pa.string(), pa.float32())),
        }
    )
    kept = {name: values[:2] for name, values in KEPT.items()}
    pipeline = made_table(tmp_path, "zero-shot-classification", kept, results)

    report = make_report(pipeline)
    check_sql(report, pipeline)
    means = rows_of(report, "scores-means")
    assert [row["label"] for row in means] == labels[:12]
    assert means[0]["num_rows_over_half"] == 2
    [margin] = rows_of(report, "margin-histogram")
    assert (margin["margin_from"], margin["num_rows"]) == (0.5, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "results"),
    [
        ("token-classification", {"entities": pa.array([None, []], pa.list_(ENTITY))}),
        ("sentence-similarity", {"embedding": pa.array([None, None], pa.list_(pa.float32(), 3))}),
        ("text-ranking", {"score": pa.array([None, None], pa.float32())}),
        (
            "summarization",
            {
                "summary_text": pa.array([None, None], pa.string()),
                "finish_reason": pa.array([None, None], pa.string()),
                "num_prompt_tokens": pa.array([None, None], pa.int32()),
                "num_new_tokens": pa.array([None, None], pa.int32()),
            },
        ),
    ],
)
def test_a_table_of_nulls_alone_makes_a_page(tmp_path: Path, task: str, results: dict[str, pa.Array]):
    kept = {name: values[:2] for name, values in KEPT.items()}
    pipeline = made_table(tmp_path, task, kept, pa.table(results))

    for texts in (False, True):
        assert "There is nothing of this kind." in page(make_report(pipeline, texts=texts))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "absent", "told"),
    [("pca", "sklearn", 'pip install "tidemill[report]"'), ("umap", "umap", 'pip install "tidemill[umap]"')],
)
def test_a_map_whose_library_is_missing_says_what_to_install(tmp_path, method, absent, told):
    results = pa.table({"embedding": vectors_of(NUM_ROWS)})
    pipeline = made_table(tmp_path / "lake", "sentence-similarity", KEPT, results)
    path = tmp_path / "values.toml"
    path.write_text(
        f'name = "values"\n[dataset]\npath = "{tmp_path}/none"\ntext = "text"\nkey = ["id"]\n'
        f'[model]\ntask = "sentence-similarity"\npath = "{tmp_path}/model"\n[report]\nmap = "{method}"\n'
        f'[lake]\ncatalog = "{pipeline.lake.catalog}"\ndata = "{pipeline.lake.data}"\n'
    )
    done = tidemill("report", path, "-o", tmp_path / "page.html", home=tmp_path / "home", absent=[absent])

    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
