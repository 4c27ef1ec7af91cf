"""Which columns name a row: found by reading, over the whole source where that takes no long time.

A column that is unique by its values may be a key; two columns may be one where
they would meet by chance and never do. What they are called decides only between
those that are unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import FAILS_ALONE
from tidemill.formats import KEPT_PREFIX
from tidemill.proposing.sample import Sample
from tidemill.proposing.source import Source
from tidemill.retry import waiting_for
from tidemill.values.rows import stored

MOST_BYTES_READ = 256 << 20
"""Of a local source; a larger one is read in part."""
MOST_BYTES_FETCHED = 32 << 20
MOST_CANDIDATES = 6
LONGEST_KEY = 200
"""Characters of a string that names a row."""
LEAST_MEETINGS = 1.0
"""How often two columns that have nothing to do with each other would name two rows alike."""
_NAMES = re.compile(r"(?i)(.*[_\-. ])?(id|key|uuid|guid|pk|uid)")
_CAMEL_ID = re.compile(r".*[a-z](Id|ID|Key)")
_POSITIONS = re.compile(r"(?i)(unnamed: ?\d+|index|level_\d+|row(_?(number|id|num))?)?")
"""What writers of tables call a row's place, which changes with the rows before it."""


@dataclass(frozen=True)
class Key:
    """The columns of a key, none if none was found; of how many rows that holds, and whether these are all."""

    columns: tuple[str, ...]
    num_rows: int
    read_whole: bool


def find_key(source: Source, sample: Sample, text: str) -> Key:
    """The columns that name each row of a source, checked on all of its rows or on a part of them."""
    candidates = [
        name
        for name in sample.rows.column_names
        if name != text and name in sample.everywhere and _may_name(sample, name)
    ]
    singles = [name for name in candidates if _is_unique(sample.rows, [name]) and not _is_date(sample.types[name])]
    singles = sorted(singles, key=lambda name: _rank(name, sample))[:MOST_CANDIDATES]
    pairs = list(_pairs(sample, source.partitions, [name for name in candidates if name not in singles]))
    asked = list(dict.fromkeys([*singles, *(name for pair in pairs for name in pair)]))
    if not asked:
        return Key((), sample.rows.num_rows, read_whole=False)
    with waiting_for(f"the rows of {source.name}, to see which columns name one"):
        rows, read_whole = _read(source, text, asked, sample)
    found = next((names for names in [*((name,) for name in singles), *pairs] if _is_unique(rows, names)), ())
    return Key(tuple(found), rows.num_rows, read_whole)


def _may_name(sample: Sample, name: str) -> bool:
    """Whether a column's kind of values is one that keys are made of."""
    type_, cells = sample.types[name], sample.rows[name]
    is_type = pa.types
    if is_type.is_string(type_):
        return not cells.null_count and int(pc.max(pc.utf8_length(cells)).as_py() or 0) <= LONGEST_KEY
    is_uuid = isinstance(type_, pa.BaseExtensionType) or is_type.is_fixed_size_binary(type_)
    return bool(is_uuid or is_type.is_integer(type_)) or _is_date(type_)


def _is_date(type_: pa.DataType) -> bool:
    """Dates name rows only with something beside them: few rows of different dates say nothing of the next ones."""
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


def _is_unique(rows: pa.Table, names: Sequence[str]) -> bool:
    """Whether no two rows, of two at least, have the same values there, and none lacks one."""
    columns = [stored(rows[name]) for name in names]
    if rows.num_rows < 2 or any(column.null_count for column in columns) or any(map(_has_empty, columns)):
        return False
    if len(names) == 1:
        return bool(pc.count_distinct(columns[0]).as_py() == rows.num_rows)
    groups = pa.table(dict(zip(names, columns, strict=True))).group_by(list(names)).aggregate([])
    return bool(groups.num_rows == rows.num_rows)


def _has_empty(column: pa.ChunkedArray) -> bool:
    return pa.types.is_string(column.type) and bool(pc.any(pc.equal(column, "")).as_py())


def _rank(name: str, sample: Sample) -> tuple[int, int, int]:
    by_name = 0 if _NAMES.fullmatch(name) or _CAMEL_ID.fullmatch(name) else 2 if _POSITIONS.fullmatch(name) else 1
    return by_name, int(pa.types.is_string(sample.types[name])), sample.rows.column_names.index(name)


def _pairs(sample: Sample, partitions: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs that are unique in the sample, though each column is not: a folder's column first, then by what they say.

    Two columns of many values are hardly ever alike by chance, which makes no key of them.
    """
    found = []
    for pair in combinations(names, 2):
        meetings = _expected_meetings(sample.rows, pair)
        in_folder = [name for name in pair if name in partitions]
        if (len(in_folder) == 1 or meetings >= LEAST_MEETINGS) and _is_unique(sample.rows, pair):
            # The column of a folder, which is the coarser one, comes first.
            found.append((not in_folder, -meetings, tuple(sorted(pair, key=lambda name: name not in partitions))))
    for _, _, (first, second) in sorted(found)[:MOST_CANDIDATES]:
        yield first, second


def _expected_meetings(rows: pa.Table, pair: Sequence[str]) -> float:
    """How many pairs of rows would be alike in both columns if these had nothing to do with each other."""
    alike = rows.num_rows * (rows.num_rows - 1) / 2
    for name in pair:
        counts = stored(rows[name]).value_counts().field("counts").to_numpy(zero_copy_only=False).astype(float)
        alike *= float((counts / counts.sum()) @ (counts / counts.sum()))
    return float(alike)


def _read(source: Source, text: str, names: Sequence[str], sample: Sample) -> tuple[pa.Table, bool]:
    """The rows' values in the columns, and whether all of the source was read."""
    dataset = source.reopened(text, list(names))
    dataset.use(dataset.columns([(name, name) for name in names], {name: sample.types[name] for name in names}))
    most = MOST_BYTES_READ if source.is_local else MOST_BYTES_FETCHED
    left, whole, parts = most, True, []
    for file in dataset.files:
        reader = dataset.reader(file)
        try:
            for cut in reader.slices(shard_bytes=dataset.shard_bytes):
                if left <= 0:
                    whole = False
                    break
                left -= cut.stop - cut.start
                parts.append(_sound(reader.rows(cut), names))
        except FAILS_ALONE:
            dataset.forget(file)
            whole = False
        if left <= 0 and file is not dataset.files[-1]:
            whole = False
            break
    return pa.concat_tables(parts), whole


def _sound(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows that come into the table: others have no key there."""
    sound = rows.filter(rows["reason"].is_null())
    return sound.select([KEPT_PREFIX + name for name in names]).rename_columns(list(names))
