"""Two files of one dataset that differ, in either order: their union by name, or a refusal that names the column."""

from __future__ import annotations

import datetime
import decimal
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipelines import make_pipeline, write_parquet
from tidemill.errors import SchemaError
from tidemill.planning.columns import KeptColumn, check_names, read_columns, settle_columns
from tidemill.planning.versions import VersionSpec, declared
from tidemill.sources.dataset import MAX_LOOKED_AT, Dataset, open_dataset
from tidemill.values.columns import HEAD_BYTES, JoinedText

Content = Any
"""Of a file: bytes, or an Arrow table for Parquet."""


class Quarantined(str):
    """Words of the reason why a row is in quarantine."""


class Refused(tuple[str, ...]):
    """Words of the refusal, before anything is read but heads and footers."""


def parquet(values: Sequence[Any], type_: pa.DataType | None = None, name: str = "v") -> pa.Table:
    return pa.table({"text": ["t"] * len(values), name: pa.array(values, type_)})


def csv(*cells: str, name: str = "v") -> bytes:
    return "".join([f"text,{name}\n", *(f"t,{cell}\n" for cell in cells)]).encode()


def jsonl(*values: str, name: str = "v") -> bytes:
    return "".join(f'{{"text": "t", "{name}": {value}}}\n' for value in values).encode()


DATE, MOMENT = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3)
DECIMAL = decimal.Decimal
STRUCT, LIST = pa.struct, pa.list_
WORDS = Refused(["'v' is", "dataset.types", "dataset.keep"])

Drift = tuple[str, Content, Content, str | Refused, list[Any], list[Any]]
"""The kind; the two files; the column's type in the table, or words of the refusal; the first file's cells, and the
second's."""

