"""Entities in a table: from texts, short and long, to SQL."""

from __future__ import annotations

import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import transformers

from tests.pipelines import make_pipeline, problems_of, quarantine_of, query, reviews, run, table_of, write_parquet
from tests.token_classifiers import save_token_classifier
from tests.versions import compute_version
from tidemill.config import Pipeline
from tidemill.errors import ModelError
from tidemill.lake import Lake
from tidemill.planning.plan import make_plan
from tidemill.reports.compare import compare_versions
from tidemill.reports.sample import sample
from tidemill.results.promotion import promote

TRICKY = ["", "naïve café 電影 😀😀 🇩🇪 don't", "the film the film", "Anna\nBob\tCarl"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level, so that several tokens may share a letter."""
    return save_token_classifier(tmp_path_factory.mktemp("roberta"), "roberta")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = reviews(0, 30)
    texts = [*rows["text"].to_pylist()[: -len(TRICKY) - 1], *TRICKY, None]
    rows = rows.set_column(rows.schema.get_field_index("text"), "text", [texts])
    write_parquet(tmp_path / "data" / "a.parquet", rows, row_group_size=10)
    return tmp_path


def entities(folder: Path, model: Path, strategy: str = "simple", **sections: Any) -> Pipeline:
    sections = {"limits": {"max_quarantine": 0.5}, "dataset": {"keep": ["text"]}, **sections}
    options = {"aggregation_strategy": strategy} if strategy != "none" else {}
    return make_pipeline(
        folder,
        f"{folder}/data/*.parquet",
        model={"task": "token-classification", "path": str(model), "options": options},
        **sections,
    )


def by_pipeline(model: Path, strategy: str, texts: list[str]) -> list[list[tuple[str, int, int]]]:
    pipeline = transformers.pipeline(
        "token-classification", model=str(model), dtype=torch.float32, device="cpu", aggregation_strategy=strategy
    )
    name = "entity" if strategy == "none" else "entity_group"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return [[(one[name], one["start"], one["end"]) for one in pipeline(text)] for text in texts]


def spans(rows: list[dict[str, Any]]) -> list[list[tuple[str, int, int]]]:
    return [[(one["entity"], one["start"], one["end"]) for one in row["entities"]] for row in rows]


def test_the_table_has_the_pipelines_entities_and_sql_cuts_them_out_of_the_text(folder, model):
    pipeline = entities(folder, model, dataset={"keep": ["text"], "shard_bytes": 1200})

    run(pipeline)

    rows = list(table_of(pipeline).values())
    assert len(rows) == 29
    [(num_shards,)] = query(pipeline.lake, "SELECT count(*) FROM _ledger")
    assert 1 < num_shards < 10
    assert spans(rows) == by_pipeline(model, "simple", [row["text"] for row in rows])
    assert [list(row)[-3:] for row in rows] == [["entities", "num_tokens", "truncated"]] * 29
    kind = query(pipeline.lake, "SELECT DISTINCT typeof(entities) FROM reviews")
    assert kind == [('STRUCT(entity VARCHAR, score FLOAT, word VARCHAR, "start" INTEGER, "end" INTEGER)[]',)]
    cut = query(
        pipeline.lake,
        'SELECT text, e.start, e."end", substring(text, e.start + 1, e."end" - e.start), e.word '
        "FROM (SELECT text, unnest(entities) AS e FROM reviews)",
    )
    assert all(found == text[start:end] for text, start, end, found, _ in cut)
    assert all("\ufffd" not in word for *_, word in cut)
    assert list(quarantine_of(pipeline).values()) == [("ingest", "text is null")]
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_spans_that_are_empty_repeated_or_share_a_letter_are_sound(folder, model):
    pipeline = entities(folder, model, "none")

    run(pipeline)

    found = [entity for row in spans(list(table_of(pipeline).values())) for entity in row]
    places = [(start, end) for _, start, end in found]
    assert len(set(places)) < len(places)
    assert problems_of(pipeline) == []


@pytest.mark.slow
def test_long_texts_are_read_in_windows_by_every_strategy_without_being_kept(folder, model):
    windows = {"tokenizer": {"long_text": "windows", "max_length": 16, "overlap": 4}, "dataset": {"keep": []}}
    pipeline = entities(folder, model, "none", **windows)
    first = run(pipeline).version
    tokens = {path: path.stat().st_mtime_ns for path in (folder / "store" / "tokens").iterdir()}

    rows = list(table_of(pipeline).values())
    assert max(row["num_windows"] for row in rows) > 4
    assert all(start <= after for row in spans(rows) for (_, start, _), (_, after, _) in pairwise(row))
    grouped = entities(folder, model, "max", **windows)
    second = compute_version(grouped)

    assert first != second
    assert {path: path.stat().st_mtime_ns for path in (folder / "store" / "tokens").iterdir()} == tokens
    with Lake(pipeline.lake) as lake:
        compared = compare_versions(lake, "reviews", first, second)
        promote(lake, "reviews", second)
    assert compared["differences"] == ["options: none → {'aggregation_strategy': 'max'}"]
    assert compared["lists"]["entities"]["by"] == ["start", "end", "entity"]
    # Labels of tokens are none of groups.
    assert compared["lists"]["entities"]["agreement"] == 0 < compared["lists"]["entities"]["only_first"]
    for row in table_of(grouped).values():
        by_place = [(one["start"], one["end"]) for one in row["entities"]]
        assert by_place == sorted(by_place)
    assert problems_of(grouped) == []


def test_a_pipeline_is_tried_on_a_few_rows(folder, model):
    rows = sample(entities(folder, model), 3)

    assert spans(rows) == by_pipeline(model, "simple", reviews(0, 3)["text"].to_pylist())


@pytest.mark.slow
def test_words_are_decoded_by_the_tokenizer_that_made_the_tokens(folder, model, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(model / name, weights / name)
    pipeline = entities(folder, weights, tokenizer={"path": str(model)})

    run(pipeline)

    texts = [row["text"] for row in table_of(pipeline).values()]
    assert spans(list(table_of(pipeline).values())) == by_pipeline(model, "simple", texts)


def test_options_that_change_nothing_are_the_same_version(folder, model):
    def version(options):
        with Lake(entities(folder, model).lake) as lake:
            pipeline = entities(folder, model, "none")
            pipeline = pipeline.model_copy(update={"model": pipeline.model.model_copy(update={"options": options})})
            return make_plan(pipeline, lake)[0].version

    named = version({})
    assert version({"aggregation_strategy": "none", "ignore_labels": ["O"]}) == named
    assert version({"ignore_labels": []}) != named


def test_what_does_not_go_with_the_task_is_refused_before_anything_is_read(folder, model):
    for section, message in (
        ({"tokenizer": {"long_text": "windows", "aggregate": "max"}}, "tokenizer.aggregate"),
        ({"model": {"all_scores": True}}, "model.all_scores"),
    ):
        pipeline = make_pipeline(
            folder,
            f"{folder}/data/*.parquet",
            **{**section, "model": {"task": "token-classification", "path": str(model), **section.get("model", {})}},
        )
        with Lake(pipeline.lake) as lake, pytest.raises(ModelError, match=message):
            make_plan(pipeline, lake)
    assert not (folder / "store").exists()


@pytest.mark.slow
def test_rows_with_the_same_text_are_computed_once_and_both_have_entities(tmp_path, model):
    texts = ["the film is a good film"] * 3 + ["a bad one"]
    write_parquet(tmp_path / "data" / "a.parquet", pa.table({"text": texts}))
    pipeline = entities(tmp_path, model, dataset={"key": [], "keep": []})

    run(pipeline)

    assert query(pipeline.lake, "SELECT num_rows, num_distinct FROM _ledger") == [(4, 2)]
    assert len({str(row["entities"]) for row in list(table_of(pipeline).values())[:3]}) == 1
