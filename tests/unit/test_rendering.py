"""What the commands print fits a terminal and is said as people say it."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from tidemill.cli import render
from tidemill.cli.backfill import show_plan
from tidemill.cli.cells import cell
from tidemill.cli.table import WIDEST_CELL, fitted, width_of, wrapped
from tidemill.errors import counted
from tidemill.running.run import RunResult

RUN: dict[str, Any] = {
    "started_at": datetime(2026, 11, 23, 9, 12, 40, tzinfo=UTC),
    "kind": "backfill",
    "state": "running",
    "alive": True,
    "num_shards": 3,
    "num_rows": 1_207_533,
    "num_quarantined": 0,
    "num_new_tokens": None,
    "num_retries": 0,
    "seconds": None,
    "estimated_seconds": 31.0,
    "cost": None,
    "currency": "USD",
    "who": "someone",
    "worker": None,
    "host": "a-machine-with-a-long-name",
    "message": None,
}
STATUS: dict[str, Any] = {
    "pipeline": "reviews",
    "target_revision": "e79e42011312aabb",
    "promoted_version": "33ed8d4b",
    "freshness": {"age_seconds": 10_800.0},
    "shards": {"done": 8, "pending": 1, "outdated": 0, "unread_files": 0},
    "rows": 20_087,
    "rows_quarantined": 1,
    "duplicate_keys": 0,
    "throughput": [
        {
            "tokens_per_second": 17_926.4,
            "device": "Intel Xeon",
            "padding_waste": 0.041,
            "new_tokens_per_second": None,
            "cost_per_thousand_rows": None,
            "currency": "USD",
        }
    ],
    "versions": [{"version": "33ed8d4b", "rows": 1, "lacking": None, "promoted": True}],
    "open_requests": [{"shards": 1, "version": "310e0959", "reason": "missing", "backfill_id": "6c0a11d2"}],
    "backfills": [
        {
            "backfill_id": "6c0a11d2",
            "shards_done": 3,
            "shards": 8,
            "version": "310e0959",
            "created_at": datetime(2026, 11, 23, 9, 12, tzinfo=UTC),
            "who": "ann",
            "cost": 0.02,
            "currency": "USD",
        }
    ],
    "quarantine": [{"rows": 1, "stage": "ingest", "reason": "the text is null"}],
    "runs": [RUN, {**RUN, "kind": "run", "state": "done", "seconds": 28.6}],
    "notes": [],
}
PLAN: dict[str, Any] = {
    "pipeline": "reviews",
    "table": "reviews__33ed8d4b",
    "revision": "e79e42011312aabb",
    "previous_revision": "8fa39fe30d47aabb",
    "up_to_date": False,
    "files": {
        "new": ["2026-02.csv"],
        "changed": [],
        "unfinished": [],
        "removed": [],
        "failed": {},
        "renamed": {},
        "unchanged": 1,
    },
    "uncut_files": ["2026-02.csv"],
    "auto": {
        "tokens_per_second": {},
        "said": "openvino float32, by trial: openvino float32 11,900 tokens/s, openvino bfloat16 6,900 tokens/s",
    },
    "int8": {"said": "int8 does not pay here: linear layers are 0.9 times as fast as in float32"},
    "num_shards_computed": 1,
    "rows_estimated": True,
    "rows": 1,
    "rows_to_compute": 1,
    "rows_to_compute_at_most": False,
    "tokens_estimated": True,
    "tokens": 1,
    "new_tokens": None,
    "new_tokens_low": None,
    "new_tokens_high": None,
    "seconds": 400.0,
    "cost": 0.02,
    "currency": "USD",
    "num_shards_copied": 1,
    "num_shards_rewritten": 2,
    "rows_removed": 1,
    "notes": [],
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def widest(text: str) -> int:
    return max(map(width_of, text.splitlines()))


def result(**facts: Any) -> RunResult:
    return RunResult(**{"run_id": "1", "pipeline": "reviews", "kind": "run", "state": "done", "num_shards": 1, **facts})


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (2_000, "2,000 rows")])
def test_one_row_is_no_rows(number, said):
    assert counted(number, "row") == said


def test_a_plan_fits_80_columns_and_has_its_plurals_right():
    shown = render.plan(PLAN)

    assert widest(shown) <= 80
    assert "  unchanged: 1 file\n" in shown
    assert "read 1 file, compute 1 shard, ~1 row, ~1 token, time ~7 min, cost ~0.02 USD,\n    copy 1 shard, " in shown
    assert "remove 1 row\nauto takes openvino float32, by trial: openvino float32 11,900 tokens/s,\n" in shown
    assert shown.endswith("\nint8 does not pay here: linear layers are 0.9 times as fast as in float32")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"rows_to_compute": 1}, "301 rows, 1 to compute, ~1 token"),
        ({"rows_to_compute": 0}, "301 rows, 0 to compute, ~1 token"),
        ({"rows_to_compute": 301}, "301 rows, ~1 token"),
        ({"rows_to_compute": 301, "rows_to_compute_at_most": True}, "301 rows, at most 301 to compute, ~1 token"),
        (
            {"rows_to_compute": 301, "rows_to_compute_at_most": True, "rows_estimated": True},
            "~301 rows, at most ~301 to compute,",
        ),
    ],
)
def test_a_plan_says_how_many_of_the_rows_are_to_be_computed(facts, said):
    shown = render.plan(PLAN | {"rows": 301, "rows_estimated": False} | facts)
    assert said in " ".join(shown.split())


def test_a_result_says_how_many_rows_were_computed_where_some_were_not():
    assert "1 shard, 301 rows, 1 computed, " in render.result(result(num_rows=301, num_unchanged=300), "r.toml")
    assert "computed," not in render.result(result(num_rows=301), "r.toml")


def test_a_status_fits_80_columns_without_the_columns_that_say_nothing():
    shown = render.status(STATUS)
    header = next(line for line in shown.splitlines() if "started" in line)

    assert widest(shown) <= 80
    assert header.split() == ["started", "kind", "state", "shards", "rows", "took", "by"]


def test_a_status_has_every_column_where_there_is_room(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    assert "retries" in render.status(STATUS)


def test_rows_that_are_tried_fit_80_columns_with_what_was_asked_for():
    row = {
        "path": "reviews-00000-of-00008.parquet",
        "row_number": 0,
        "text": "a film that " * 20,
        "id": "review-000001",
        "domain": "films",
        "rating": 4,
        "label": "POSITIVE",
        "score": 0.98765,
        "num_tokens": 61,
        "truncated": False,
        "stage": None,
        "reason": None,
    }
    shown = render.sample([row, row, row], ["id"], ["id", "domain", "rating"])

    assert widest(shown) <= 80
    assert len(shown.splitlines()) == 5
    assert {"text", "id", "label", "score"} <= set(shown.splitlines()[0].split())
    assert "0.9877" in shown
    assert "reason" in render.sample([{**row, "stage": "ingest", "reason": "the text is null"}], ["id"])
    assert render.sample([]) == "There is no row."


def test_a_table_cuts_its_widest_cells_first_and_knows_wide_letters():
    shown = fitted(["id", "text"], [["1", "漢字" * 30], ["2", "a" * 60]], width=40)

    assert widest(shown) == 40
    assert shown.splitlines()[2].endswith("漢…")


def test_a_long_line_is_broken_between_words_and_a_command_is_not():
    note = "  note: " + "word " * 30 + "https://example.org/" + "a" * 90
    command = "  tidemill sql " + "a" * 100

    *lines, address, shown = wrapped(f"{note}\n{command}", 80).split("\n")

    assert all(width_of(line) <= 80 for line in lines)
    assert lines[1].startswith("    word")
    assert address.strip() == "https://example.org/" + "a" * 90
    assert shown == command


def test_a_result_says_what_there_was_and_how_to_query_it():
    shown = render.result(
        result(num_rows=1, num_tokens=1, seconds=5.7, columns=["label", "score", "scores"]), "reviews.toml", ["id"]
    )

    assert shown == (
        "reviews: done. 1 shard, 1 row, 1 token in 5.7 s.\n"
        "Query it:\n"
        '  tidemill sql reviews.toml "SELECT id, label, score FROM reviews LIMIT 10"'
    )
    assert widest(shown) <= 80


def test_a_plan_for_a_model_that_writes_says_between_what_it_lies():
    writing = {**PLAN, "new_tokens": 10, "new_tokens_low": 8_000, "new_tokens_high": 12_000}
    told = " ".join(render.plan({**writing, "cost_low": 0.01, "cost_high": 0.03}).split())
    unknown = " ".join(render.plan({**writing, "new_tokens": None, "cost": None}).split())

    assert "~1 token, 8,000 to 12,000 new tokens, time ~7 min, cost ~0.02 USD (0.01 to 0.03)" in told
    assert "at most 12,000 new tokens" in unknown


def test_a_status_tells_what_a_model_wrote_and_what_a_thousand_rows_cost():
    throughput = {**STATUS["throughput"][0], "new_tokens_per_second": 210.4, "cost_per_thousand_rows": 0.01234}
    runs = [{**RUN, "num_new_tokens": 31_415}, RUN]

    shown = render.status({**STATUS, "throughput": [throughput], "runs": runs})

    assert "4.1% padding, 210.4 new tokens/s, 0.0123 USD per 1,000 rows" in shown
    assert "new tokens" not in render.status(STATUS)


def test_a_backfill_of_one_shard_is_said_so():
    facts: dict[str, Any] = {
        "pipeline": "reviews",
        "version": "33ed8d4b",
        "promoted_version": "33ed8d4b",
        "revision": "e79e42011312aabb",
        "reason": "again",
        "resumes": None,
        "num_shards": 1,
        "num_files": 1,
        "rows": 1,
        "tokens": 1,
        "new_tokens_low": None,
        "new_tokens_high": None,
        "seconds_low": None,
        "seconds_high": None,
        "cost_low": None,
        "measured_shards": 0,
        "notes": [],
    }

    assert "compute again: 1 shard of 1 file, 1 row, ~1 token\n" in show_plan(facts)


def keywords() -> list[str]:
    found = duckdb.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()
    return [word for (word,) in found]


def test_the_suggested_query_is_one_whatever_the_table_and_its_key_are_called():
    suggested = [
        render.first_query("reviews", [name], ["label", "score"]) for name in [*keywords(), "Order ID", 'a"b', "it's"]
    ]
    suggested += [render.first_query(name, ["id"], ["entities"]) for name in keywords()]
    queries = [query for shell in suggested for query in shlex.split(shell)]

    statements = duckdb.extract_statements(";".join(queries))

    assert {statement.type.name for statement in statements} == {"SELECT"}
    assert len(statements) == len(queries) == len(suggested)


def test_the_suggested_query_reads_a_table_that_is_called_as_a_keyword():
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE \"order\" AS SELECT 1 AS id, 'a' AS label, 0.5 AS score")
        (query,) = shlex.split(render.first_query("order", ["id"], ["label", "score"]))

        assert connection.execute(query).fetchall()[0][:2] == (1, "a")


ENTITIES = [{"entity": "PER", "score": 0.99812, "word": "Anna", "start": 0, "end": 4}] * 9


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (0.98765, "0.9877"),
        ("a\n  b", "a b"),
        ([], ""),
        (ENTITIES[:1], "PER 0.9981 Anna 0 4"),
        (ENTITIES, "PER 0.9981 Anna 0 4; PER 0.9981 Anna 0 4; … 7 more"),
        ([0.25] * 384, "0.2500; 0.2500; 0.2500; 0.2500; 0.2500; 0.2500; … 378 more"),
        ({"NEGATIVE": 0.1, "POSITIVE": 0.9}, "NEGATIVE 0.1000; POSITIVE 0.9000"),
        ([{"word": "a" * 90}, {"word": "b"}], "a" * 49 + "…; … 1 more"),
        ([{"word": "a" * 90}], "a" * 59 + "…"),
        ("a" * 90, "a" * 59 + "…"),
    ],
)
def test_a_cell_is_one_line_and_says_what_it_leaves_out(value, shown):
    assert cell(value) == shown
    assert len(shown) <= WIDEST_CELL


def test_rows_of_a_task_with_other_columns_are_told_with_those():
    row = {
        "path": "a.parquet",
        "row_number": 0,
        "text": "Anna lives in Berlin. " * 9,
        "id": "review-000001",
        "domain": "films",
        "entities": ENTITIES,
        "num_tokens": 61,
        "truncated": False,
        "stage": None,
        "reason": None,
    }

    shown = render.sample([row], ["id"], ["id", "domain"])

    assert widest(shown) <= 80
    assert {"text", "id", "entities"} <= set(shown.splitlines()[0].split())
