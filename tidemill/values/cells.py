"""CSV cells that are more than text: a type is one only if each cell is shown as it was written.

`007`, `1e5`, `+49`, `1.10` or twenty digits are numbers to most readers, and names
to those who wrote them: as a key, `1.10` and `1.1` would be one. The one liberty:
`1` beside `2.5` is the number 1.0, but not in a key, where `1.0` may be another.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.values.rows import Problems, excerpt, nulled, one_array, settled
from tidemill.values.types import is_string

_INFERRED = (
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("ns"),
)
_WHOLE = r"^(0|-?[1-9]\d{0,14})$"
"""An integer that a double holds, however it is shown."""
_LEAST_WITHOUT_EXPONENT = 1e-4


def inferred_type(cells: pa.ChunkedArray, *, is_key: bool = False) -> pa.DataType:
    """The type that shows each cell as it was written; null where all cells are empty."""
    try:
        texts = _filled(cells).cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.string()
    if texts.null_count == len(texts):
        return pa.null()
    return next((type_ for type_ in _INFERRED if _fits(texts, type_, is_key)), pa.string())


def gives_back(cells: pa.ChunkedArray, to: pa.DataType, *, is_key: bool) -> bool:
    """Whether a column of the type shows each cell as it was written."""
    try:
        return is_string(to) or _fits(_filled(cells).cast(pa.binary()).cast(pa.string()), to, is_key)
    except pa.ArrowInvalid:
        return False


def as_written(
    cells: pa.ChunkedArray, to: pa.DataType, name: str, problems: Problems, *, is_key: bool = False
) -> pa.ChunkedArray:
    """The cells in their column's type, empty ones as null; one that would be shown otherwise is noted, and null."""
    texts = _filled(cells)
    typed = settled(texts, to, name, problems)
    shown = _shown(typed) if is_key else _shown_or_whole(typed, texts)
    if shown.equals(texts):
        return typed
    changed = pc.and_(texts.is_valid(), pc.fill_null(pc.not_equal(shown, texts), True))
    values, found = one_array(typed), np.flatnonzero(changed.to_numpy()).tolist()
    for index in found:
        written = texts[index].as_buffer().to_pybytes()
        problems.setdefault(
            index,
            f"{name} = {excerpt(written)} would become {values[index]} as {to}; "
            f"dataset.types can settle the column's type",
        )
    return pa.chunked_array([nulled(values, found)])


def trimmed(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cells without the spaces around them; empty ones are null. Invalid UTF-8 stays as it is."""
    return _filled(pc.ascii_trim_whitespace(_unchecked(cells)))


def _filled(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = _unchecked(cells)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.string()), texts)


def _unchecked(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes as strings, valid or not: what Arrow does to ASCII in them holds for any."""
    return pa.chunked_array([chunk.view(pa.string()) for chunk in cells.chunks], pa.string())


def _fits(texts: pa.ChunkedArray, to: pa.DataType, is_key: bool) -> bool:
    try:
        typed = texts.cast(to)
    except pa.ArrowInvalid:
        return False
    return bool((_shown(typed) if is_key else _shown_or_whole(typed, texts)).equals(texts))


def _shown_or_whole(typed: pa.ChunkedArray, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as they are shown, and integers among doubles as they were written."""
    shown = _shown(typed)
    if not pa.types.is_floating(typed.type) or shown.equals(texts):
        return shown
    return pc.if_else(pc.match_substring_regex(texts, _WHOLE), texts, shown)


def _shown(typed: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as DuckDB shows them; null where it would show an exponent."""
    texts = typed.cast(pa.string())
    if pa.types.is_timestamp(typed.type):
        return pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")
    if not pa.types.is_floating(typed.type):
        return texts
    whole = pc.match_substring_regex(texts, r"^-?\d+$")
    if pc.any(whole).as_py():
        texts = pc.if_else(whole, pc.binary_join_element_wise(texts, ".0", ""), texts)
    tiny = pc.and_(pc.less(pc.abs(typed), _LEAST_WITHOUT_EXPONENT), pc.not_equal(typed, 0.0))
    exponent = pc.or_(tiny, pc.match_substring(texts, "e"))
    return pc.if_else(exponent, pa.scalar(None, pa.string()), texts) if pc.any(exponent).as_py() else texts
