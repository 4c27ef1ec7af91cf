"""What is said of labels whose shares moved: only more than they usually do."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, TABLE, commit_rows, lake_at
from tidemill.lake import Lake
from tidemill.reports.changes import moved_labels, what_changed

USUAL = [{"good": 480, "bad": 520}, {"good": 500, "bad": 500}, {"good": 520, "bad": 480}]


@pytest.mark.parametrize(
    ("new", "moved"),
    [
        ({"good": 500, "bad": 500}, []),
        ({"good": 540, "bad": 460}, []),
        ({"good": 700, "bad": 300}, ["bad", "good"]),
        ({"good": 480, "bad": 480, "odd": 40}, ["odd"]),
        ({"good": 3, "bad": 0}, []),
    ],
    ids=["the same", "as far as usual", "farther", "a label that was never there", "too few rows to say"],
)
def test_a_share_has_moved_if_it_is_off_by_three_usual_spreads(new, moved):
    assert [one.label for one in moved_labels(new, USUAL)] == moved


def test_a_sentence_says_which_labels_moved_and_from_where(tmp_path):
    labels, revisions = [], []
    for number, share in enumerate([48, 50, 52, 75]):
        labels += ["good"] * share + ["bad"] * (100 - share)
        revisions += [f"r{number + 1}"] * 100
    spec = lake_at(tmp_path)
    results = pa.table({"label": labels, "score": pa.array([0.5] * 400, pa.float32())})
    commit_rows(spec, pa.table({"id": list(range(400))}), [400], results=results)
    with Lake(spec) as lake:
        lake.write(
            lambda cursor: cursor.execute(
                f"UPDATE {TABLE} SET dataset_revision = 'r' || (row_number // 100 + 1)::VARCHAR"
            ),
            message="as if they had come one after the other",
        )
        told = what_changed(lake.cursor(), PIPELINE, "r4")
        usual = what_changed(lake.cursor(), PIPELINE, "r2")
        unknown = what_changed(lake.cursor(), PIPELINE, "r9")

    assert told == (
        "Of the 100 new rows, shares of labels moved more than usual: bad 25.0%, usually 50.0% ± 5.3%; "
        "good 75.0%, usually 50.0% ± 5.3%."
    )
    assert (usual, unknown) == (None, None)
