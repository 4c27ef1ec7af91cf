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


def unencoded_bytes(footer: bytes) -> list[list[int | None]]:
    """The bytes of each row group's columns once decoded; None where the writer did not say."""
    groups = _Walk(footer).struct().get(_ROW_GROUPS, [])
    return [[_unencoded(column) for column in group[_COLUMNS]] for group in groups]


def _unencoded(column: dict[int, Any]) -> int | None:
    size: int | None = column.get(_META_DATA, {}).get(_SIZE_STATISTICS, {}).get(_UNENCODED_BYTES)
    return size


class _Walk:
    """Reads Thrift's compact protocol; structs become dicts by field number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 0x0F
            number = number + delta if delta else self._integer()
            # A field's boolean is its type; only in lists does it take a byte.
            fields[number] = None if kind in _BOOLEANS else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._skip(self._varint())
        if kind == _STRUCT:
            return self.struct()
        if kind in _LISTS:
            return self._list()
        if kind == _BYTE or kind in _BOOLEANS:
            return self._byte()
        if kind == _DOUBLE:
            return self._skip(8)
        raise ValueError(f"the footer holds the Thrift type {kind}")

    def _list(self) -> list[Any]:
        header = self._byte()
        length, kind = header >> 4, header & 0x0F
        if length == 15:
            length = self._varint()
        return [self._value(kind) for _ in range(length)]

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _varint(self) -> int:
        result = shift = 0
        while (byte := self._byte()) & 0x80:
            result |= (byte & 0x7F) << shift
            shift += 7
        return result | byte << shift

    def _integer(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _skip(self, length: int) -> None:
        self._at += length
