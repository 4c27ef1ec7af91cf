"""Which types kept columns get, and what is refused before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tests.pipelines import make_pipeline, write_parquet
from tidemill.errors import SchemaError
from tidemill.planning.columns import KeptColumn
from tidemill.planning.plan import Plan, make_plan


def planned(folder: Path, files: Mapping[str, bytes | pa.Table], **dataset: Any) -> Plan:
    """The plan of a pipeline over files, of which one format is there."""
    for name, content in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, content) if isinstance(content, pa.Table) else path.write_bytes(content)
    settings = {"path": f"{folder}/data/*", "key": [], "keep": ["v"], **dataset}
    return make_plan(make_pipeline(folder / "lake", "", dataset=settings), None)[0]


def table(**columns: Any) -> pa.Table:
    return pa.table({"text": ["good", "bad"], **columns})


def lines(values: Sequence[object]) -> bytes:
    return "".join(json.dumps({"text": "good", "v": value}) + "\n" for value in values).encode()


def cells(values: Sequence[str]) -> bytes:
    return "".join(["text,v\n", *(f"good,{value}\n" for value in values)]).encode()


STRING, LONG, DOUBLE = pa.string(), pa.int64(), pa.float64()


@pytest.mark.parametrize(
    ("files", "type_"),
    [
        ({"a.jsonl": lines([1]), "b.jsonl": lines([2.75])}, DOUBLE),
        (
            {"a.jsonl": lines([{"p": 1}]), "b.jsonl": lines([{"p": 2.5, "q": "x"}])},
            pa.struct({"p": DOUBLE, "q": STRING}),
        ),
        ({"a.jsonl": lines([[]]), "b.jsonl": lines([[1]])}, pa.list_(LONG)),
        ({"a.jsonl": lines([1]), "b.jsonl": lines(["x"])}, STRING),
        ({"a.jsonl": lines([None]), "b.jsonl": lines([True])}, pa.bool_()),
        ({"a.jsonl": lines([None])}, STRING),
        ({"a.jsonl": b'{"text": "a"}\n', "b.jsonl": lines([1])}, LONG),
        ({"a.csv": cells(["1"]), "b.csv": cells(["007"])}, STRING),
        ({"a.csv": cells(["1"]), "b.csv": cells(["2.5"])}, DOUBLE),
        ({"a.csv": cells([""]), "b.csv": cells(["2.5"])}, DOUBLE),
        ({"a.csv": b"text\na\n", "b.csv": cells(["5"])}, LONG),
        ({"a.parquet": table(v=pa.nulls(2)), "b.parquet": table(v=["x", "y"])}, STRING),
        ({"a.parquet": table(), "b.parquet": table(v=[1, 2])}, LONG),
        ({"a.parquet": table(v=pa.array([1, 2], pa.int8())), "b.parquet": table(v=[0.5, 2])}, DOUBLE),
        ({"a.parquet": table(v=pa.array([[1, 2], None], pa.list_(pa.float16(), 2)))}, pa.list_(pa.float32())),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else str(value),
)
def test_a_kept_column_has_the_type_that_holds_what_all_files_show(tmp_path, files, type_):
    (column,) = planned(tmp_path, files).kept
    assert (column.arrow_type, column.converted) == (type_, False)


IN_THE_LAKE: dict[str, tuple[pa.DataType, str]] = {
    "null": (pa.null(), "VARCHAR"),
    "bool": (pa.bool_(), "BOOLEAN"),
    "uint64": (pa.uint64(), "UBIGINT"),
    "float16": (pa.float16(), "FLOAT"),
    "decimal32": (pa.decimal32(5, 2), "DECIMAL(5,2)"),
    "decimal256": (pa.decimal256(38, 5), "DECIMAL(38,5)"),
    "string": (pa.string(), "VARCHAR"),
    "large_string": (pa.large_string(), "VARCHAR"),
    "string_view": (pa.string_view(), "VARCHAR"),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), "VARCHAR"),
    "json": (pa.json_(), "VARCHAR"),
    "binary": (pa.binary(), "BLOB"),
    "binary_view": (pa.binary_view(), "BLOB"),
    "fixed_size_binary": (pa.binary(3), "BLOB"),
    "uuid": (pa.uuid(), "UUID"),
    "uuids": (pa.list_(pa.binary(16)), "BLOB[]"),
    "date32": (pa.date32(), "DATE"),
    "date64": (pa.date64(), "DATE"),
    "time32": (pa.time32("s"), "TIME"),
    "time64": (pa.time64("us"), "TIME"),
    "time64_ns": (pa.time64("ns"), "TIME"),
    "timestamp_s": (pa.timestamp("s"), "TIMESTAMP_MS"),
    "timestamp_us": (pa.timestamp("us"), "TIMESTAMP"),
    "timestamp_ns": (pa.timestamp("ns"), "TIMESTAMP_NS"),
    "timestamp_tz": (pa.timestamp("ns", "Europe/Berlin"), "TIMESTAMP WITH TIME ZONE"),
    "list": (pa.list_(pa.float16()), "FLOAT[]"),
    "large_list": (pa.large_list(pa.large_string()), "VARCHAR[]"),
    "fixed_size_list": (pa.list_(pa.float32(), 2), "FLOAT[]"),
    "struct": (pa.struct([("a", pa.list_(pa.null()))]), "STRUCT(a VARCHAR[])"),
    "map": (pa.map_(pa.string(), pa.list_(pa.int8(), 2)), "MAP(VARCHAR, TINYINT[])"),
    "tensor": (pa.fixed_shape_tensor(pa.float32(), [2, 2]), "FLOAT[]"),
}


def test_every_type_that_parquet_has_is_kept_as_the_lake_has_it(tmp_path):
    columns = {name: nulls(type_) for name, (type_, _) in IN_THE_LAKE.items()}
    plan = planned(tmp_path, {"a.parquet": table(**columns)}, keep=list(columns))
    assert {column.name: column.type for column in plan.kept} == {name: kind for name, (_, kind) in IN_THE_LAKE.items()}


def nulls(type_: pa.DataType) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.nulls(2, type_.storage_type))
    return pa.nulls(2, type_)


@pytest.mark.parametrize(
    "type_",
    [
        *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
        pa.struct([("took", pa.duration("us"))]),
        pa.decimal256(50, 5),
        pa.list_view(pa.int8()),
        pa.list_(pa.large_list_view(pa.int8())),
    ],
    ids=str,
)
def test_a_type_that_the_lake_has_not_is_refused_by_the_plan_with_the_columns_name(tmp_path, type_):
    with pytest.raises(SchemaError, match=r"The column 'v' has type .*, which the lake cannot keep.*dataset\.keep"):
        planned(tmp_path, {"a.parquet": table(v=nulls(type_))})


@pytest.mark.parametrize("column", ["INTERVAL 1 DAY", "{'at': INTERVAL 1 DAY}", "[INTERVAL 1 DAY]"])
def test_an_interval_in_parquet_is_no_twelve_bytes_but_refused(tmp_path, column):
    (tmp_path / "data").mkdir()
    duckdb.sql(f"COPY (SELECT 'good' AS text, {column} AS v) TO '{tmp_path}/data/a.parquet'")
    with pytest.raises(SchemaError, match="The column 'v' has type month_day_nano_interval"):
        planned(tmp_path, {})


def test_a_uuid_is_one_whoever_wrote_it(tmp_path):
    (tmp_path / "data").mkdir()
    duckdb.sql(f"COPY (SELECT 'good' AS text, uuid() AS v) TO '{tmp_path}/data/a.parquet'")
    (column,) = planned(tmp_path, {"b.parquet": table(v=nulls(pa.uuid()))}).kept
    assert column.type == "UUID"
    with pytest.raises(SchemaError, match=r"'v' is extension<arrow\.uuid>.*, but string in the table"):
        planned(tmp_path, {}, types={"v": "string"})


def test_a_file_that_cannot_be_read_says_nothing_of_types(tmp_path):
    files = {"a.jsonl": lines([1]), "b.jsonl": b'[\n{"text": "a"}\n]\n'}
    assert planned(tmp_path, files).kept[0].arrow_type == LONG


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"a.parquet": table(v=[1, 2]), "b.parquet": table(v=["x", "y"])},
            ["'v' is string in b.parquet", "dataset.types"],
        ),
        ({"a.parquet": table(v=[{"a": 1, "A": 2}] * 2)}, ["'v' has the fields 'a' and 'A'", "dataset.keep"]),
        ({"a.jsonl": lines([{"a": 1}]), "b.jsonl": lines([{"A": 1}])}, ["'v' has the fields", "dataset.types.v"]),
        ({"a.jsonl": lines([{}])}, ["'v'", 'dataset.types.v = "string"']),
        ({"a.csv": b"text,v,v\na,1,2\n"}, ["a.csv has 2 columns named 'v'"]),
        ({"a.csv": b"text,n\na,1\n"}, ["no column 'v'", "dataset.key or dataset.keep"]),
        ({"a.parquet": table(w=[1, 2]), "b.parquet": table()}, ["no column 'v'"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_kept_is_refused_by_the_plan_with_the_columns_name(tmp_path, files, said):
    with pytest.raises(SchemaError) as refused:
        planned(tmp_path, files)
    assert all(words in str(refused.value) for words in said)


@pytest.mark.parametrize("role", [{"text": "v"}, {"key": ["v"], "keep": []}, {"keep": ["v"]}], ids=str)
def test_a_column_that_is_there_twice_is_refused_whatever_it_is_for(tmp_path, role):
    doubled = pa.Table.from_arrays([["a"], ["b"], ["c"]], names=["text", "v", "v"])
    with pytest.raises(SchemaError, match=r"a\.parquet has 2 columns named 'v'"):
        planned(tmp_path, {"a.parquet": doubled}, **role)


def test_a_key_must_be_in_every_file(tmp_path):
    with pytest.raises(SchemaError, match=r"b\.parquet has no column 'v'"):
        planned(tmp_path, {"a.parquet": table(v=[1, 2]), "b.parquet": table()}, key=["v"], keep=[])


def test_a_declared_type_is_the_tables_and_is_converted_to(tmp_path):
    files = {"a.parquet": table(v=[1, 2]), "b.parquet": table(v=["3", "x"])}
    (column,) = planned(tmp_path, files, types={"v": "string"}).kept
    assert (column.arrow_type, column.converted) == (STRING, True)
    files = {"a.parquet": table(v=[[1], [2]]), "b.parquet": table(v=[1, 2])}
    with pytest.raises(SchemaError, match=r"'v' is list<.*> in a\.parquet, but int32 in the table"):
        planned(tmp_path / "other", files, types={"v": "int32"})


def test_a_nested_type_can_be_declared_in_sql(tmp_path):
    files = {"a.jsonl": lines([{"p": 1}, {"p": 2.75, "q": ["x"]}])}
    (column,) = planned(tmp_path, files, types={"v": "STRUCT(p DOUBLE, q VARCHAR[2], r DECIMAL(10, 2))[]"}).kept
    assert column.arrow_type == pa.list_(
        pa.struct([("p", DOUBLE), ("q", pa.list_(STRING)), ("r", pa.decimal128(10, 2))])
    )
    for name in ("STRUCT(p)", "decimalish", "INT); DROP TABLE x"):
        with pytest.raises(SchemaError, match=r"dataset\.types\.v = .* is neither an Arrow type nor a type of SQL"):
            planned(tmp_path, {}, types={"v": name})


def test_a_column_without_a_name_is_kept_under_one(tmp_path):
    plan = planned(tmp_path, {"a.csv": b",text\n0,a\n1,b\n"}, keep=[" as index"])
    assert [(column.source, column.name) for column in plan.kept] == [("", "index")]
    with pytest.raises(SchemaError, match="needs one in the table"):
        planned(tmp_path, {}, keep=[""])


def test_a_column_recorded_before_cells_had_to_come_back_goes_on_as_it_was():
    recorded = KeptColumn("v", "v", LONG).to_json()
    assert not KeptColumn.from_json(recorded).converted
    del recorded["cells"]
    assert KeptColumn.from_json(recorded).converted
    # Word for word, or every shard of the lake would have its columns rewritten.
    assert KeptColumn.from_json(recorded).to_json() == recorded