PARQUET: list[Drift] = [
    ("missing", parquet([1]), pa.table({"text": ["t"]}), "BIGINT", [1], [None]),
    ("null-typed", parquet(["x"]), parquet([None]), "VARCHAR", ["x"], [None]),
    ("nulls only", parquet([1.5]), parquet([None], pa.float64()), "DOUBLE", [1.5], [None]),
    ("int32 and int64", parquet([1], pa.int32()), parquet([2**40]), "BIGINT", [1], [2**40]),
    ("int and double", parquet([1]), parquet([2.5]), "DOUBLE", [1.0], [2.5]),
    ("int and float", parquet([2**24 + 1], pa.int32()), parquet([0.5], pa.float32()), "DOUBLE", [2**24 + 1], [0.5]),
    (
        "int beyond 2^53 and double",
        parquet([2**53 + 1]),
        parquet([2.5]),
        "DOUBLE",
        [Quarantined("v = 9007199254740993 is not double")],
        [2.5],
    ),
    (
        "int64 and uint64",
        parquet([-1]),
        parquet([2**63 + 1], pa.uint64()),
        "DECIMAL(20,0)",
        [DECIMAL(-1)],
        [DECIMAL(2**63 + 1)],
    ),
    ("int and beyond 64 bits", parquet([1]), parquet([DECIMAL(2**70)]), "DECIMAL(22,0)", [1], [DECIMAL(2**70)]),
    ("float and double", parquet([1.5], pa.float32()), parquet([0.1]), "DOUBLE", [1.5], [0.1]),
    ("half and float", parquet([1.5], pa.float16()), parquet([0.25], pa.float32()), "FLOAT", [1.5], [0.25]),
    ("bool and int", parquet([True]), parquet([1]), WORDS, [], []),
    ("bool and text", parquet([True]), parquet(["true"]), WORDS, [], []),
    ("int and text", parquet([7]), parquet(["007"]), WORDS, [], []),
    ("double and text", parquet([1.5]), parquet(["x"]), WORDS, [], []),
    ("string and large string", parquet(["a"]), parquet(["b"], pa.large_string()), "VARCHAR", ["a"], ["b"]),
    ("string and view", parquet(["a"]), parquet(["b"], pa.string_view()), "VARCHAR", ["a"], ["b"]),
    (
        "string and dictionary",
        parquet(["a"]),
        parquet(["b"], pa.dictionary(pa.int8(), pa.string())),
        "VARCHAR",
        ["a"],
        ["b"],
    ),
    (
        "string and bytes",
        parquet(["a"]),
        parquet([b"b", b"\xff"]),
        "VARCHAR",
        ["a"],
        ["b", Quarantined("v is not valid UTF-8 at byte 0")],
    ),
    ("bytes of two lengths", parquet([b"ab"], pa.binary(2)), parquet([b"c"], pa.binary(1)), "BLOB", [b"ab"], [b"c"]),
    ("date and timestamp", parquet([DATE]), parquet([MOMENT]), "TIMESTAMP", [datetime.datetime(2024, 1, 2)], [MOMENT]),
    (
        "timestamps of two units",
        parquet([MOMENT], pa.timestamp("ms")),
        parquet([MOMENT], pa.timestamp("us")),
        "TIMESTAMP",
        [MOMENT],
        [MOMENT],
    ),
    (
        "a timestamp that nanoseconds do not reach",
        parquet([2**60], pa.timestamp("us")),
        parquet([None], pa.timestamp("ns")),
        "TIMESTAMP_NS",
        [Quarantined("out of range")],
        [None],
    ),
    ("with and without time zone", parquet([MOMENT], pa.timestamp("us", "UTC")), parquet([MOMENT]), WORDS, [], []),
    (
        "times of two units",
        parquet([datetime.time(1)], pa.time32("ms")),
        parquet([datetime.time(2)]),
        "TIME",
        [datetime.time(1)],
        [datetime.time(2)],
    ),
    (
        "decimals",
        parquet([DECIMAL("1.5")]),
        parquet([DECIMAL("100.25")]),
        "DECIMAL(5,2)",
        [DECIMAL("1.50")],
        [DECIMAL("100.25")],
    ),
    ("decimal and int", parquet([DECIMAL("1.5")]), parquet([3]), "DECIMAL(20,1)", [DECIMAL("1.5")], [DECIMAL(3)]),
    ("decimal and double", parquet([DECIMAL("0.3")]), parquet([2.5]), "DOUBLE", [0.3], [2.5]),
    ("decimals too wide", parquet([1], pa.decimal128(38, 0)), parquet([1], pa.decimal128(38, 10)), WORDS, [], []),
    (
        "fields in another order",
        parquet([{"a": 1, "b": "x"}]),
        parquet([{"b": "y", "a": 2}]),
        "STRUCT(a BIGINT, b VARCHAR)",
        [{"a": 1, "b": "x"}],
        [{"a": 2, "b": "y"}],
    ),
    (
        "a field more",
        parquet([{"a": 1}]),
        parquet([{"a": 2, "b": "y"}]),
        "STRUCT(a BIGINT, b VARCHAR)",
        [{"a": 1, "b": None}],
        [{"a": 2, "b": "y"}],
    ),
    (
        "a field widened, deep",
        parquet([{"a": {"x": 1}}]),
        parquet([{"a": {"x": 1.5, "y": [{"z": 1}]}}]),
        "STRUCT(a STRUCT(x DOUBLE, y STRUCT(z BIGINT)[]))",
        [{"a": {"x": 1.0, "y": None}}],
        [{"a": {"x": 1.5, "y": [{"z": 1}]}}],
    ),
    ("a field of another kind", parquet([{"a": 1}]), parquet([{"a": "x"}]), WORDS, [], []),
    ("fields that differ in case", parquet([{"a": 1}]), parquet([{"A": 1}]), Refused(["'v' has the fields"]), [], []),
    ("struct and text", parquet([{"a": 1}]), parquet(["x"]), WORDS, [], []),
    ("lists of int and double", parquet([[1]]), parquet([[2.5]]), "DOUBLE[]", [[1.0]], [[2.5]]),
    ("an empty list", parquet([[]]), parquet([["x"]]), "VARCHAR[]", [[]], [["x"]]),
    (
        "lists of a size and of any",
        parquet([[1, 2]], LIST(pa.int32(), 2)),
        parquet([[1, 2, 3]]),
        "BIGINT[]",
        [[1, 2]],
        [[1, 2, 3]],
    ),
    (
        "lists of structs",
        parquet([[{"a": 1}]]),
        parquet([[{"b": 2, "a": 1.5}]]),
        "STRUCT(a DOUBLE, b BIGINT)[]",
        [[{"a": 1.0, "b": None}]],
        [[{"a": 1.5, "b": 2}]],
    ),
    ("list and scalar", parquet([[1]]), parquet([1]), WORDS, [], []),
    (
        "maps",
        parquet([[("a", 1)]], pa.map_(pa.string(), pa.int32())),
        parquet([[("a", 2**40)]], pa.map_(pa.string(), pa.int64())),
        "MAP(VARCHAR, BIGINT)",
        [[("a", 1)]],
        [[("a", 2**40)]],
    ),
    ("a name in another case", parquet([1]), parquet([2], name="V"), "BIGINT", [1], [None]),
    ("no rows", parquet(["x"]), parquet([], pa.float64()), "VARCHAR", ["x"], []),
    ("text missing", parquet([1]), pa.table({"v": [1]}), Refused(["no column 'text'", "dataset.text"]), [], []),
    (
        "text in another case",
        parquet([1]),
        pa.table({"v": [1], "Text": ["t"]}),
        Refused(["no column 'text'", "Text"]),
        [],
        [],
    ),
    (
        "text that is null",
        parquet([1]),
        pa.table({"v": [1], "text": pa.nulls(1)}),
        "BIGINT",
        [1],
        [Quarantined("text is null")],
    ),
    (
        "text that is numbers",
        parquet([1]),
        pa.table({"v": [1], "text": [5]}),
        Refused(["'text' has type int64"]),
        [],
        [],
    ),
    (
        "text that is bytes",
        parquet([1]),
        pa.table({"v": [1, 2], "text": [b"t", b"\xff"]}),
        "BIGINT",
        [1],
        [1, Quarantined("text is not valid UTF-8")],
    ),
]

