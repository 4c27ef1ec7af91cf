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
from tidemill.app.querying import FORMATS, bounded, export_rows
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


def test_rows_are_exported_to_the_digit_in_the_formats_of_tidemill_export(pipeline):
    assert FORMATS == ("parquet", "csv", "jsonl", "ndjson", "duckdb")
    with export_rows(pipeline, QUERY, "csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "number", "parts", "odd"],
            ["a", str(BIG), "[1.5,null]", "nan"],
            ["b,c", "1", "[]", "nan"],
        ]
    lines = export_rows(pipeline, QUERY, "jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [BIG, 1]
    assert pq.read_table(export_rows(pipeline, QUERY, "parquet"))["number"].to_pylist() == [BIG, 1]
    with pytest.raises(InputError, match="says no format that is known"):
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
    with pytest.raises(InputError):
        export_rows(pipeline, statement, "csv")


def test_a_query_that_takes_too_long_is_ended_and_says_so(pipeline):
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c"
    too_long = pytest.raises(InputError, match=r"took longer than 0\.01 s and was ended\. Narrow it")
    with too_long, bounded(pipeline, endless, seconds=0.01) as cursor:
        cursor.fetchall()
    with too_long:
        export_rows(pipeline, endless, "csv", seconds=0.01)


def test_what_is_wrong_with_sql_is_said_in_duckdbs_words(pipeline):
    with pytest.raises((InputError, duckdb.Error), match="nothing"), bounded(pipeline, "SELECT nothing FROM values"):
        pass


def test_the_exported_file_lies_in_a_folder_of_its_own(pipeline):
    first, second = (export_rows(pipeline, "SELECT 1", "csv") for _ in range(2))
    assert first.parent != second.parent
    assert isinstance(first, Path)
