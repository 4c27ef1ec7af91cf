"""What is kept is what is read: values of every type, through the lake's own commit."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from typing import Any

import pyarrow as pa
import pytest

from tests.lakes import PIPELINE, commit_rows, kept_rows, lake_at
from tests.pipelines import make_pipeline, reviews, write_parquet
from tidemill.errors import SchemaError
from tidemill.formats import KEPT_PREFIX
from tidemill.lake import Lake
from tidemill.lake.tables import lake_type
from tidemill.planning.columns import KeptColumn
from tidemill.planning.plan import make_plan
from tidemill.results.verify import verify_pipeline

DAY, MOMENT = datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4, 5)
TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    **{f"int{n}": (getattr(pa, f"int{n}")(), [-(2 ** (n - 1)), 2 ** (n - 1) - 1]) for n in (8, 16, 32, 64)},
    **{f"uint{n}": (getattr(pa, f"uint{n}")(), [0, 2**n - 1]) for n in (8, 16, 32, 64)},
    "float16": (pa.float16(), [1.5, math.nan, -0.0]),
    "float32": (pa.float32(), [0.1, -math.inf, math.nan, -0.0, 1e-45]),
    "float64": (pa.float64(), [0.1, math.inf, math.nan, -0.0, 5e-324]),
    "bool": (pa.bool_(), [True, False]),
    "string": (
        pa.string(),
        ["O'Brien", "a\\b\n\t", "", "NULL", "a\0b", '{"x": [1]}', "\U0001f600é", " sp ", "CAST('x' AS DATE)"],
    ),
    "large_string": (pa.large_string(), ["O'Brien", ""]),
    "string_view": (pa.string_view(), ["O'Brien, longer than twelve bytes", ""]),
    "binary": (pa.binary(), [b"\x00'\xff\\", b""]),
    "large_binary": (pa.large_binary(), [b"\x00'\xff\\", b""]),
    "fixed_size_binary": (pa.binary(3), [b"\x00'\xff", b"abc"]),
    "date32": (pa.date32(), [DAY, datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]),
    "date64": (pa.date64(), [DAY]),
    "time32": (pa.time32("ms"), [datetime.time(23, 59, 59, 999000)]),
    "time64": (pa.time64("us"), [datetime.time(23, 59, 59, 999999)]),
    "time64_ns": (pa.time64("ns"), [datetime.time(23, 59, 59, 999999)]),
    **{f"timestamp_{unit}": (pa.timestamp(unit), [MOMENT]) for unit in ("s", "ms", "us")},
    "timestamp_ns": (pa.timestamp("ns"), [1_577_934_245_678_901_234]),
    **{
        f"timestamp_{unit}_tz": (pa.timestamp(unit, "Europe/Berlin"), [1_577_934_245 * scale])
        for unit, scale in {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}.items()
    },
    "duration": (pa.duration("us"), [datetime.timedelta(days=-1, microseconds=1)]),
    "decimal128": (pa.decimal128(38, 10), [decimal.Decimal("1234567890123456789012345678.0123456789")]),
    "decimal256": (pa.decimal256(60, 10), [decimal.Decimal("1.5")]),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), ["O'Brien", "b"]),
    "fixed_size_list": (pa.list_(pa.float32(), 2), [[0.5, math.nan]]),
    "month_day_nano": (pa.month_day_nano_interval(), [pa.MonthDayNano([1, -2, 3000])]),
    "null": (pa.null(), [None]),
    "uuid": (pa.uuid(), [uuid.UUID(int=2**128 - 1).bytes]),
}
WRAPS = {
    "alone": (lambda kind: kind, lambda value: value),
    "struct": (lambda kind: pa.struct([("v", kind)]), lambda value: {"v": value}),
    "list": (lambda kind: pa.list_(kind), lambda value: [value, None]),
    "map": (lambda kind: pa.map_(pa.string(), kind), lambda value: [("O'Brien", value)]),
}
REFUSED = {
    *((name, wrap) for name in ("decimal256", "duration", "month_day_nano") for wrap in WRAPS),
    *(("uuid", wrap) for wrap in ("struct", "list", "map")),
}


def column_of(kind: pa.DataType, values: list[Any], wrap: str, num_rows: int) -> pa.ChunkedArray:
    """Values and nulls in turn, in the type and the wrap, as a reader hands them to the lake."""
    wrapped, value_in = WRAPS[wrap]
    cells = [*(value_in(value) for value in values), None]
    few = pa.array(cells, wrapped(kind)).cast(lake_type(wrapped(kind)))
    return pa.chunked_array([few.take(pa.array([i % len(cells) for i in range(num_rows)]))])


def plain(value: Any) -> Any:
    """A value such that equal means the same, NaN and the sign of zero included."""
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(datetime.UTC)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return repr(value) if isinstance(value, float) else str(value) if isinstance(value, uuid.UUID) else value


def kept_table(num_rows: int) -> pa.Table:
    columns = {}
    for name, (kind, values) in TYPES.items():
        for wrap in WRAPS:
            if (name, wrap) not in REFUSED:
                columns[f"{name} {wrap}"] = column_of(kind, values, wrap, num_rows)
    return pa.table(columns)


@pytest.mark.slow
@pytest.mark.parametrize("catalog", ["sqlite", "postgres"])
@pytest.mark.parametrize("sizes", [(1, 50, 51), pytest.param((1, 50, 51, 5_000), marks=pytest.mark.soak)])
def test_a_value_of_any_type_is_read_as_it_was_kept(tmp_path, request, catalog, sizes):
    address = request.getfixturevalue("postgres_catalog") if catalog == "postgres" else None
    spec, kept = lake_at(tmp_path, address), kept_table(sum(sizes))

    commit_rows(spec, kept, sizes)

    found = kept_rows(spec, kept.column_names)
    for name in kept.column_names:
        assert plain(found[name].to_pylist()) == plain(kept[name].to_pylist()), name
    with Lake(spec, read_only=True) as lake:
        assert verify_pipeline(lake, PIPELINE).problems == []


@pytest.mark.parametrize(("name", "wrap"), sorted(REFUSED))
def test_a_type_that_the_lake_cannot_keep_is_refused_with_the_columns_name(name, wrap):
    column = KeptColumn("price", "price", WRAPS[wrap][0](TYPES[name][0]))
    with pytest.raises(SchemaError, match=r"column 'price' has type .* cannot keep.*dataset\.keep"):
        _ = column.type


def test_plan_refuses_such_a_column_before_anything_is_read(tmp_path):
    table = reviews(0, 3).append_column("took", pa.array([1, 2, 3], pa.duration("us")))
    write_parquet(tmp_path / "data" / "part.parquet", table)
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", dataset={"keep": ["took as seconds"]})
    with pytest.raises(SchemaError, match=r"The column 'took' has type duration\[us\], which the lake cannot keep"):
        make_plan(pipeline, None)


def test_what_is_finer_than_the_lake_keeps_goes_to_quarantine(tmp_path):
    seen = pa.array([1_577_934_245_000_000_000, 1_577_934_245_000_000_001, None], pa.timestamp("ns", "UTC"))
    columns = {"seen": seen, "weights": pa.array([[0.5, 1.5]] * 3, pa.list_(pa.float32(), 2))}
    table = pa.table({name: reviews(0, 3)[name] for name in ("id", "text")} | columns)
    write_parquet(tmp_path / "data" / "part.parquet", table)
    pipeline = make_pipeline(tmp_path / "one", f"{tmp_path}/data/*", dataset={"keep": ["seen", "weights"]})
    plan, dataset = make_plan(pipeline, None)
    [file] = plan.files

    rows = dataset.reader(file.file).rows(file.shards[0].slice)

    reasons = rows["reason"].to_pylist()
    assert ([reason is None for reason in reasons], "seen = " in reasons[1]) == ([True, False, True], True)
    assert rows.schema.field(KEPT_PREFIX + "seen").type == pa.timestamp("us", "UTC")
    assert rows[KEPT_PREFIX + "weights"].to_pylist() == [[0.5, 1.5]] * 3
