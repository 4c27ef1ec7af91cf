"""The types of kept columns: which one holds the values of several files without changing any."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from tidemill.errors import SchemaError

_MOST_DECIMAL_DIGITS = 38
_DIGITS_IN_DOUBLE = 15
"""So many digits of any decimal come back from a double."""
_DIGITS_OF_INTEGER = {8: 3, 16: 5, 32: 10}


def is_string(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def is_binary(type_: pa.DataType) -> bool:
    is_type = pa.types
    return bool(is_type.is_binary(type_) or is_type.is_large_binary(type_) or is_type.is_fixed_size_binary(type_))


def is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_))


def plain_type(type_: pa.DataType) -> pa.DataType:
    """How cells are handed on: without large offsets at the top, which may be a UUID.

    At any depth, extensions are what they are stored as, dictionaries and views
    what they hold, what the lake has no type for is widened (lists of a fixed
    size to lists, float16 to float32), and every field of a struct may be null.
    """
    if isinstance(type_, pa.UuidType):
        return type_
    plain = _widened(type_)
    if pa.types.is_large_string(plain):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(plain) else plain


def _widened(type_: pa.DataType) -> pa.DataType:
    if isinstance(type_, pa.BaseExtensionType):
        return _widened(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return _widened(type_.value_type)
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_float16(type_):
        return pa.float32()
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return pa.list_(_widened(type_.value_type))
    if pa.types.is_large_list(type_):
        return pa.large_list(_widened(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _widened(field.type)) for field in type_])
    if pa.types.is_map(type_):
        return pa.map_(_widened(type_.key_type), _widened(type_.item_type))
    return type_


def without_nulls(type_: pa.DataType) -> pa.DataType:
    """A type seen only as null, at any depth, may well become strings later."""
    if pa.types.is_null(type_):
        return pa.string()
    if is_list(type_):
        return pa.list_(without_nulls(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, without_nulls(field.type)) for field in type_])
    if pa.types.is_map(type_):
        return pa.map_(without_nulls(type_.key_type), without_nulls(type_.item_type))
    return type_


def common_type(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The least type that holds the values of both plain types; None if there is none.

    A double holds an integer column's values up to 2^53, a string the bytes that
    are UTF-8: beyond, the cast is refused cell by cell. Fields of structs keep
    their order, those of `a` first.

    >>> common_type(pa.int16(), pa.uint16())
    DataType(int32)
    """
    decimal, other = (a, b) if pa.types.is_decimal(a) else (b, a)
    if pa.types.is_decimal(decimal) and pa.types.is_floating(other):
        # Not within lists and structs: `settled` converts decimals without error at the top alone.
        return pa.float64() if decimal.precision <= _DIGITS_IN_DOUBLE else None
    return _common(a, b)


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a.equals(b) or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if is_list(a) and is_list(b):
        item = _common(a.value_type, b.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return _common_struct(a, b)
    if pa.types.is_map(a) and pa.types.is_map(b):
        key, item = _common(a.key_type, b.key_type), _common(a.item_type, b.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    return _common_text(a, b) or _common_time(a, b) or _common_number(a, b)


def check_type(name: str, type_: pa.DataType, expected: pa.DataType, path: str, *, declared: bool) -> None:
    """Check that a file's column becomes the table's type: as it is or widened, or if it is declared, by conversion.

    Raises:
        SchemaError: it does not.
    """
    becomes = _converts(type_, expected) if declared else _holds(expected, type_)
    if not becomes:
        raise SchemaError(
            f"The column {name!r} is {type_} in {path}, but {expected} in the table. Write the files with one type, "
            f"settle it by dataset.types, or leave {name!r} out of dataset.keep and dataset.key."
        )


def _holds(type_: pa.DataType, other: pa.DataType) -> bool:
    plain = plain_type(type_)
    common = common_type(plain, plain_type(other))
    return common is not None and bool(plain.equals(common))


def _converts(type_: pa.DataType, to: pa.DataType) -> bool:
    plain = plain_type(type_)
    if isinstance(plain, pa.UuidType):
        return to.equals(plain) or is_binary(to)
    if pa.types.is_list_view(plain) or pa.types.is_large_list_view(plain):
        return False  # Arrow 26 makes invalid lists of them
    try:
        pa.array([], plain).cast(plain_type(to))
    except pa.ArrowException:
        return False
    return not drops_fields(type_, to)


def drops_fields(type_: pa.DataType, to: pa.DataType) -> bool:
    """Whether structs of `type_`, at any depth, have fields that those of `to` lack."""
    if pa.types.is_struct(type_) and pa.types.is_struct(to):
        fields = {field.name: field.type for field in to}
        return any(field.name not in fields or drops_fields(field.type, fields[field.name]) for field in type_)
    if is_list(type_) and is_list(to):
        return drops_fields(type_.value_type, to.value_type)
    if pa.types.is_map(type_) and pa.types.is_map(to):
        return drops_fields(type_.key_type, to.key_type) or drops_fields(type_.item_type, to.item_type)
    return False


def _common_struct(a: pa.StructType, b: pa.StructType) -> pa.DataType | None:
    if len(set(a.names)) < len(a.names) or len(set(b.names)) < len(b.names):
        return None
    fields = {field.name: field.type for field in a}
    for field in b:
        common = _common(fields.get(field.name, pa.null()), field.type)
        if common is None:
            return None
        fields[field.name] = common
    return pa.struct(list(fields.items()))


def _common_text(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """Of strings and bytes; a UUID is sixteen bytes, and nothing that a longer or a shorter column would show."""
    types = (a, b)
    if any(isinstance(type_, pa.UuidType) for type_ in types):
        return next((type_ for type_ in types if type_.equals(pa.binary(16))), None)
    if all(map(is_string, types)):
        return a
    if not all(is_string(type_) or is_binary(type_) for type_ in types):
        return None
    return pa.string() if any(map(is_string, types)) else pa.binary()


def _common_time(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_date(a) and pa.types.is_date(b):
        return pa.date32()
    if pa.types.is_time(a) and pa.types.is_time(b):
        unit = _finer(a.unit, b.unit)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    moment, other = (a, b) if pa.types.is_timestamp(a) else (b, a)
    if not pa.types.is_timestamp(moment):
        return None
    if pa.types.is_date(other):  # its midnight, which no time zone is known for
        return moment if moment.tz is None else None
    return _common_timestamp(moment, other) if pa.types.is_timestamp(other) else None


def _common_timestamp(a: pa.TimestampType, b: pa.TimestampType) -> pa.DataType | None:
    """The finer unit; with and without a time zone are not the same kind of time."""
    if (a.tz is None) != (b.tz is None):
        return None
    return pa.timestamp(_finer(a.unit, b.unit), a.tz if a.tz == b.tz else "UTC")


def _finer(a: str, b: str) -> str:
    return max(a, b, key=("s", "ms", "us", "ns").index)


def _common_number(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return _common_integer(a, b)
    if pa.types.is_floating(a) and pa.types.is_floating(b):
        return max(a, b, key=lambda type_: type_.bit_width)
    digits_a, digits_b = _digits(a), _digits(b)
    if digits_a and digits_b:
        scale = max(digits_a[1], digits_b[1])
        digits = max(digits_a[0], digits_b[0]) + scale
        return pa.decimal128(digits, scale) if digits <= _MOST_DECIMAL_DIGITS else None
    kinds = (pa.types.is_integer, pa.types.is_floating)
    mixed = all(any(is_kind(type_) for type_ in (a, b)) for is_kind in kinds)
    return pa.float64() if mixed else None


def _digits(type_: pa.DataType) -> tuple[int, int] | None:
    """How many digits a decimal or an integer has before its point and behind it."""
    if pa.types.is_decimal(type_):
        return type_.precision - type_.scale, type_.scale
    if pa.types.is_integer(type_):
        return _DIGITS_OF_INTEGER.get(type_.bit_width, 19 if pa.types.is_signed_integer(type_) else 20), 0
    return None


def _common_integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):
        return max(a, b, key=lambda type_: type_.bit_width)
    signed, unsigned = (a, b) if pa.types.is_signed_integer(a) else (b, a)
    width = max(signed.bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(width, pa.decimal128(20, 0))


def check_fields(name: str, type_: pa.DataType, way_out: str) -> None:
    """Check that the lake can tell the fields of a kept column's structs apart, and that they have any.

    Raises:
        SchemaError: it cannot; `way_out` ends the message.
    """
    for path, struct in _structs(name, type_):
        names = struct.names
        if not names:
            raise SchemaError(f"The column {name!r} holds objects without fields at {path!r}, as {{}}. {way_out}")
        for field in names:
            if names.count(field) > 1:
                raise SchemaError(f"{path!r} has {names.count(field)} columns named {field!r}. {way_out}")
            alike = [other for other in names if other.lower() == field.lower()]
            if len(alike) > 1:
                raise SchemaError(
                    f"{path!r} has the fields {' and '.join(map(repr, alike))}, which the lake's SQL does not tell "
                    f"apart: names that differ only in case are one name there. {way_out}"
                )


def _structs(path: str, type_: pa.DataType) -> Iterator[tuple[str, pa.StructType]]:
    if pa.types.is_struct(type_):
        yield path, type_
        for field in type_:
            yield from _structs(f"{path}.{field.name}", field.type)
    elif is_list(type_):
        yield from _structs(f"{path}[]", type_.value_type)
    elif pa.types.is_map(type_):
        yield from _structs(f"{path}[]", type_.key_type)
        yield from _structs(f"{path}[]", type_.item_type)