CSV: list[Drift] = [
    ("missing", csv("1"), b"text\nt\n", "BIGINT", [1], [None]),
    ("empty cells", csv("1"), csv(""), "BIGINT", [1], [None]),
    ("int and larger int", csv("1"), csv("1099511627776"), "BIGINT", [1], [2**40]),
    ("int and double", csv("1", "2"), csv("2.5", "3"), "DOUBLE", [1.0, 2.0], [2.5, 3.0]),
    (
        "int beyond 2^53 and double",
        csv("9007199254740993"),
        csv("2.5"),
        "VARCHAR",
        ["9007199254740993"],
        ["2.5"],
    ),
    ("int and beyond 64 bits", csv("1"), csv("1180591620717411303424"), "VARCHAR", ["1"], ["1180591620717411303424"]),
    ("int and leading zero", csv("7"), csv("007"), "VARCHAR", ["7"], ["007"]),
    ("int and quoted int", csv("7"), csv('"8"'), "BIGINT", [7], [8]),
    ("int and text", csv("7"), csv("x"), "VARCHAR", ["7"], ["x"]),
    ("double and exponent", csv("2.5"), csv("1e5"), "VARCHAR", ["2.5"], ["1e5"]),
    ("double and trailing zero", csv("2.5"), csv("1.10"), "VARCHAR", ["2.5"], ["1.10"]),
    ("bool and int", csv("true"), csv("1"), "VARCHAR", ["true"], ["1"]),
    ("bool and text", csv("true"), csv("yes"), "VARCHAR", ["true"], ["yes"]),
    ("date and timestamp", csv("2024-01-02"), csv("2024-01-02 03:00:00"), "VARCHAR", ["2024-01-02"], [f"{MOMENT}"]),
    (
        "timestamps of two units",
        csv("2024-01-02 03:00:00"),
        csv("2024-01-02 03:00:00.5"),
        "TIMESTAMP",
        [MOMENT],
        [MOMENT.replace(microsecond=500_000)],
    ),
    ("a name in another case", csv("1"), csv("2", name="V"), "BIGINT", [1], [None]),
    ("no records", csv("1.5"), csv(), "DOUBLE", [1.5], []),
    ("no bytes", csv("1.5"), b"", "DOUBLE", [1.5], []),
    ("columns in another order", csv("1"), b"v,text\n2,t\n", "BIGINT", [1], [2]),
    ("text missing", csv("1"), b"v\n1\n", Refused(["no column 'text'", "dataset.text"]), [], []),
    ("text in another case", csv("1"), b"Text,v\nt,1\n", Refused(["no column 'text'", "Text"]), [], []),
    ("text that is numbers", csv("1"), b"text,v\n5,2\n", "BIGINT", [1], [2]),
]

