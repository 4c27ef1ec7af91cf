"""Two versions side by side: the same numbers as `compare` has, by SQL that anybody can run."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from tests.commands import answer, tidemill
from tests.made_tables import ENTITY, made_table, second_version
from tests.unit.pictures.made import MARKUP, rows_of
from tests.unit.pictures.test_families import check_sql
from tidemill.config import Pipeline
from tidemill.errors import LakeError
from tidemill.lake import Lake
from tidemill.pictures import make_report
from tidemill.pictures.page import page
from tidemill.reports.compare import compare_versions

NUM_ROWS = 20
KEPT: dict[str, Any] = {"id": list(range(NUM_ROWS)), "name": [("a", None, "b")[i % 3] for i in range(NUM_ROWS)]}
SECRET = "Zebediah Quux"


def compared(pipeline: Pipeline, second: str, **options: Any) -> dict[str, Any]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return compare_versions(lake, pipeline.name, "promoted", second, **options)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    results = pa.table(
        {
            "label": [("good", MARKUP, None, "bad")[i % 4] for i in range(NUM_ROWS)],
            "score": pa.array([None if i == 3 else i / NUM_ROWS for i in range(NUM_ROWS)], pa.float32()),
        }
    )
    pipeline = made_table(tmp_path_factory.mktemp("labelled"), "text-classification", KEPT, results)
    second_version(
        pipeline, label="if(row_number % 5 = 0, 'new', label)", score="score + if(row_number % 2 = 0, 0.1, 0)"
    )
    return pipeline


def test_flips_moves_and_slices_are_those_of_compare(labelled):
    report = make_report(labelled, against="0b2c")
    check_sql(report, labelled)

    facts = compared(labelled, "0b2c", by="name")
    flips = facts["labels"]["label"]
    matrix = {(row["_first"], row["_second"]): row["num_rows"] for row in rows_of(report, "label-flips")}
    assert matrix == {
        (str(pair["first"] or "NULL"), str(pair["second"] or "NULL")): pair["rows"] for pair in flips["confusion"]
    }
    assert sum(row["num_rows"] for row in rows_of(report, "label-flipped")) == flips["flipped"]
    overall = {row["_column"]: row for row in rows_of(report, "versions")}
    assert overall["label"]["num_different"] == flips["flipped"]
    moves = rows_of(report, "score-moved")
    assert sum(row["num_rows"] for row in moves) == NUM_ROWS - 1
    slices = {row["_slice"]: row["_distance"] for row in rows_of(report, "label-moved-by-name")}
    agreements = {part["value"] or "NULL": part["labels"]["label"]["agreement"] for part in facts["slices"]}
    assert slices == {value: pytest.approx(1 - agreement) for value, agreement in agreements.items()}
    rows = rows_of(report, "versions-rows")
    assert len(rows) == flips["flipped"]
    assert all(row["label 0a1b2c3d"] != row["label 0b2c3d4e"] for row in rows)


@pytest.mark.slow
def test_the_page_says_what_the_second_version_was_made_with_and_json_names_it(labelled):
    report = make_report(labelled, against="0b2c")

    assert "0b2c3d4e was made with dtype: float32 → bfloat16." in page(report)
    assert report.to_json()["against"] == "0b2c3d4e"
    assert report.pictures[0].figure.id == "versions"
    assert make_report(labelled).find("versions") is None


def test_a_version_that_is_not_there_is_told(labelled):
    with pytest.raises(LakeError, match="'ffff' names no version"):
        make_report(labelled, against="ffff")


@pytest.mark.slow
def test_a_column_in_which_no_row_differs_has_no_pictures(labelled):
    report = make_report(labelled, against="promoted")

    assert {row["_column"]: row["num_different"] for row in rows_of(report, "versions")} == {"label": 0, "score": None}
    assert [picture.figure.id for picture in report.pictures if "flip" in picture.figure.id] == []
    assert report.find("versions-rows") is None


@pytest.mark.slow
def test_entities_that_only_one_found_are_counted_by_type_and_their_words_shown_with_texts_alone(tmp_path):
    entities = [
        [
            {"entity": name, "score": 0.5, "word": SECRET, "start": i, "end": i + 1}
            for i, name in enumerate(("A", MARKUP))
        ]
        for _ in range(NUM_ROWS)
    ]
    pipeline = made_table(
        tmp_path, "token-classification", KEPT, pa.table({"entities": pa.array(entities, pa.list_(ENTITY))})
    )
    second_version(pipeline, entities="if(row_number = 0, NULL, if(row_number % 4 = 1, entities[1:1], entities))")

    report = make_report(pipeline, against="0b2c")
    check_sql(report, pipeline)
    facts = compared(pipeline, "0b2c")["lists"]["entities"]
    found = {(row["label"], row["found_by"]): row["num_found"] for row in rows_of(report, "entities-by-label")}
    for label in facts["labels"]:
        assert found[label["label"], "both"] == label["both"]
        assert found[label["label"], "only 0a1b2c3d"] == label["only_first"]
    assert rows_of(report, "versions-rows")[0]["entities only 0a1b2c3d"] == ["A", MARKUP]
    # The words of entities themselves are shown, as all rows share this one.
    rows = json.dumps(rows_of(report, "versions-rows"))
    assert SECRET not in rows
    assert SECRET in str(rows_of(make_report(pipeline, against="0b2c", texts=True), "versions-rows"))


@pytest.mark.slow
def test_written_texts_are_side_by_side_with_texts_and_else_lengths(tmp_path):
    results = pa.table(
        {
            "text": [f"{SECRET} {i}" for i in range(NUM_ROWS)],
            "finish_reason": ["stop"] * NUM_ROWS,
            "num_prompt_tokens": pa.array([4] * NUM_ROWS, pa.int32()),
            "num_new_tokens": pa.array([4] * NUM_ROWS, pa.int32()),
            "about": [f"{SECRET} {i}" for i in range(NUM_ROWS)],
        }
    )
    pipeline = made_table(tmp_path, "text-generation", KEPT, results)
    second_version(pipeline, text="if(row_number = 7, text || '!!', text)", about="about || '?'")

    report = make_report(pipeline, against="0b2c")
    check_sql(report, pipeline)
    assert SECRET not in page(report)
    assert rows_of(report, "versions-rows")[0]["characters of text 0a1b2c3d"] > 0
    [move] = [row for row in rows_of(report, "text-moved") if row["num_rows"]]
    assert (move["moved_from"], move["num_rows"]) == (2, 1)
    shown = page(make_report(pipeline, against="0b2c", texts=True))
    assert f'<h4>text 0b2c3d4e</h4><p class="text" dir="auto">{SECRET} 7!!' in shown


@pytest.mark.slow
def test_vectors_have_the_cosine_of_both_and_null_ones_none(tmp_path):
    vectors = pa.array([None if i == 0 else [1.0, float(i)] for i in range(NUM_ROWS)], pa.list_(pa.float32(), 2))
    pipeline = made_table(tmp_path, "sentence-similarity", KEPT, pa.table({"embedding": vectors}))
    second_version(pipeline, embedding="if(row_number = 1, [1, -1], embedding)")

    report = make_report(pipeline, against="0b2c")
    check_sql(report, pipeline)
    moves = rows_of(report, "embedding-moved")
    assert sum(row["num_rows"] for row in moves) == NUM_ROWS - 1
    assert moves[0]["moved_from"] == pytest.approx(0)


@pytest.mark.slow
def test_the_command_shows_a_version_beside_the_promoted_one(labelled, tmp_path):
    path = tmp_path / "values.toml"
    path.write_text(
        f'name = "values"\n[dataset]\npath = "{tmp_path}/none"\ntext = "text"\nkey = ["id"]\nkeep = ["name"]\n'
        f'[model]\npath = "{tmp_path}/model"\n[lake]\n'
        f'catalog = "{labelled.lake.catalog}"\ndata = "{labelled.lake.data}"\n'
    )
    facts = answer("report", path, "--against", "0b2c", home=tmp_path)

    figures = {figure["id"]: figure for figure in facts["figures"]}
    assert figures["label-flips"]["sql"].startswith("WITH pairs AS")
    missing = tidemill("report", path, "--against", "ffff", home=tmp_path)
    assert missing.returncode == 2
    assert "'ffff' names no version" in missing.stderr
