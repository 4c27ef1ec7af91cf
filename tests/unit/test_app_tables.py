"""The app opens over whatever a table holds, and what it offers is read again when a tab is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("gradio")

from tests.apps import OpenedPage, opened_page
from tests.lakes import VERSION
from tests.made_tables import ENTITY, SECOND, SPEC, made_table, second_version
from tests.pipelines import query
from tidemill.app.querying import export_rows
from tidemill.app.rows.pages import name_of, place_named
from tidemill.app.server.serving import Address, make_app
from tidemill.app.tabs.browse import Standing
from tidemill.app.tabs.versions import ONE_VERSION
from tidemill.config import Pipeline
from tidemill.lake import Lake
from tidemill.lake.records.marks import Place
from tidemill.results.promotion import promote

SEARCH, LABEL, ORDER = 0, 1, 8
FORM = ["", "any", "", "", "any", "is", "", "", "by file"]
"""The fields of the form, as they are when the page is opened."""
MARKUP = "<script>alert('label')</script>"
FOUND = {"entity": MARKUP, "score": 0.5, "word": MARKUP, "start": 0, "end": 3}


def labelled(labels: list[str | None], scores: list[float | None]) -> pa.Table:
    return pa.table({"label": pa.array(labels, pa.string()), "score": pa.array(scores, pa.float32())})


def table_in(folder: Path, task: str, results: pa.Table, **second: str) -> Pipeline:
    """A table of these answers, promoted, and a second version of which these columns are by SQL of their own."""
    ids = pa.array([f"row-{i}" for i in range(results.num_rows)], pa.string())
    made = made_table(folder, task, {"id": ids, "text": ids}, results)
    second_version(made, **second)
    return made


def record(pipeline: Pipeline, **facts: Any) -> None:
    """Let this be what the lake says of the versions that there are."""
    spec = json.dumps({**SPEC, "task": pipeline.model.task, "model": "sha256:1", "dtype": "float32", **facts})
    with Lake(pipeline.lake) as lake:
        lake.write(lambda cursor: cursor.execute("UPDATE _versions SET spec = ?", [spec]), message="another file")


def shown_rows(page: OpenedPage, **fields: str) -> str:
    form = list(FORM)
    for name, value in fields.items():
        form[{"search": SEARCH, "label": LABEL, "order": ORDER}[name]] = value
    return unescape(str(page.press("tm-show", Standing(), *form)[1]))


def keys_of(page: OpenedPage) -> list[str]:
    """What stands on the buttons that are shown, as they are when somebody opens the tab."""
    offered = page.open_tab("browse")
    return [each.value for each in offered if type(each).__name__ == "Button" and each.visible]


def versions_offered(page: OpenedPage) -> tuple[str, dict[str, str], str, str]:
    """The note; each version with how it is shown; and which two are chosen."""
    note, first, second, _ = page.open_tab("versions", None, None, None)
    return note, {name: shown for shown, name in first.choices}, first.value, second.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "results"),
    [
        pytest.param("text-classification", labelled([], []), marks=pytest.mark.slow),
        pytest.param("text-classification", labelled([MARKUP] * 3, [0.5] * 3), marks=pytest.mark.slow),
        pytest.param(
            "text-classification", labelled([f"label {i:03}" for i in range(500)], [0.5] * 500), marks=pytest.mark.slow
        ),
        ("text-classification", labelled(["POSITIVE", None, None], [0.5, None, None])),
        pytest.param(
            "token-classification",
            pa.table({"entities": pa.array([[], None, [FOUND]], pa.list_(ENTITY))}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "feature-extraction",
            pa.table({"embedding": pa.array([[0.5] * 600, None], pa.list_(pa.float32()))}),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "text-generation",
            pa.table({"generated_text": [MARKUP * 10_000, "", None], "finish_reason": ["stop", "length", None]}),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["empty", "one label", "500 labels", "NULLs", "entities", "embeddings", "texts"],
)
def test_rows_a_typed_row_and_two_versions_are_answered_over_any_table(task, results, tmp_path):
    [column, *_] = results.column_names
    num_rows = results.num_rows
    with opened_page(table_in(tmp_path, task, results, **{column: column})) as page:
        shown = shown_rows(page)
        assert (f"{min(num_rows, 100)} rows of {num_rows}." if num_rows else "The table has no rows.") in shown
        assert MARKUP not in str(page.press("tm-show", Standing(), *FORM)[1])
        assert len(shown) < 100_000
        assert "nothing of that" not in shown_rows(page, search="nothing of that")
        if column == "label" and num_rows:
            scored = results.column("score").drop_null()
            assert f"{min(len(scored), 100)} row" in shown_rows(page, order="highest score first")
            last = results["label"].drop_null()[-1].as_py()
            assert f"row{'s' if last == MARKUP else ''}, to the end of {num_rows}." in shown_rows(page, label=last)
        # The model's folder is gone.
        assert "tm-problem" in page.press("tm-try", "A film.", "")
        assert f"{VERSION} against {SECOND}" in page.press("tm-compare", VERSION, SECOND, "no slices")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedPage]:
    """Over a table of one version."""
    ids, labels = {"id": ["a", "b", "c"], "text": ["x", "y", "z"]}, labelled(["good", "bad", "good"], [0.5] * 3)
    made = made_table(tmp_path_factory.mktemp("page"), "text-classification", ids, labels)
    record(made, text=["text"])
    with opened_page(made) as opened:
        yield opened


@pytest.mark.slow
def test_a_version_that_is_made_and_promoted_while_the_app_is_open_is_offered_and_followed(page):
    pipeline = page.source.pipeline
    assert versions_offered(page) == (ONE_VERSION, {VERSION: f"{VERSION} (promoted)"}, VERSION, VERSION)
    assert keys_of(page) == ["1 good", "2 bad"]
    heading, seen, _ = page.open_tab("try", "nothing yet")
    assert page.source.promoted().version in heading
    assert page.open_tab("try", seen) == [{"__type__": "update"}] * 3

    second_version(pipeline, label="'neither'")
    both = {VERSION: f"{VERSION} (promoted)", SECOND: SECOND}
    assert versions_offered(page) == ("", both, VERSION, SECOND)

    with Lake(pipeline.lake) as lake:
        promote(lake, pipeline.name, SECOND)
    assert versions_offered(page) == ("", {VERSION: VERSION, SECOND: f"{SECOND} (promoted)"}, SECOND, VERSION)
    chosen = page.open_tab("versions", VERSION, SECOND, "text")[1:]
    assert [each.value for each in chosen] == [VERSION, SECOND, "text"]
    assert keys_of(page) == ["1 neither"]
    assert page.source.promoted().version != seen
    assert page.source.promoted().version in page.open_tab("try", seen)[0]
    assert "neither" in shown_rows(page)
    assert "None of 3 rows." in shown_rows(page, label="good")


def name_of_row(pipeline: Pipeline, row_id: str) -> str:
    [(shard, number)] = query(pipeline.lake, f"SELECT shard_id, row_number FROM {pipeline.name} WHERE id = '{row_id}'")
    return name_of(Place(shard, number))


def marks_of(pipeline: Pipeline) -> dict[str, tuple[str, str]]:
    asked = "SELECT id, m.label, who FROM values JOIN values_marks m USING (shard_id, row_number)"
    return {row_id: (label, who) for row_id, label, who in query(pipeline.lake, asked)}


def test_a_row_is_marked_with_the_label_that_stands_on_the_key(page):
    pipeline = page.source.pipeline
    seen = name_of_row(pipeline, "b")
    standing = Standing(place=place_named(seen))
    page.press("tm-mark-1", standing, "ann", "1 of two words", seen)
    assert marks_of(pipeline) == {"b": ("of two words", "ann")}
    assert "of two words" in [key.partition(" ")[2] for key in keys_of(page)]
    assert "Say who marks" in page.press("tm-unmark", standing, " ", seen)[2]
    page.press("tm-unmark", standing, "ann", seen)
    assert marks_of(pipeline) == {}


@pytest.mark.slow
def test_the_row_that_is_seen_is_marked_where_another_one_is_opened_meanwhile(page):
    pipeline = page.source.pipeline
    first, next_one = (name_of_row(pipeline, row_id) for row_id in ("a", "b"))
    standing = Standing(place=place_named(next_one), in_queue=True)
    shown = page.press("tm-mark-1", replace(standing, in_queue=False), "ann", "1 good", first)[2]
    assert marks_of(pipeline) == {"a": ("good", "ann")}
    assert f'data-place="{next_one}"' in shown
    for nothing in ("", "no row", f"{first}0000000000000000000"):
        assert "Open a row first." in page.press("tm-mark-1", standing, "ann", "1 good", nothing)[2]
    page.press("tm-unmark", standing, "ann", first)
    assert marks_of(pipeline) == {}


def test_what_a_promoted_version_reads_beside_the_columns_of_the_page_is_said(page):
    record(page.source.pipeline, text=["title", "body"])
    said = page.press("tm-try", "A film.", "")
    assert "reads other columns: title, body. Start `tidemill app` again." in said


@pytest.mark.slow
def test_files_of_an_app_go_with_it_and_the_process_writes_others_later(tmp_path):
    pipeline = table_in(tmp_path, "text-classification", labelled(["POSITIVE"], [0.5]), score="0.4")
    app = make_app(pipeline, Address())
    first = export_rows(pipeline, "SELECT id FROM values", "csv")
    app.close()
    assert not first.exists()
    assert export_rows(pipeline, "SELECT id FROM values", "csv").exists()