JSONL: list[Drift] = [
    ("missing", jsonl("1"), b'{"text": "t"}\n', "BIGINT", [1], [None]),
    ("nulls only", jsonl("1"), jsonl("null"), "BIGINT", [1], [None]),
    ("int and larger int", jsonl("1"), jsonl("1099511627776"), "BIGINT", [1], [2**40]),
    ("int and double", jsonl("1"), jsonl("2.5", "3"), "DOUBLE", [1.0], [2.5, 3.0]),
    (
        "int beyond 2^53 and double",
        jsonl("9007199254740993"),
        jsonl("2.5"),
        "VARCHAR",
        ["9007199254740993"],
        ["2.5"],
    ),
    (
        "int beyond 2^53 and double, deep",
        jsonl('{"a": [9007199254740993]}'),
        jsonl('{"a": [2.5]}'),
        "VARCHAR",
        ['{"a": [9007199254740993]}'],
        ['{"a": [2.5]}'],
    ),
    ("int and beyond 64 bits", jsonl("1"), jsonl("1180591620717411303424"), "VARCHAR", ["1"], [f"{2**70}"]),
    ("int and quoted leading zero", jsonl("7"), jsonl('"007"'), "VARCHAR", ["7"], ["007"]),
    ("int and text", jsonl("7"), jsonl('"x"'), "VARCHAR", ["7"], ["x"]),
    ("bool and int", jsonl("true"), jsonl("1"), "VARCHAR", ["true"], ["1"]),
    ("bool and double", jsonl("true"), jsonl("1.5"), "VARCHAR", ["true"], ["1.5"]),
    ("bool and text", jsonl("true"), jsonl('"x"'), "VARCHAR", ["true"], ["x"]),
    ("date and timestamp", jsonl('"2024-01-02"'), jsonl(f'"{MOMENT}"'), "VARCHAR", ["2024-01-02"], [f"{MOMENT}"]),
    (
        "fields in another order",
        jsonl('{"a": 1, "b": "x"}'),
        jsonl('{"b": "y", "a": 2}'),
        "STRUCT(a BIGINT, b VARCHAR)",
        [{"a": 1, "b": "x"}],
        [{"a": 2, "b": "y"}],
    ),
    (
        "a field more",
        jsonl('{"a": 1}'),
        jsonl('{"a": 2, "b": "y"}'),
        "STRUCT(a BIGINT, b VARCHAR)",
        [{"a": 1, "b": None}],
        [{"a": 2, "b": "y"}],
    ),
    (
        "a field widened, deep",
        jsonl('{"a": {"x": 1}}'),
        jsonl('{"a": {"x": 1.5, "y": [{"z": 1}]}}'),
        "STRUCT(a STRUCT(x DOUBLE, y STRUCT(z BIGINT)[]))",
        [{"a": {"x": 1.0, "y": None}}],
        [{"a": {"x": 1.5, "y": [{"z": 1}]}}],
    ),
    (
        "a field of another kind",
        jsonl('{"a": 1}'),
        jsonl('{"a": "007"}'),
        "VARCHAR",
        ['{"a": 1}'],
        ['{"a": "007"}'],
    ),
    ("an object without fields", jsonl("{}"), jsonl('{"a": 1}'), "STRUCT(a BIGINT)", [{"a": None}], [{"a": 1}]),
    ("fields that differ in case", jsonl('{"a": 1}'), jsonl('{"A": 1}'), Refused(["'v'", "dataset.types.v"]), [], []),
    ("struct and text", jsonl('{"a": 1}'), jsonl('"x"'), "VARCHAR", ['{"a": 1}'], ["x"]),
    ("lists of int and double", jsonl("[1]"), jsonl("[2.5]"), "DOUBLE[]", [[1.0]], [[2.5]]),
    ("an empty list", jsonl("[]"), jsonl('["x"]'), "VARCHAR[]", [[]], [["x"]]),
    (
        "lists of structs",
        jsonl('[{"a": 1}]'),
        jsonl('[{"b": 2, "a": 1.5}]'),
        "STRUCT(a DOUBLE, b BIGINT)[]",
        [[{"a": 1.0, "b": None}]],
        [[{"a": 1.5, "b": 2}]],
    ),
    ("list and scalar", jsonl("[1]"), jsonl("1"), "VARCHAR", ["[1]"], ["1"]),
    ("a name in another case", jsonl("1"), jsonl("2", name="V"), "BIGINT", [1], [None]),
    ("no bytes", jsonl("1.5"), b"", "DOUBLE", [1.5], []),
    ("blank lines alone", jsonl("1.5"), b"\n \n", "DOUBLE", [1.5], []),
    ("text missing", jsonl("1"), b'{"v": 1}\n', Refused(["no column 'text'", "dataset.text"]), [], []),
    ("text that is null", jsonl("1"), b'{"text": null, "v": 1}\n', "BIGINT", [1], [Quarantined("text is null")]),
    ("text that is numbers", jsonl("1"), b'{"text": 5, "v": 1}\n', Refused(["'text' has type int64"]), [], []),
]

