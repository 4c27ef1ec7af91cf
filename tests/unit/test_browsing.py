"""Pages of a table: which rows they have, and how far they looked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, VERSION, commit_rows, lake_at
from tests.variants import variants
from tidemill.app.picking import Picking, pick_rows
from tidemill.app.rows import cells
from tidemill.app.rows.browsing import Order, Page, Start, read_page
from tidemill.app.rows.filters import Filter, filter_of
from tidemill.app.rows.pages import shown_page
from tidemill.errors import ConfigError
from tidemill.lake import Cursor, Lake, ResultTable
from tidemill.lake.records.marks import Place, set_marks
from tidemill.results.promotion import load_table

SIZES = [7, 1, 12, 5]
BIG = 2**53 + 1
OUT_OF_TIME: dict[str, Any] = {"seconds": -1.0, "seconds_at_once": 0.0}
"""Each page asks one shard, and no more."""
BOUNDS: list[dict[str, Any]] = [
    OUT_OF_TIME,
    {},
    {"seconds": 60.0, "seconds_at_once": 0.0},
    {"seconds": 60.0, "seconds_at_once": 900.0},
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """25 rows in four shards, whose files are ordered as their numbers are."""
    num_rows = sum(SIZES)
    kept = pa.table(
        {
            "id": [f"row-{i:02}" for i in range(num_rows)],
            "domain": ["tweet" if i % 5 == 0 else "news" for i in range(num_rows)],
            "text": [f"<script>alert({i})</script> text {i}" for i in range(num_rows)],
            "number": pa.array([BIG + i for i in range(num_rows)], pa.int64()),
        }
    )
    results = pa.table(
        {
            "label": ["POSITIVE" if i % 2 else "NEGATIVE" for i in range(num_rows)],
            "score": pa.array([0.5 + i // 6 / 100 if i != 3 else None for i in range(num_rows)], pa.float32()),
        }
    )
    spec = lake_at(tmp_path_factory.mktemp("browsing"))
    commit_rows(spec, kept, SIZES, results=results)
    with Lake(spec, read_only=True, one_snapshot=True) as opened:
        yield opened


@pytest.fixture
def table(lake: Lake) -> SimpleNamespace:
    return SimpleNamespace(cursor=lake.cursor(), table=load_table(lake.cursor(), PIPELINE, VERSION))


def all_pages(
    cursor: Cursor, table: ResultTable, asked: Filter, order: Order = "by file", **options: Any
) -> list[Page]:
    pages, start = [], Start()
    while True:
        pages.append(read_page(cursor, table, asked, start, order=order, **options))
        following = pages[-1].next
        if following is None:
            return pages
        start = following


def ids(pages: list[Page]) -> list[int]:
    return [int(row[0].removeprefix("row-")) for page in pages for row in page.rows]


@pytest.mark.parametrize("num_rows", [1, 3, 7, 8, 100])
@pytest.mark.parametrize("bounds", variants(BOUNDS, [BOUNDS[0], BOUNDS[-1]]))
def test_pages_have_each_row_once_in_the_order_of_the_files(table, num_rows, bounds):
    pages = all_pages(table.cursor, table.table, Filter(), num_rows=num_rows, **bounds)
    assert ids(pages) == list(range(25))
    assert all(len(page.rows) <= num_rows for page in pages)
    assert pages[-1].num_looked_at == pages[-1].num_rows == 25


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Filter(label="POSITIVE"), range(1, 25, 2)),
        (Filter(least=0.52), range(12, 25)),
        (Filter(least=0.52, most=0.525), range(12, 18)),
        (Filter(search="TEXT 2"), [2, *range(20, 25)]),
        (Filter(search="%"), []),
        (Filter(column="domain", operator="is not", value="news"), range(0, 25, 5)),
        (Filter(column="id", operator="contains", value="W-1"), range(10, 20)),
        (Filter(column="number", operator="at least", value=str(BIG + 20)), range(20, 25)),
        (Filter(column="score", operator="is empty"), [3]),
        (Filter(condition="label = 'POSITIVE' AND domain = 'tweet'"), [5, 15]),
        (Filter(condition="domain = 'tweet' -- a comment"), range(0, 25, 5)),
    ],
)
@pytest.mark.parametrize("bounds", variants(BOUNDS, [BOUNDS[0], BOUNDS[-1]]))
def test_a_filter_gives_its_rows_whether_time_ends_or_not(table, asked, expected, bounds):
    assert ids(all_pages(table.cursor, table.table, asked, num_rows=2, **bounds)) == list(expected)


def test_a_page_that_found_nothing_in_time_says_how_far_it_looked(table):
    page = read_page(table.cursor, table.table, Filter(search="text 24"), Start(), **OUT_OF_TIME)
    assert (page.rows, page.num_looked_at, page.next) == ([], 7, Start(shard=1))


@pytest.mark.parametrize(("order", "is_reversed"), [("least score first", False), ("highest score first", True)])
def test_sorted_by_score_rows_come_once_and_those_without_a_score_not(table, order, is_reversed):
    found = ids(all_pages(table.cursor, table.table, Filter(), order, num_rows=4))
    scores = [i // 6 for i in found]
    assert scores == sorted(scores, reverse=is_reversed)
    assert sorted(found) == [i for i in range(25) if i != 3]


@pytest.mark.parametrize(
    "condition",
    ["1", "true; DROP TABLE x", "id IN (SELECT id FROM values)", "nothing = 1", "read_text('/etc/passwd') = ''"],
)
def test_a_condition_that_is_none_is_refused(table, condition):
    import duckdb

    with pytest.raises((ConfigError, duckdb.Error)):
        read_page(table.cursor, table.table, Filter(condition=condition), Start())


def test_a_form_that_is_left_empty_asks_for_all_rows_and_a_score_that_is_no_number_is_refused():
    assert filter_of("", "any", "", " ", "any", "is", "", "").is_empty
    assert filter_of("", "any", "0.5", "", "any", "is", "", "") == Filter(least=0.5)
    with pytest.raises(ConfigError, match="'high' is none"):
        filter_of("", "any", "high", "", "any", "is", "", "")


def test_markup_is_shown_as_text_and_numbers_beyond_2_to_53_to_the_digit(table):
    page = read_page(table.cursor, table.table, filter_of("", "any", "", "", "any", "is", "", ""), Start(), num_rows=2)
    shown = shown_page(page, "<b>two</b>")
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;alert(0)&lt;/script&gt;" in shown
    assert str(BIG + 1) in shown
    assert 'aria-label="open row 1 of part-0"' in shown


def test_a_long_text_is_cut_in_a_page_and_whole_in_its_row():
    text = "a" * 1_000 + "&"
    assert len(cells.cell(text)) < 200
    assert "a&amp;" in cells.facts("The row", [("text", text)])
    assert cells.cell([0.5] * 384).startswith("[0.5, 0.5, 0.5, 0.5, … 384")


def test_rows_are_picked_once_the_unsure_first_in_turn_with_those_at_random(table):
    picked = pick_rows(table.cursor, table.table, Picking(8))
    unsure = [row.place.row_number for row in picked if row.reason.startswith("unsure")]
    assert picked[0].reason == "unsure: 0.5"
    assert unsure[:3] == [0, 1, 2]
    assert {row.reason for row in picked} > {"random"}
    assert len({row.place for row in picked}) == len(picked) == 8


def test_at_random_there_are_as_many_rows_of_each_slice_and_the_same_ones_again(table):
    asked = Picking(8, ["random"], by="domain")
    picked = pick_rows(table.cursor, table.table, asked)
    slices = [row.reason.removeprefix("random of domain = ") for row in picked]
    assert [sorted(slices[i : i + 2]) for i in (0, 2, 4, 6)] == [["news", "tweet"]] * 4
    assert picked == pick_rows(table.cursor, table.table, asked)
    assert picked != pick_rows(table.cursor, table.table, replace(asked, seed=1))


def test_rows_that_disagree_with_the_truth_come_with_the_surest_first(table):
    truth = ("label", "CASE WHEN domain = 'tweet' THEN 'POSITIVE' ELSE label END")
    picked = pick_rows(table.cursor, table.table, Picking(5, ["disagreeing"], truth=truth))
    assert [row.reason for row in picked] == ["the model says NEGATIVE, the truth POSITIVE"] * 3
    assert [row.path for row in picked] == ["part-3", "part-2", "part-0"]
    with pytest.raises(ConfigError, match=r"--how disagreeing needs a label .* Set report\.truth .* --against VERSION"):
        pick_rows(table.cursor, table.table, Picking(5, ["disagreeing"]))
    with pytest.raises(ConfigError, match="--by part is not a column of values"):
        pick_rows(table.cursor, table.table, Picking(5, by="part"))


@pytest.mark.slow
def test_marked_rows_are_not_picked_again_and_a_page_shows_their_marks(tmp_path: Path):
    spec = lake_at(tmp_path)
    [shard] = commit_rows(spec, pa.table({"id": ["a", "b", "c"]}), [3])
    with Lake(spec) as lake:
        set_marks(lake, PIPELINE, {Place(shard.shard_id, 1): "<i>right</i>"}, who="ann")
        table = load_table(lake.cursor(), PIPELINE, VERSION)
        picked = pick_rows(lake.cursor(), table, Picking(9, ["random"]))
        page = read_page(lake.cursor(), table, Filter(), Start())
    assert {row.place.row_number for row in picked} == {0, 2}
    assert "&lt;i&gt;right&lt;/i&gt;" in shown_page(page, "")
