"""Which columns are copied beside the predictions, and under which names: none of a result column's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from tidemill.lake.tables import RESERVED_NAMES, ROW_COLUMNS
from tidemill.proposing.sample import Sample
from tidemill.values.types import is_string

LONG_TEXT = 200
"""Characters a cell, on average, of a column that is rather read in the source than copied."""
OTHER_NAMES = {"score": "rating", "label": "true_label"}
_AS = re.compile(r"\s+as\s+", re.IGNORECASE)


@dataclass(frozen=True)
class KeptNames:
    """What `key` and `keep` declare, and why columns are left out, by column."""

    key: tuple[str, ...]
    keep: tuple[str, ...]
    left_out: Mapping[str, str]


def name_columns(sample: Sample, *, text: Collection[str], key: Sequence[str], results: Iterable[str]) -> KeptNames:
    """Keep every column that can be kept, but for the text and what is long."""
    taken = {name.lower() for name in (*results, *ROW_COLUMNS, *RESERVED_NAMES)}
    sources = {name.strip().lower() for name in sample.types}
    left_out = {name: why for name, why in sample.unfit.items() if name not in text}
    declared: dict[str, str] = {}
    others = [name for name in sample.types if name not in (*text, *key)]
    for name in (*key, *others):
        if name in left_out:
            continue
        if name not in key and _is_long(sample, name):
            left_out[name] = "its texts are long"
            continue
        if not _can_be_declared(name):
            left_out[name] = "dataset.keep cannot say its name"
            continue
        declared[name] = _declared(name, taken, sources)
    keys = tuple(declared[name] for name in key if name in declared)
    return KeptNames(keys, tuple(declared[name] for name in others if name in declared), left_out)


def _declared(name: str, taken: set[str], sources: set[str]) -> str:
    """The column as it is declared; its name in the table is then taken. Another name is no other column's either."""
    shown = name.strip()
    other = shown if shown and shown.lower() not in taken else _other_name(shown, taken | sources)
    taken.add(other.lower())
    return name if other == shown else f"{name} as {other}"


def _other_name(name: str, taken: Collection[str]) -> str:
    stem = f"source_{name}" if name else "column"
    numbered = (f"{stem}_{number}" for number in itertools.count(2))
    wanted = itertools.chain([OTHER_NAMES.get(name.lower(), stem), stem], numbered)
    return next(other for other in wanted if other.lower() not in taken)


def _can_be_declared(name: str) -> bool:
    return not _AS.search(f"{name} ") and "\0" not in name


def _is_long(sample: Sample, name: str) -> bool:
    if name not in sample.rows.column_names or not is_string(sample.types[name]):
        return False
    mean = pc.mean(pc.utf8_length(sample.rows[name])).as_py()
    return mean is not None and mean > LONG_TEXT