KEYS: list[Drift] = [
    ("key missing", parquet([1]), pa.table({"text": ["t"]}), Refused(["no column 'v'", "dataset.key"]), [], []),
    ("key missing", csv("1"), b"text\nt\n", Refused(["no column 'v'", "dataset.key"]), [], []),
    ("key missing", jsonl("1"), b'{"text": "t"}\n', Refused(["no column 'v'", "dataset.key"]), [], []),
    ("key of nulls", parquet([1]), parquet([None]), "BIGINT", [1], [None]),
    ("key widened", parquet([1], pa.int32()), parquet([2**40]), "BIGINT", [1], [2**40]),
    ("key of int and text", parquet([1]), parquet(["a"]), WORDS, [], []),
    ("key of int and text", csv("1"), csv("a"), "VARCHAR", ["1"], ["a"]),
    ("key of int and text", jsonl("1"), jsonl('"a"'), "VARCHAR", ["1"], ["a"]),
    ("key of int and double", csv("1"), csv("1.0"), "VARCHAR", ["1"], ["1.0"]),
    ("key of int and double", jsonl("1"), jsonl("2.5"), "DOUBLE", [1.0], [2.5]),
]


def dataset_of(folder: Path, contents: Sequence[Content], **options: Any) -> tuple[Dataset, tuple[KeptColumn, ...]]:
    """The dataset of files `00`, `01`, ..., and its kept columns, as a plan settles them."""
    for number, content in enumerate(contents):
        folder.mkdir(exist_ok=True)
        if isinstance(content, pa.Table):
            write_parquet(folder / f"{number:02}.parquet", content)
        else:
            ending = "jsonl" if any(other[:1] in (b"{", b"[") for other in contents) else "csv"
            (folder / f"{number:02}.{ending}").write_bytes(content)
    pipeline = make_pipeline(folder, f"{folder}/*", dataset={"key": [], "keep": [], **options})
    dataset = open_dataset(pipeline, JoinedText(tuple(pipeline.dataset.text), "\n"))
    check_names(pipeline)
    kept, columns = settle_columns(pipeline, spec_of_any(), dataset, None, None)
    dataset.use(columns)
    for file in dataset.files:
        dataset.check_file(file, [(column.source, column.arrow_type) for column in kept])
        if dataset.cut_from_footer:
            list(dataset.reader(file).slices(shard_bytes=2**24))
    return dataset, kept


