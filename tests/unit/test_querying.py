"""A visitor's statements read the lake and nothing else, end in time, and lose no digit on their way into a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lakes import commit_rows
from tests.pipelines import make_pipeline
from tidemill.app.querying import bounded, export_rows
from tidemill.config import Pipeline
from tidemill.errors import InputError

BIG = 2**53 + 1


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("querying")
    made = make_pipeline(folder, f"{folder}/data/*", name="values", dataset={"keep": []})
    rows = pa.table({"id": ["a", "b,c"], "number": pa.array([BIG, 1], pa.int64()), "parts": [[1.5, None], []]})
    commit_rows(made.lake, rows, [2])
    return made


QUERY = "SELECT id, number, parts, 'NaN'::FLOAT AS odd FROM values ORDER BY id"


def test_rows_are_exported_as_csv_json_and_parquet_to_the_digit(pipeline):
    with export_rows(pipeline, QUERY, "csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "number", "parts", "odd"],
            ["a", str(BIG), "[1.5, null]", "nan"],
            ["b,c", "1", "[]", "nan"],
        ]
    assert json.loads(export_rows(pipeline, QUERY, "json").read_text()) == [
        {"id": "a", "number": str(BIG), "parts": [1.5, None], "odd": None},
        {"id": "b,c", "number": 1, "parts": [], "odd": None},
    ]
    assert pq.read_table(export_rows(pipeline, QUERY, "parquet"))["number"].to_pylist() == [BIG, 1]
    assert json.loads(export_rows(pipeline, "SELECT 1 WHERE false", "json").read_text()) == []
    with pytest.raises(InputError, match="exe is no format"):
        export_rows(pipeline, QUERY, "exe")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM values",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd.csv'",
        "COPY values TO '/tmp/out.csv'",
        "ATTACH 'other.db'",
        "SET lock_configuration = false",
        "",
    ],
)
def test_a_statement_that_does_more_than_read_the_lake_is_refused(pipeline, statement):
    with pytest.raises(InputError), bounded(pipeline, statement):
        pass


def test_a_query_that_takes_too_long_is_ended_and_says_so(pipeline):
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c"
    too_long = pytest.raises(InputError, match=r"took longer than 0\.01 s and was ended\. Narrow it")
    with too_long, bounded(pipeline, endless, seconds=0.01) as cursor:
        cursor.fetchall()


def test_what_is_wrong_with_sql_is_said_in_duckdbs_words(pipeline):
    with pytest.raises((InputError, duckdb.Error), match="nothing"), bounded(pipeline, "SELECT nothing FROM values"):
        pass


def test_the_exported_file_lies_in_a_folder_of_its_own(pipeline):
    first, second = (export_rows(pipeline, "SELECT 1", "csv") for _ in range(2))
    assert first.parent != second.parent
    assert isinstance(first, Path)
