"""How large a Parquet column's strings are once decoded, from the footer's size statistics.

A dictionary-encoded column's uncompressed size says nothing of that: 500 texts
repeated over a row group take kilobytes in the file and gigabytes in memory.
pyarrow writes these statistics but does not show them, so the footer's Thrift is
walked here (https://github.com/apache/parquet-format, `parquet.thrift`, and the
Thrift compact protocol).
"""

from __future__ import annotations

from typing import Any

# Field numbers of parquet.thrift.
_ROW_GROUPS, _COLUMNS, _META_DATA, _SIZE_STATISTICS, _UNENCODED_BYTES = 4, 1, 3, 16, 1

# Types of the compact protocol; a Parquet footer has no others.
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12

Wanted = dict[int, "Wanted"]
"""Fields that are read, by number, with those within them; all others are skipped."""

_WANTED: Wanted = {_ROW_GROUPS: {_COLUMNS: {_META_DATA: {_SIZE_STATISTICS: {_UNENCODED_BYTES: {}}}}}}


def unencoded_bytes(footer: bytes) -> list[list[int | None]]:
    """The bytes of each row group's columns once decoded; None where the writer did not say."""
    groups = _struct(footer, 0, _WANTED)[0].get(_ROW_GROUPS, [])
    return [[_unencoded(column) for column in group[_COLUMNS]] for group in groups]


def _unencoded(column: dict[int, Any]) -> int | None:
    size: int | None = column.get(_META_DATA, {}).get(_SIZE_STATISTICS, {}).get(_UNENCODED_BYTES)
    return size


def _struct(data: bytes, at: int, wanted: Wanted) -> tuple[dict[int, Any], int]:
    """The wanted fields of the struct that begins at `at`, by number; and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while header := data[at]:
        at += 1
        delta, kind = header >> 4, header & 0x0F
        if delta:
            number += delta
        else:
            number, at = _integer(data, at)
        if kind in _BOOLEANS:  # A field's boolean is its type; only in lists does it take a byte.
            continue
        if number in wanted:
            fields[number], at = _value(data, at, kind, wanted[number])
        else:
            at = _skip(data, at, kind)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, wanted: Wanted) -> tuple[Any, int]:
    if kind == _STRUCT:
        return _struct(data, at, wanted)
    if kind in _INTEGERS:
        return _integer(data, at)
    if kind not in _LISTS:
        return None, _skip(data, at, kind)
    length, kind, at = _list_header(data, at)
    values = []
    for _ in range(length):
        value, at = _value(data, at, kind, wanted)
        values.append(value)
    return values, at


def _skip(data: bytes, at: int, kind: int) -> int:
    """Where the value that begins at `at` ends. Most of a footer goes through here, hence the loop in line."""
    if kind == _STRUCT:
        while header := data[at]:
            at += 1
            if header < 0x10:
                _, at = _integer(data, at)
            kind = header & 0x0F
            if kind in _INTEGERS:
                while data[at] & 0x80:
                    at += 1
                at += 1
            elif kind not in _BOOLEANS:
                at = _skip(data, at, kind)
        return at + 1
    if kind == _BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind in _LISTS:
        length, kind, at = _list_header(data, at)
        for _ in range(length):
            at = _skip(data, at, kind)
        return at
    if kind in _INTEGERS:
        return _varint(data, at)[1]
    if kind == _BYTE or kind in _BOOLEANS:
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    raise ValueError(f"the footer holds the Thrift type {kind}")


def _list_header(data: bytes, at: int) -> tuple[int, int, int]:
    """(length, type of the values, where they begin)"""
    length, kind = data[at] >> 4, data[at] & 0x0F
    at += 1
    if length == 15:
        length, at = _varint(data, at)
    return length, kind, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while (byte := data[at]) & 0x80:
        result |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    return result | byte << shift, at + 1


def _integer(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return number >> 1 ^ -(number & 1), at