@functools.cache
def spec_of_any() -> VersionSpec:
    return declared(make_pipeline(Path(), ""))


def cells_of(dataset: Dataset) -> list[list[Any]]:
    """The kept column's cells, file by file; reasons of the rows in quarantine."""
    return [
        [Quarantined(row["reason"]) if row["reason"] else row["kept.v"] for row in rows_of(dataset, number)]
        for number in range(len(dataset.files))
    ]


def rows_of(dataset: Dataset, number: int) -> list[dict[str, Any]]:
    reader = dataset.reader(dataset.files[number])
    return [row for cut in reader.slices(shard_bytes=2**24) for row in reader.rows(cut).to_pylist()]


def assert_cells(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for cell, wanted in zip(found, expected, strict=True):
        if isinstance(wanted, Quarantined):
            assert isinstance(cell, Quarantined)
            assert wanted in cell
        else:
            assert (cell, type(cell)) == (wanted, type(wanted)) or (cell == wanted and not isinstance(wanted, str))


def fields(kind: str) -> list[str]:
    """What a type is made of, in no order: two files in the other order have the other's fields first."""
    return sorted(kind.replace("(", " ").replace(")", " ").replace(",", " ").split())


def named(drifts: list[Drift], **options: Any) -> list[Any]:
    formats = {pa.Table: "parquet", bytes: "text"}
    return [
        pytest.param(drift, options, id=f"{drift[0]} {formats[type(drift[1])]} {number}")
        for number, drift in enumerate(drifts)
    ]


ALL = [*named([*PARQUET, *CSV, *JSONL], keep=["v"]), *named(KEYS, key=["v"])]


@pytest.mark.parametrize(("drift", "options"), ALL)
def test_two_files_that_differ_are_united_by_name_or_refused_in_either_order(tmp_path, drift, options):
    _, first, second, expected, *cells = drift
    for folder, order in ((tmp_path / "one", slice(None)), (tmp_path / "other", slice(None, None, -1))):
        contents = [first, second][order]
        if isinstance(expected, Refused):
            with pytest.raises(SchemaError) as refused:
                dataset_of(folder, contents, **options)
            assert all(words in str(refused.value) for words in expected), refused.value
            continue
        dataset, (column,) = dataset_of(folder, contents, **options)
        assert fields(column.type) == fields(expected)
        for found, wanted in zip(cells_of(dataset), cells[order], strict=True):
            assert_cells(found, wanted)


def test_a_column_whose_name_differs_in_case_alone_is_named_in_the_notes(tmp_path):
    dataset, _ = dataset_of(tmp_path, [csv("1"), csv("2", name="V"), csv("3", name=" v")], keep=["v"])
    assert [note for note in dataset.notes if "another name" in note] == [
        "1 file has no column 'v', but 'V', which is another name: 'v' is null there (01.csv).",
        "1 file has no column 'v', but ' v', which is another name: 'v' is null there (02.csv).",
    ]


def test_every_local_file_says_what_it_has_before_anything_is_computed(tmp_path):
    number = MAX_LOOKED_AT + 20
    few = [csv("1") for _ in range(number)]
    few[30] = csv("2.5")
    _, (column,) = dataset_of(tmp_path / "one", few, keep=["v"])
    assert column.arrow_type == pa.float64()
    few[31] = b"body,v\nt,1\n"
    with pytest.raises(SchemaError, match=r"31\.csv has no column 'text'"):
        dataset_of(tmp_path / "two", few, keep=["v"])
    with pytest.raises(SchemaError, match=r"31\.csv has no column 'text'"):
        dataset_of(tmp_path / "three", few)


def test_of_files_that_are_not_local_some_are_looked_at_and_one_where_nothing_is_kept(tmp_path):
    contents = [csv("1"), csv("2.5"), b"body\nt\n"]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.csv").write_bytes(content)
    address = {"path": f"file://{tmp_path}/*.csv"}
    dataset, _ = dataset_of(tmp_path, [], **address)
    assert [len(rows_of(dataset, number)) for number in (0, 1)] == [1, 1]
    with pytest.raises(SchemaError, match=r"2\.csv has no column 'text'"):
        rows_of(dataset, 2)
    with pytest.raises(SchemaError, match=r"2\.csv has no column 'text'"):
        dataset_of(tmp_path, [], keep=["v"], **address)


def test_of_many_files_less_of_each_is_looked_at(tmp_path):
    few, _ = dataset_of(tmp_path / "few", [csv("1")] * 2)
    many, _ = dataset_of(tmp_path / "many", [csv("1")] * (2 * MAX_LOOKED_AT))
    assert few.columns((), {}).head_bytes == HEAD_BYTES
    assert many.columns((), {}).head_bytes == HEAD_BYTES // 2


def test_a_column_that_is_text_and_kept_has_one_type_in_all_files(tmp_path):
    bytes_, text = pa.table({"text": [b"t"]}), pa.table({"text": ["u"]})
    for folder, contents in ((tmp_path / "one", [bytes_, text]), (tmp_path / "other", [text, bytes_])):
        dataset, (column,) = dataset_of(folder, contents, keep=["text as v"])
        assert column.type == "VARCHAR"
        assert sorted(cell for cells in cells_of(dataset) for cell in cells) == ["t", "u"]


@pytest.mark.parametrize(
    ("name", "first", "second", "said"),
    [
        ("jsonl", jsonl("1"), jsonl("2", "2.5"), "'v' has values that are not int64"),
        ("jsonl", jsonl('{"a": 1}'), jsonl('{"b": 1}'), "'v' has values that are not struct<a: int64>"),
        ("jsonl", jsonl("[1]"), jsonl("[2.5]"), "'v' has values that are not list<item: int64>"),
        ("csv", csv("7"), csv("007"), "'v' has values that are not int64"),
        ("csv", csv("2.5"), csv("3"), None),
        ("jsonl", jsonl('"x"'), jsonl("5"), None),
    ],
)
def test_what_the_type_of_a_tables_column_does_not_hold_is_noted_for_new_files(tmp_path, name, first, second, said):
    _, kept = dataset_of(tmp_path, [first], keep=["v"])
    (tmp_path / f"01.{name}").write_bytes(second)
    spec = make_pipeline(tmp_path, f"{tmp_path}/*.{name}", dataset={"key": [], "keep": ["v"]})
    later = open_dataset(spec, JoinedText(("text",), "\n"))
    later.use(read_columns(later, kept, 0))
    for file in later.files:
        later.check_file(file, [])
    assert [note.partition(", which the table has")[0] for note in later.notes] == (
        [f"01.{name}: {said}"] if said else []
    )
    reasons = [row["reason"] for row in rows_of(later, 1) if row["reason"]]
    assert bool(reasons) == bool(said)
    assert all("dataset.types can settle" in reason for reason in reasons)
