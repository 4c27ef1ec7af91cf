"""The figures of a report: what they count, of which columns, and that their SQL is what anybody can run."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, commit_rows, lake_at
from tests.pipelines import make_pipeline, query
from tests.unit.pictures.made import MARKUP, ids_of, made_pipeline, rows_of, shown
from tidemill.errors import InputError
from tidemill.lake import Lake
from tidemill.lake.records.marks import Place, set_marks
from tidemill.pictures import make_report
from tidemill.pictures.figures.figure import exact
from tidemill.reports.query import reading

LABELS = ["good", "bad", "good", "good", "bad", "good"]
STARS = pa.array([5, 1, 2, None, 1, 4], pa.int64())


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    return made_pipeline(
        tmp_path_factory.mktemp("rated"),
        LABELS,
        stars=STARS,
        kind=["a", "a", "b", "b", "b", MARKUP],
        sections={"report": {"truth": "stars > 2", "positive": "good"}},
    )


def test_the_sql_of_every_figure_gives_the_same_rows_to_a_user(rated):
    report = make_report(rated)
    assert len(report.pictures) > 10
    for picture in report.pictures:
        with reading(rated.lake, picture.figure.sql) as (cursor, statement):
            assert tuple(cursor.execute(statement).fetchall()) == picture.rows, picture.figure.id


@pytest.mark.slow
def test_labels_are_counted_as_sql_counts_them(rated):
    facts = make_report(rated).to_json()

    assert facts["num_rows"] == 6
    assert facts["labels"] == dict(query(rated.lake, "SELECT label, count(*) FROM values GROUP BY label"))


def test_agreement_counts_the_rows_that_have_a_truth_alone(rated):
    truth = make_report(rated).to_json()["truth"]

    assert (truth["num_rows"], truth["num_agreeing"], truth["agreement"]) == (5, 4, 0.8)
    good, bad = truth["labels"]["good"], truth["labels"]["bad"]
    assert (good["num_rows"], good["recall"], good["precision"]) == (2, 1.0, pytest.approx(2 / 3))
    assert (bad["num_rows"], bad["precision"], bad["f1"]) == (3, 1.0, pytest.approx(0.8))


def test_rows_that_differ_from_the_truth_can_be_found_by_their_key(rated):
    assert [(row["id"], row["label"], row["truth"]) for row in rows_of(make_report(rated), "differing-rows")] == [
        ("row-2", "good", "bad")
    ]


@pytest.mark.slow
def test_slices_with_the_least_agreement_come_first(rated):
    assert [(row["_slice"], row["agreement"]) for row in rows_of(make_report(rated), "truth-by-kind")] == [
        ("b", 0.5),
        (MARKUP, 1.0),
        ("a", 1.0),
    ]


@pytest.mark.slow
def test_marks_are_the_truth_where_no_other_is_set_and_may_be_named_by_one(tmp_path):
    pipeline = made_pipeline(tmp_path, LABELS, human=["good"] * 6)
    assert make_report(pipeline).to_json()["truth"] is None
    with Lake(pipeline.lake) as lake:
        places = lake.cursor().execute("SELECT shard_id, row_number FROM values ORDER BY id LIMIT 2").fetchall()
        set_marks(lake, PIPELINE, {Place(*place): label for place, label in zip(places, LABELS, strict=False)}, who="a")
        set_marks(lake, PIPELINE, {Place(*places[0]): "bad"}, who="b")
    by_marks = make_report(pipeline).to_json()["truth"]
    with_human = make_report(with_truth(pipeline, "coalesce(mark, human)")).to_json()["truth"]

    assert (by_marks["expression"], by_marks["num_rows"], by_marks["agreement"]) == ("mark", 2, 0.5)
    assert (with_human["num_rows"], with_human["num_agreeing"]) == (6, 4)


@pytest.mark.slow
def test_of_more_than_two_labels_a_text_names_each_and_a_boolean_tells_one_from_the_others(tmp_path):
    pipeline = made_pipeline(tmp_path, ["a", "b", "c"], human=["a", None, "odd"], is_a=[True, False, True])
    named = make_report(with_truth(pipeline, "human")).to_json()["truth"]
    told = make_report(with_truth(pipeline, "is_a", positive="a")).to_json()["truth"]

    assert (named["num_rows"], named["num_agreeing"]) == (2, 1)
    assert named["labels"]["odd"] == {"num_rows": 1, "precision": None, "recall": 0.0, "f1": 0.0}
    assert (told["agreement"], set(told["labels"])) == (pytest.approx(2 / 3), {"a", "not a"})


@pytest.mark.parametrize(
    ("truth", "told"),
    [
        ("nowhere > 0", "report.truth = 'nowhere > 0' fails: .*nowhere.*The table has the columns id, stars"),
        ("label =", "cannot be read as SQL"),
        ("true) AS a, (false", "more than one expression"),
        ("(SELECT any_value(size) FROM read_blob('/etc/hostname'))", "reads files"),
        ("error('at run time')", "at run time"),
    ],
)
def test_a_truth_that_fails_is_told(rated, truth, told):
    with pytest.raises(InputError, match=rf"(?s){told}"):
        make_report(with_truth(rated, truth))


def test_a_positive_label_that_no_row_has_is_told(rated):
    with pytest.raises(InputError, match=r"report.positive = 'A' is no label of the table. Its labels are: good, bad"):
        make_report(with_truth(rated, "true", positive="A"))


def test_the_first_labels_are_shown_and_the_others_counted_together(tmp_path):
    labels = [f"{number:03}" for number in range(500)] + ["007"] * 9
    report = make_report(made_pipeline(tmp_path, labels))
    rows = rows_of(report, "labels")

    assert [(row["label"], row["num_rows"]) for row in (rows[0], rows[-1])] == [("007", 10), ("others", 488)]
    assert len(rows) == 13
    assert "others" in shown(report, "labels").notes[0]
    assert len(report.to_json()["labels"]) == 500
    assert max(len(picture.rows) for picture in report.pictures) < 300


@pytest.mark.slow
def test_one_label_is_no_trouble_and_nobody_speaks_of_others(tmp_path):
    report = make_report(made_pipeline(tmp_path, ["only"] * 3))

    assert [(row["label"], row["percent"]) for row in rows_of(report, "labels")] == [("only", 100.0)]
    assert shown(report, "labels").notes == ()


@pytest.mark.slow
def test_rows_without_a_score_are_left_out_of_scores(tmp_path):
    some = make_report(made_pipeline(tmp_path / "some", ["a"] * 3, [0.9, None, float("nan")]))
    none = make_report(made_pipeline(tmp_path / "none", ["a"] * 3, [None] * 3))

    assert sum(row["num_rows"] for row in rows_of(some, "scores")) == 1
    assert [row["id"] for row in rows_of(some, "unsure-rows")] == ["row-0"]
    assert rows_of(none, "scores") == rows_of(none, "sure-rows") == []


@pytest.mark.slow
def test_scores_beyond_0_and_1_have_bins_too(tmp_path):
    rows = rows_of(make_report(made_pipeline(tmp_path, ["a"] * 3, [-3.0, 0.5, 5.0])), "scores")

    assert [(row["score_from"], row["num_rows"]) for row in rows] == [(-3.0, 1), (0.5, 1), (4.5, 1)]


def test_keys_and_free_text_make_no_slices(tmp_path):
    notes = ["short", "a note of some length that a person wrote, and which is nobody else's to read"]
    pipeline = made_pipeline(tmp_path, LABELS, note=(notes * 3), kind=["a", "b"] * 3, same=["x"] * 6)

    assert {one for one in ids_of(pipeline) if one.startswith("label-by-")} == {"label-by-kind"}


@pytest.mark.slow
def test_kept_texts_are_shown_where_they_are_asked_for_alone(tmp_path):
    notes = [f"{number} is a note of some length that a person wrote, and nobody else's" for number in range(4)]
    pipeline = made_pipeline(tmp_path, ["a"] * 4, note=notes, kind=["k"] * 4)

    assert not any("a person wrote" in str(picture.rows) for picture in make_report(pipeline).pictures)
    assert "note" in rows_of(make_report(pipeline, texts=True), "sure-rows")[0]
    assert make_report(pipeline, texts=True).to_json()["holds_texts"]


@pytest.mark.slow
def test_times_are_put_in_buckets_of_the_schedules_time_zone(tmp_path):
    late = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    at = pa.array([late + timedelta(days=number) for number in range(3)], pa.timestamp("us", "UTC"))
    pipeline = made_pipeline(
        tmp_path, ["a"] * 3, at=at, sections={"schedule": {"timezone": "Europe/Berlin"}, "report": {}}
    )
    report = make_report(pipeline)

    assert [row["_bucket"] for row in rows_of(report, "label-by-at")] == [f"2026-03-0{day} 00:00" for day in (2, 3, 4)]
    assert shown(report, "label-by-at").figure.axes.x_title == "at by hour (Europe/Berlin)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dates", "buckets"),
    [
        (pa.array([date(2020, 1, 31), date(2026, 2, 1), None]), ["2020", "2026"]),
        (pa.array(["2026-01-31", "2026-02-02", None]), ["2026-01-31", "2026-02-02"]),
        (pa.array([datetime(2025, 1, 31), datetime(2026, 2, 1), None]), ["2025-01-27", "2026-01-26"]),
    ],
    ids=["dates", "texts that are dates", "times"],
)
def test_dates_are_put_in_few_buckets_and_rows_without_one_left_out(tmp_path, dates, buckets):
    report = make_report(made_pipeline(tmp_path, ["a", "b", "b"], at=dates))

    assert [row["_bucket"] for row in rows_of(report, "label-by-at")] == buckets
    assert shown(report, "label-by-at").figure.axes.x_title.endswith("(as written, without a time zone)")


@pytest.mark.slow
def test_kept_columns_may_have_any_name(tmp_path):
    names = ["name", "place", "revision", "_slice", 'a "b"', "answer", "truth", "rows", "<b>"]
    kept: dict[str, Any] = {name: ["x", "y"] * 3 for name in names}
    pipeline = made_pipeline(tmp_path, LABELS, **kept)
    report = make_report(with_truth(pipeline, '"a ""b""" = \'x\'', positive="good"))

    ids = [picture.figure.id for picture in report.pictures]
    assert {f"label-by-{name}" for name in names} <= set(ids)
    assert len(set(ids)) == len(ids)


