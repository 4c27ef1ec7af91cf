"""What `tidemill sql` prints is what DuckDB writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from tidemill.cli.query import Reader, plain, run_query, write_out
from tidemill.config import Lake as Section
from tidemill.errors import ConfigError, InputError, LakeError
from tidemill.lake import Lake

VALUES = {
    "blob": r"SELECT '\x00\xFFa'::BLOB AS x",
    "boolean": "SELECT true AS x, false AS y, NULL::BOOLEAN AS z",
    "struct": "SELECT {'a': [1, NULL], 'b': true, 'c': {'d': 'O''Brien, \"x\"'}} AS x",
    "map": "SELECT MAP {'a': 1.5::DOUBLE, 'b': NULL} AS x",
    "interval": "SELECT INTERVAL '3 days 04:05:06.789' AS x, INTERVAL 14 MONTHS AS y",
    "infinity": "SELECT 'inf'::DOUBLE AS x, '-inf'::FLOAT AS y, ['inf'::DOUBLE] AS z",
    "nan": "SELECT 'nan'::DOUBLE AS x",
    "nanoseconds": "SELECT TIMESTAMP_NS '2024-01-02 03:04:05.123456789' AS x",
    "time": "SELECT TIME '03:04:05.000001' AS x, DATE '0044-03-15 (BC)' AS y, 'infinity'::TIMESTAMP AS z",
    "time_zone": "SELECT TIMESTAMPTZ '2024-01-02 03:04:05+02' AS x",
    "decimal": "SELECT 1.50::DECIMAL(5,2) AS x, 12345678901234567890.123456789::DECIMAL(38,9) AS y",
    "large_integer": "SELECT 170141183460469231731687303715884105727 AS x, 18446744073709551615::UBIGINT AS y",
    "double": "SELECT 1e300 AS x, 0.1::DOUBLE AS y, 0.1::FLOAT AS z, -0.0::DOUBLE AS w",
    "uuid": "SELECT '5c7a61b4-8a2d-4f0e-9c76-1d3b0c9f2e55'::UUID AS x",
    "text": "SELECT 'a,b\"c' || chr(10) || 'd' AS x, '' AS y, NULL AS z, 'é漢🙂' AS w, ' padded ' AS v",
    "nothing": "SELECT i, 'a' AS t FROM range(0) r(i)",
    "order": "SELECT i, i % 3 AS m FROM range(10) r(i) ORDER BY m DESC, i",
    "names": 'SELECT 1 AS "a b", 2 AS "c""d", 3 AS "order"',
    "comment": "SELECT 1 AS x -- one",
}
NESTED = {"struct", "map", "infinity"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Section:
    folder = tmp_path_factory.mktemp("lake")
    spec = Section(catalog=f"sqlite:{folder}/lake.sqlite", data=f"{folder}/lake")
    with Lake(spec) as lake:
        lake.write(lambda cursor: cursor.execute("CREATE TABLE words AS SELECT 1 AS n, 'a|b' AS word"), message="make")
    return spec


@pytest.fixture(scope="module")
def opened(spec: Section) -> Iterator[Reader]:
    with Reader(spec) as reader:
        yield reader


@pytest.fixture
def reader(opened: Reader) -> Reader:
    opened.renew()
    return opened


def printed(reader: Reader, query: str, output: str) -> str:
    (statement,) = reader.judged(query)
    return b"".join(reader.printed(statement, output)).decode()


def written_by_duckdb(query: str, options: str, file: Path) -> str:
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}\n) TO '{file}' ({options})")
    return file.read_text()


@pytest.mark.parametrize("name", VALUES)
def test_json_is_to_the_byte_what_duckdb_writes(reader, tmp_path, name):
    written = written_by_duckdb(VALUES[name], "FORMAT json, ARRAY true", tmp_path / "written")
    assert printed(reader, VALUES[name], "json") == written


@pytest.mark.parametrize("name", [name for name in VALUES if name not in NESTED])
def test_csv_is_to_the_byte_what_duckdb_writes_but_for_what_is_nested(reader, tmp_path, name):
    written = written_by_duckdb(VALUES[name], "FORMAT csv", tmp_path / "written")
    assert printed(reader, VALUES[name], "csv") == written


def test_csv_has_lists_structs_and_maps_as_json(reader):
    columns = {
        "entities": "[{'entity': 'PER', 'word': 'O''Brien, \"x\"', 'start': 0}]",
        "n": "7",
        "embedding": "[0.5, -0.25]::FLOAT[2]",
        "scores": "MAP {'a': 0.5::FLOAT, 'b': NULL}",
        "none": "NULL::FLOAT[]",
    }
    query = f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in columns.items())}"

    (row,) = csv.DictReader(io.StringIO(printed(reader, query, "csv")))

    assert json.loads(row["entities"]) == [{"entity": "PER", "word": 'O\'Brien, "x"', "start": 0}]
    assert (row["n"], row["none"]) == ("7", "")
    assert json.loads(row["embedding"]) == [0.5, -0.25]
    assert json.loads(row["scores"]) == {"a": 0.5, "b": None}


def test_of_a_long_vector_a_table_shows_the_first_numbers_and_a_list_of_structs_whole(reader):
    entities = "[{'entity': 'PER', 'score': 0.5, 'word': 'Anna', 'start': 0, 'end': 4}]"
    vector = "list_transform(range(384), lambda i: (i / 8)::FLOAT)"
    query = f"SELECT {vector} AS v, {vector}::FLOAT[384] AS w, [0.5::FLOAT] AS short, {entities} AS x FROM range(3)"

    shown = printed(reader, query, "table")

    assert shown.count("[0.0, 0.125, 0.25, 0.375, … 380 more]") == 6
    assert shown.count("[0.5]") == 3
    assert shown.count("{'entity': PER, 'score': 0.5, 'word': Anna, 'start': 0, 'end': 4}") == 3
    assert max(map(len, shown.splitlines())) <= 200


def test_a_name_that_occurs_twice_is_called_as_in_a_table_made_of_the_query(reader):
    query = "SELECT 1 AS n, [2] AS n, 3 AS N"

    assert json.loads(printed(reader, query, "json")) == [{"n": 1, "n_1": [2], "N_2": 3}]
    assert printed(reader, query, "csv") == "n,n_1,N_2\n1,[2],3\n"


@pytest.mark.parametrize(
    "query", ["DESCRIBE words", "SHOW TABLES", "SUMMARIZE words", "EXPLAIN FROM words", "FROM words"]
)
def test_what_is_no_select_is_printed_in_every_format(reader, query):
    rows = list(csv.DictReader(io.StringIO(printed(reader, query, "csv"))))
    found = json.loads(printed(reader, query, "json"))
    header, _, *lines = printed(reader, query, "markdown").splitlines()

    assert [list(row) for row in rows] == [list(row) for row in found]
    assert len(lines) == len(rows) > 0
    assert [cell.strip() for cell in header.split("|")[1:-1]] == list(found[0])


def test_a_pivot_over_values_of_the_data_is_printed_as_json(spec, capfd):
    run_query(spec, "PIVOT words ON word USING sum(n)", "json")

    assert json.loads(capfd.readouterr().out) == [{"a|b": 1}]


def test_markdown_spells_values_as_duckdb_does_and_keeps_cells_in_their_row(reader):
    query = "SELECT n, word, true AS ok, 'a' || chr(10) || 'b' AS text, NULL::VARCHAR AS no FROM words"

    assert printed(reader, query, "markdown") == (
        "|   n | word | ok   | text   | no   |\n"
        "| --: | ---- | ---- | ------ | ---- |\n"
        "|   1 | a\\|b | true | a<br>b | NULL |\n"
    )


def test_parquet_keeps_what_was_asked_for_and_says_what_it_cannot_hold(reader):
    (statement,) = reader.judged("SELECT i, 'x' AS t FROM range(30000) r(i)")
    assert pq.read_table(io.BytesIO(b"".join(reader.printed(statement, "parquet")))).num_rows == 30000

    with pytest.raises(InputError, match=r"Parquet cannot hold this: .* Cast it"):
        printed(reader, "SELECT INTERVAL 1 DAY AS x", "parquet")


def test_a_result_is_printed_while_the_query_runs_and_the_rest_of_it_can_be_left(reader):
    (endless,) = reader.judged("SELECT i FROM range(100_000_000_000) r(i)")

    pieces = reader.printed(endless, "csv")
    first = next(pieces)
    pieces.close()

    assert first.startswith(b"i\n0\n1\n")
    reader.renew()
    (after,) = reader.judged("SELECT 42 AS answer")
    assert b"".join(reader.printed(after, "csv")) == b"answer\n42\n"


def test_an_error_in_mid_result_is_told_after_what_came_before(reader):
    (failing,) = reader.judged("SELECT if(i < 300_000, i, error('no more')) AS i FROM range(310_000) r(i)")
    before: list[bytes] = []

    with pytest.raises(InputError, match="no more"):
        before.extend(reader.printed(failing, "csv"))

    assert before[0].startswith(b"i\n0\n")


def test_a_reader_sees_one_snapshot_until_it_asks_for_the_newest(spec, reader):
    (count,) = reader.judged("SELECT count(*) AS n FROM words")
    before = b"".join(reader.printed(count, "csv"))
    with Lake(spec) as lake:
        lake.write(lambda cursor: cursor.execute("INSERT INTO words VALUES (2, 'c')"), message="add")
    within = b"".join(reader.printed(count, "csv"))
    reader.renew()
    after = b"".join(reader.printed(count, "csv"))

    assert before == within == b"n\n1\n"
    assert after == b"n\n2\n"


def test_a_reader_leaves_nothing_behind(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Reader(spec) as reader:
        (statement,) = reader.judged("SELECT 1")
        write_out(reader.printed(statement, "json"))
    with pytest.raises(ConfigError, match="There is no folder nowhere"):
        Reader(spec, ["nowhere"])
    with pytest.raises(LakeError, match="There is no lake"):
        Reader(spec.model_copy(update={"catalog": f"sqlite:{tmp_path}/none.sqlite"}))

    assert list(tmp_path.iterdir()) == []


def test_facts_spell_bytes_as_a_query_does_and_have_no_nan(reader):
    found = plain({"blob": b"a\x00\xff\\'", "score": float("nan"), "nested": [{1: b"b"}]})

    (row,) = json.loads(printed(reader, r"SELECT 'a\x00\xFF\x5C\x27'::BLOB AS blob", "json"))
    assert found == {"blob": row["blob"], "score": None, "nested": [{"1": "b"}]}
