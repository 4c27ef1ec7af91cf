"""Which columns are copied beside the predictions, and under which names: none of a result column's."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.lake.tables import RESERVED_NAMES, ROW_COLUMNS
from tidemill.proposing.sample import Sample
from tidemill.proposing.source import declaration
from tidemill.values.types import is_string

LONG_TEXT = 200
"""Characters a cell, on average, of a column that is rather read in the source than copied."""
LONG_VALUE = 1_000
"""Bytes of a nested value, on average."""
OTHER_NAMES = {"score": "rating", "label": "true_label"}


@dataclass(frozen=True)
class KeptNames:
    """What `key` and `keep` declare, and why columns are left out, by column."""

    key: tuple[str, ...]
    keep: tuple[str, ...]
    left_out: Mapping[str, str]


def name_columns(sample: Sample, *, text: str, key: Sequence[str], results: Iterable[str]) -> KeptNames:
    """Keep every column that can be kept, but for the text and what is long."""
    taken = {name.lower() for name in (*results, *ROW_COLUMNS, *RESERVED_NAMES)}
    sources = {name.strip().lower() for name in sample.types}
    others = [name for name in (*sample.types, *sample.unfit) if name not in key and name != text]
    reasons = {name: _why_not_kept(sample, name, text) for name in dict.fromkeys(others)}
    kept = [name for name, why in reasons.items() if why is None]
    declared = {name: _declared(name, taken, sources) for name in (*key, *kept)}
    return KeptNames(
        tuple(declared[name] for name in key),
        tuple(declared[name] for name in kept),
        {name: why for name, why in reasons.items() if why is not None},
    )


def _why_not_kept(sample: Sample, name: str, text: str) -> str | None:
    if name in sample.unfit:
        return sample.unfit[name]
    if name == sample.column_of[text]:
        return "the text is in it"
    return "its values are long" if _is_long(sample, name) else None


def _declared(name: str, taken: set[str], sources: set[str]) -> str:
    """The column as it is declared; its name in the table is then taken. Another name is no other column's either."""
    shown = name.strip()
    other = shown if shown and shown.lower() not in taken else _other_name(shown, taken | sources)
    taken.add(other.lower())
    return declaration(name) if other == shown else f"{declaration(name)} as {declaration(other)}"


def _other_name(name: str, taken: Collection[str]) -> str:
    stem = f"source_{name}" if name else "column"
    numbered = (f"{stem}_{number}" for number in itertools.count(2))
    wanted = itertools.chain([OTHER_NAMES.get(name.lower(), stem), stem], numbered)
    return next(other for other in wanted if other.lower() not in taken)


def _is_long(sample: Sample, name: str) -> bool:
    cells = sample.rows[name] if name in sample.rows.column_names else None
    if cells is None or not len(cells):
        return False
    if is_string(sample.types[name]):
        return float(pc.mean(pc.utf8_length(cells)).as_py() or 0) > LONG_TEXT
    return bool(pa.types.is_nested(sample.types[name]) and cells.nbytes / len(cells) > LONG_VALUE)
