"""Right labels that people gave: where they are kept, whom they follow, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import NEW_IN_LAYOUT_7, commit_rows, take_back_to_layout_6
from tests.pipelines import make_pipeline, problems_of, query, reviews, run, write_parquet
from tests.versions import compute_version
from tidemill.config import Pipeline, pipeline_of
from tidemill.errors import ConfigError
from tidemill.lake import Lake
from tidemill.lake.records.checks import problems_of_marks
from tidemill.lake.records.marks import Place, labels_at, marked_labels, num_marks, set_marks
from tidemill.lake.records.samples import Picked, num_picked, replace_sample, to_mark
from tidemill.lake.tables import existing_columns
from tidemill.reports.compare import compare_versions
from tidemill.results.migration.layouts import migrate
from tidemill.results.promotion import promote
from tidemill.results.verify import verify_pipeline
from tidemill.running.stage_run import StageRun
from tidemill.upkeep.forget import forget
from tidemill.upkeep.housekeeping import collect_garbage

NAME = "values"


@pytest.fixture
def made_up(tmp_path: Path) -> Pipeline:
    return people(tmp_path)


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return people(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def unmarked(_shared: Pipeline) -> Pipeline:
    """As `made_up`, of a lake that tests share, whose rows and layout they leave as they are."""
    with Lake(_shared.lake) as lake:
        lake.write(lambda cursor: cursor.execute("DELETE FROM _marks; DELETE FROM _samples"), message="begin anew")
    return _shared


def people(folder: Path) -> Pipeline:
    """Rows without a source or a model: person-0 to person-5, in two shards."""
    pipeline = make_pipeline(folder / "one", f"{folder}/data/*", name=NAME, dataset={"keep": []})
    commit_rows(pipeline.lake, pa.table({"id": [f"person-{i}" for i in range(6)]}), [4, 2])
    return pipeline


def place_of(pipeline: Pipeline, row_id: str) -> Place:
    [found] = query(pipeline.lake, f"SELECT shard_id, row_number FROM {pipeline.name} WHERE id = '{row_id}'")
    return Place(*found)


def mark(pipeline: Pipeline, labels: dict[str, str | None], who: str = "ann") -> None:
    places = {place_of(pipeline, name): label for name, label in labels.items()}
    with Lake(pipeline.lake) as lake:
        set_marks(lake, pipeline.name, places, keys=["id"], who=who)


def marked(pipeline: Pipeline) -> dict[str, str]:
    name = pipeline.name
    return dict(
        query(pipeline.lake, f"SELECT id, m.label FROM {name} JOIN {name}_marks m USING (shard_id, row_number)")
    )


def notes_of(pipeline: Pipeline) -> list[str]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return [note for note in verify_pipeline(lake, pipeline.name).notes if "mark" in note]


def problems_with_marks(pipeline: Pipeline) -> list[str]:
    with Lake(pipeline.lake, read_only=True) as lake:
        return list(problems_of_marks(lake.cursor(), pipeline.name))


@pytest.mark.slow
def test_a_mark_says_whose_it_is_and_a_row_has_the_last_one_alone(unmarked):
    mark(unmarked, {"person-0": "POSITIVE", "person-5": "NEGATIVE"})
    mark(unmarked, {"person-0": "NEGATIVE"}, who="bob")
    assert query(unmarked.lake, "SELECT key, label, who, path, row_number FROM values_marks ORDER BY who") == [
        ('{"id": "person-5"}', "NEGATIVE", "ann", "part-1", 1),
        ('{"id": "person-0"}', "NEGATIVE", "bob", "part-0", 0),
    ]
    mark(unmarked, {"person-0": None})
    assert marked(unmarked) == {"person-5": "NEGATIVE"}
    with Lake(unmarked.lake, read_only=True) as lake:
        assert (num_marks(lake.cursor(), NAME), marked_labels(lake.cursor(), NAME)) == (1, ["NEGATIVE"])
    assert problems_with_marks(unmarked) == []


def test_a_row_that_the_table_does_not_have_cannot_be_marked_and_nothing_is_written(unmarked):
    there = place_of(unmarked, "person-0")
    with Lake(unmarked.lake) as lake, pytest.raises(ConfigError, match="has no row 999 in shard"):
        set_marks(lake, NAME, {there: "POSITIVE", Place(there.shard_id, 999): "POSITIVE"}, who="ann")
    assert marked(unmarked) == {}


@pytest.mark.slow
def test_forgetting_a_row_erases_its_mark_and_its_place_in_the_queue(made_up):
    mark(made_up, {"person-1": "POSITIVE", "person-2": "NEGATIVE"})
    picked = [Picked(place_of(made_up, f"person-{i}"), "part-0", "unsure") for i in (1, 2)]
    with Lake(made_up.lake) as lake:
        replace_sample(lake, NAME, picked, who="ann")
    as_they_were = query(made_up.lake, "SELECT * REPLACE (key::VARCHAR AS key) FROM _marks")
    forget(made_up, "id = 'person-1'")
    assert marked(made_up) == {"person-2": "NEGATIVE"}
    assert query(made_up.lake, "SELECT row_number FROM _samples") == [(2,)]
    assert problems_with_marks(made_up) == []
    catalog = made_up.lake.catalog.removeprefix("sqlite:")
    files = [Path(catalog), *Path(made_up.lake.data).rglob("*.parquet")]
    assert [path for path in files if b"person-1" in path.read_bytes()] == []
    with Lake(made_up.lake) as lake:
        lake.write(
            lambda cursor: cursor.executemany("INSERT INTO _marks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", as_they_were),
            message="as a stranger would",
        )
    assert problems_with_marks(made_up) == [
        "a row is marked more than once: 1 found",
        "a row that was forgotten is marked: 1 found",
    ]


@pytest.mark.slow
def test_marks_outlive_housekeeping(unmarked):
    mark(unmarked, {f"person-{i}": "POSITIVE" for i in range(6)})
    collect_garbage(unmarked, dry_run=False, min_age_seconds=0.0)
    assert len(marked(unmarked)) == 6


def test_the_queue_has_the_rows_that_are_not_marked_yet_in_order(unmarked):
    picked = [Picked(place_of(unmarked, f"person-{i}"), "part-0", "unsure") for i in (2, 0, 1)]
    with Lake(unmarked.lake) as lake:
        replace_sample(lake, NAME, [picked[1]], who="ann")
        replace_sample(lake, NAME, picked, who="ann")
    mark(unmarked, {"person-0": "POSITIVE"})
    with Lake(unmarked.lake, read_only=True) as lake:
        assert to_mark(lake.cursor(), NAME) == [picked[0], picked[2]]
        assert num_picked(lake.cursor(), NAME) == 3
        assert labels_at(lake.cursor(), NAME, [picked[1].place]) == {picked[1].place: "POSITIVE"}


@pytest.mark.slow
def test_a_lake_of_layout_6_gets_the_tables_and_each_pipeline_its_view(made_up):
    def body(cursor: Any) -> None:
        take_back_to_layout_6(cursor)
        cursor.execute("UPDATE _layout SET layout_version = 6")

    with Lake(made_up.lake) as lake:
        before = {name: existing_columns(lake.cursor(), name) for name in (*NEW_IN_LAYOUT_7, "values_marks")}
        lake.write(body, message="as layout 6 was")
    changes = migrate(made_up.lake).changes
    assert {"new table _marks", "new table _samples", "new view values_marks"} <= set(changes)
    with Lake(made_up.lake, read_only=True) as lake:
        assert {name: existing_columns(lake.cursor(), name) for name in before} == before
    mark(made_up, {"person-3": "POSITIVE"})
    assert marked(made_up) == {"person-3": "POSITIVE"}


def test_a_pipeline_cannot_have_the_name_of_anothers_marks():
    raw = {"name": "reviews_marks", "dataset": {"path": "x", "text": "text"}, "model": {"path": "y"}}
    with pytest.raises(ConfigError, match="ends with '_marks', by which a lake names the marks"):
        pipeline_of(raw, "reviews.toml")


def test_a_mark_follows_its_row_and_waits_for_one_whose_text_changed(tmp_path):
    """Into a changed file, back, and into one that is renamed; `compare` counts those whose rows are there."""
    a, b = tmp_path / "data" / "a.parquet", tmp_path / "data" / "b.parquet"
    write_parquet(a, reviews(0, 6))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*")
    run(pipeline)
    answers = query(pipeline.lake, "SELECT id, label FROM reviews ORDER BY row_number")
    (first, label), (second, other), (third, _), *_ = answers
    mark(pipeline, {first: label, second: other, third: "of another model"})
    with Lake(pipeline.lake, read_only=True) as lake:
        report = compare_versions(lake, "reviews", "promoted", "promoted")
    assert report["marks"] == {"rows": 3, "right": {"first": 2, "second": 2}}

    rows = reviews(0, 6).to_pylist()
    rows[1]["text"] = "another text"
    write_parquet(a, pa.Table.from_pylist([rows[2], *reviews(200, 3).to_pylist(), rows[1], rows[0]]))
    assert run(pipeline).state == "done"
    assert marked(pipeline) == {first: label, third: "of another model"}
    assert notes_of(pipeline) == ["1 mark of rows that the table does not have now; they count when the rows are back."]
    write_parquet(a, reviews(0, 6))
    run(pipeline)
    assert marked(pipeline) == {first: label, second: other, third: "of another model"}
    a.rename(b)
    run(pipeline, yes=True)
    assert marked(pipeline) == {first: label, second: other, third: "of another model"}
    assert query(pipeline.lake, "SELECT DISTINCT path FROM reviews_marks") == [("b.parquet",)]
    assert (notes_of(pipeline), problems_of(pipeline)) == ([], [])


@pytest.mark.slow
def test_marks_are_on_the_rows_of_a_version_that_is_promoted_after_their_file_changed(tmp_path):
    """One that has read the changed file before the promoted version has, and one that has read it after."""
    source = tmp_path / "data" / "a.parquet"
    write_parquet(source, reviews(0, 6))
    pipeline, shorter = (
        make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", tokenizer={"max_length": length}) for length in (64, 8)
    )
    first, second = run(pipeline).version, compute_version(shorter)
    given = dict(zip(reviews(0, 2)["id"].to_pylist(), ("of the first row", "of the second"), strict=True))
    mark(pipeline, given)

    write_parquet(source, pa.concat_tables([reviews(200, 3), reviews(0, 6)]))
    StageRun(pipeline, "ingest").execute()
    assert compute_version(shorter) == second
    assert row_numbers_when_promoted(pipeline, second) == [3, 4]
    assert marked(pipeline) == given

    write_parquet(source, reviews(0, 6))
    run(shorter)
    assert compute_version(pipeline) == first
    assert row_numbers_when_promoted(pipeline, first) == [0, 1]
    assert marked(pipeline) == given
    assert (notes_of(pipeline), problems_of(pipeline)) == ([], [])


def row_numbers_when_promoted(pipeline: Pipeline, version: str) -> list[int]:
    """Of the marks, once this version is promoted."""
    with Lake(pipeline.lake) as lake:
        assert promote(lake, pipeline.name, version).state == "promoted"
    rows = query(pipeline.lake, f"SELECT row_number FROM {pipeline.name}_marks ORDER BY row_number")
    return [number for (number,) in rows]


@pytest.mark.slow
def test_a_mark_is_on_its_row_again_when_its_file_is_back_under_another_name(tmp_path):
    files = [tmp_path / "data" / f"{name}.parquet" for name in ("a", "b", "c")]
    write_parquet(files[0], reviews(0, 6))
    write_parquet(files[1], reviews(200, 3))
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*")
    run(pipeline)
    [marked_id] = reviews(2, 1)["id"].to_pylist()
    mark(pipeline, {marked_id: "POSITIVE"})

    files[0].unlink()
    run(pipeline, yes=True)
    assert marked(pipeline) == {}
    write_parquet(files[2], pa.concat_tables([reviews(300, 2), reviews(0, 6)]))
    run(pipeline)
    assert marked(pipeline) == {marked_id: "POSITIVE"}
    assert query(pipeline.lake, "SELECT path, row_number FROM reviews_marks") == [("c.parquet", 4)]
    assert (notes_of(pipeline), problems_of(pipeline)) == ([], [])