def test_a_table_without_rows_is_told(tmp_path):
    pipeline = made_pipeline(tmp_path, [], kind=pa.array([], pa.string()))
    report = make_report(pipeline).to_json()

    assert (report["num_rows"], report["labels"]) == (0, {})
    assert "The table has no rows yet." in report["notes"]


def test_a_lake_that_is_not_there_yet_or_has_another_pipeline_is_told(tmp_path):
    with pytest.raises(InputError, match=r"reviews has no lake yet, and nothing to show\. Run it first: tidemill run"):
        make_report(make_pipeline(tmp_path, "nowhere"))
    commit_rows(lake_at(tmp_path), pa.table({"id": ["1"]}), [1])
    with pytest.raises(InputError, match="The lake has no pipeline reviews"):
        make_report(make_pipeline(tmp_path, "nowhere"))


def test_whole_numbers_that_a_browser_would_round_are_text(tmp_path):
    pipeline = made_pipeline(tmp_path, ["a", "b"], number=pa.array([2**53 + 1, 7], pa.int64()))
    [figure] = [one for one in make_report(pipeline).to_json()["figures"] if one["id"] == "sure-rows"]

    assert {row[figure["columns"].index("number")] for row in figure["rows"]} == {"9007199254740993", 7}
    assert exact({"a": (2**60,)}) == {"a": ["1152921504606846976"]}


def with_truth(pipeline, truth, **others):
    return pipeline.model_copy(update={"report": pipeline.report.model_copy(update={"truth": truth, **others})})
