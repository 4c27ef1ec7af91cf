from __future__ import annotations

import pyarrow as pa
import pytest

from tidemill.errors import SchemaError
from tidemill.values.types import check_fields, check_type, common_type, plain_type

STRUCT = pa.struct([("a", pa.int32()), ("b", pa.string())])


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        (pa.null(), STRUCT, STRUCT),
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.uint32(), pa.int8(), pa.int64()),
        (pa.uint64(), pa.int64(), pa.decimal128(20, 0)),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(10, 2), pa.decimal128(12, 3), pa.decimal128(12, 3)),
        (pa.decimal128(38, 0), pa.decimal128(38, 2), None),
        (pa.decimal128(10, 2), pa.int64(), pa.decimal128(21, 2)),
        (pa.decimal128(10, 2), pa.uint64(), pa.decimal128(22, 2)),
        (pa.decimal128(10, 2), pa.int8(), pa.decimal128(10, 2)),
        (pa.decimal128(38, 30), pa.int32(), None),
        (pa.decimal128(15, 2), pa.float64(), pa.float64()),
        (pa.decimal128(15, 2), pa.float32(), pa.float64()),
        (pa.decimal128(16, 2), pa.float64(), None),
        (pa.list_(pa.decimal128(10, 2)), pa.list_(pa.float64()), None),
        (pa.string(), pa.binary(), pa.string()),
        (pa.binary(2), pa.binary(3), pa.binary()),
        (pa.uuid(), pa.binary(16), pa.binary(16)),
        (pa.uuid(), pa.string(), None),
        (pa.uuid(), pa.binary(), None),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us", "UTC"), pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("ns", "UTC")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
        (pa.string(), pa.int64(), None),
        (pa.bool_(), pa.int64(), None),
        (pa.date32(), pa.timestamp("us"), pa.timestamp("us")),
        (pa.date32(), pa.timestamp("us", "UTC"), None),
        (pa.date32(), pa.date64(), pa.date32()),
        (pa.date32(), pa.int32(), None),
        (pa.time32("ms"), pa.time64("us"), pa.time64("us")),
        (pa.time32("s"), pa.time32("ms"), pa.time32("ms")),
        (pa.time32("s"), pa.timestamp("s"), None),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.int64()), pa.int64(), None),
        (
            STRUCT,
            pa.struct([("c", pa.null()), ("a", pa.int64())]),
            pa.struct([("a", pa.int64()), ("b", pa.string()), ("c", pa.null())]),
        ),
        (STRUCT, pa.struct([("b", pa.int64())]), None),
        (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int16()), pa.map_(pa.string(), pa.int16())),
    ],
    ids=str,
)
def test_two_files_types_have_one_that_holds_both_or_none(a, b, common):
    assert common_type(a, b) == common
    reversed_ = common_type(b, a)
    if common is not None and pa.types.is_struct(common):
        assert reversed_ is not None
        assert {field.name: field.type for field in reversed_} == {field.name: field.type for field in common}
    else:
        assert reversed_ == common


def fixed(item: pa.DataType) -> pa.DataType:
    return pa.list_(item, 2)


@pytest.mark.parametrize(
    ("type_", "plain"),
    [
        (fixed(pa.float16()), pa.list_(pa.float32())),
        (pa.struct([("v", fixed(pa.int8()))]), pa.struct([("v", pa.list_(pa.int8()))])),
        (pa.large_list(fixed(pa.int8())), pa.large_list(pa.list_(pa.int8()))),
        (pa.map_(pa.string(), fixed(pa.float16())), pa.map_(pa.string(), pa.list_(pa.float32()))),
        (pa.struct([pa.field("a", pa.int8(), nullable=False)]), pa.struct([("a", pa.int8())])),
        (pa.list_(pa.large_string()), pa.list_(pa.large_string())),
        (pa.list_(pa.dictionary(pa.int8(), pa.string_view())), pa.list_(pa.string())),
        (pa.struct([("b", pa.binary_view())]), pa.struct([("b", pa.binary())])),
        (pa.list_(pa.uuid()), pa.list_(pa.binary(16))),
        (pa.uuid(), pa.uuid()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.string()),
    ],
    ids=str,
)
def test_what_the_lake_has_no_type_for_is_widened_at_any_depth(type_, plain):
    assert plain_type(type_) == plain


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        (pa.struct([]), "'m' holds objects without fields at 'm', as {}. Way out."),
        (pa.struct([("deep", pa.list_(pa.struct([])))]), "without fields at 'm.deep[]'"),
        (pa.struct([("Material", pa.int8()), ("material", pa.int8())]), "'Material' and 'material', which"),
        (pa.map_(pa.string(), pa.struct([("a", pa.int8()), ("A", pa.int8())])), "'m[]' has the fields 'a' and 'A'"),
        (pa.struct([("z", pa.int8()), ("z", pa.int8())]), "'m' has 2 columns named 'z'"),
    ],
    ids=str,
)
def test_fields_that_the_lake_cannot_tell_apart_are_refused_by_path(type_, said):
    with pytest.raises(SchemaError) as refused:
        check_fields("m", type_, "Way out.")
    assert said in str(refused.value)


def test_a_file_may_lack_what_the_table_has_but_not_have_more():
    check_type("m", pa.struct([("b", pa.null())]), STRUCT, "a.parquet", declared=False)
    check_type("m", pa.int64(), pa.string(), "a.parquet", declared=True)
    for type_, expected, declared in [
        (pa.struct([("c", pa.int8())]), STRUCT, False),
        (pa.struct([("c", pa.int8())]), STRUCT, True),
        (pa.int64(), pa.int32(), False),
        (pa.int64(), pa.string(), False),
        (pa.list_(pa.int64()), pa.int64(), True),
    ]:
        with pytest.raises(SchemaError, match=r"column 'm' is .* in a\.parquet, but .* in the table.*dataset\.types"):
            check_type("m", type_, expected, "a.parquet", declared=declared)
