"""What is learned of which rows: read, freed of what cannot be learned from, split, and looked over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.errors import ConfigError, counted
from tidemill.training.examples.reading import Examples, column_of, texts_of
from tidemill.training.examples.rows import Lesson, Rows
from tidemill.training.examples.splitting import Split, contradictions, num_duplicates, split
from tidemill.training.given.base import BaseModel
from tidemill.training.given.file import TrainingFile

FEWEST_TRAIN, FEWEST_HELD_OUT = 8, 2


def make_lesson(
    file: TrainingFile, base: BaseModel, examples: Examples, work: Path, *, drop_duplicates: bool, tell: Any
) -> tuple[Lesson, dict[str, Any]]:
    """The lesson, and what is told of its rows before anything is trained.

    Raises:
        ConfigError: too few rows, or a text is on both sides.
        SchemaError: a text column holds something else.
    """
    table, num_null = _without_nulls(file, examples.table)
    texts = _texts(file, table)
    known = _known(file, table, texts)
    apart = _split(file, table, known, drop_duplicates=drop_duplicates)
    _refuse_few(apart, examples, num_null)
    train, held_out = (_rows(file, table, texts, indices) for indices in (apart.train, apart.held_out))
    kind = table.schema.field(file.data.label).type if file.data.label else pa.null()
    lesson = Lesson(file, base, train, held_out, kind, work, tell)
    facts = {
        "train": len(train),
        "held_out": len(held_out),
        "null": num_null,
        "unreadable": examples.num_unreadable,
        "duplicates_dropped": apart.num_dropped,
        "duplicates": num_duplicates(known),
        "contradictions": _contradictions(file, table, known),
        "labels": _by_label(train.labels, held_out.labels),
        "characters": _quantiles([len(text) for text in _plain(texts)]),
    }
    return lesson, facts


def _without_nulls(file: TrainingFile, table: pa.Table) -> tuple[pa.Table, int]:
    """Rows that have a text and something to be learned."""
    data = file.data
    needed = [*data.text, *data.text_pair, *filter(None, (data.label, data.negative))]
    for name in needed:
        column_of(table, name, "data.label" if name == data.label else "data.text")
    num_rows = table.num_rows
    if data.label and pa.types.is_floating(table.schema.field(data.label).type):
        table = _finite(table, data.label)
    sound = table.drop_null() if set(needed) == set(table.column_names) else _dropped(table, needed)
    if not sound.num_rows:
        raise ConfigError(
            f"All {counted(table.num_rows, 'row')} have a null in {', '.join(needed)}. Give rows that have a text and "
            "a label: check data.text and data.label."
        )
    return sound, num_rows - sound.num_rows


def _finite(table: pa.Table, name: str) -> pa.Table:
    """Null where a number is none that can be learned."""
    import pyarrow.compute as pc

    values = table[name]
    finite = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    return table.set_column(table.schema.get_field_index(name), name, finite)


def _dropped(table: pa.Table, needed: Sequence[str]) -> pa.Table:
    import pyarrow.compute as pc

    keep = pc.is_valid(table[needed[0]])
    for name in needed[1:]:
        keep = pc.and_(keep, pc.is_valid(table[name]))
    return table.filter(keep)


def _texts(file: TrainingFile, table: pa.Table) -> list[Any]:
    column = table.schema.field(file.data.text[0]).type
    if file.task == "token-classification" and pa.types.is_list(column):
        return column_of(table, file.data.text[0], "data.text")
    return texts_of(table, file.data.text, file.data.text_separator)


def _plain(texts: Sequence[Any]) -> list[str]:
    return [text if isinstance(text, str) else " ".join(text) for text in texts]


def _known(file: TrainingFile, table: pa.Table, texts: Sequence[Any]) -> list[str]:
    """By what rows are the same: their text, or both of a pair."""
    known, data = _plain(texts), file.data
    if not data.text_pair:
        return known
    pairs = texts_of(table, data.text_pair, data.text_separator)
    return [f"{text}\0{pair}" for text, pair in zip(known, pairs, strict=True)]


def _split(file: TrainingFile, table: pa.Table, known: list[str], *, drop_duplicates: bool) -> Split:
    data = file.data
    return split(
        known,
        data.held_out if isinstance(data.held_out, float) else column_of(table, data.held_out, "data.held_out"),
        groups=column_of(table, data.group, "data.group") if data.group else None,
        max_rows=data.max_rows,
        drop_duplicates=drop_duplicates,
    )


def _refuse_few(apart: Split, examples: Examples, num_null: int) -> None:
    if len(apart.train) >= FEWEST_TRAIN and len(apart.held_out) >= FEWEST_HELD_OUT:
        return
    without = f", {num_null:,} of them without a text or a label," if num_null else ""
    raise ConfigError(
        f"Of {counted(examples.table.num_rows, 'row')}{without} {len(apart.train):,} would be learned from and "
        f"{len(apart.held_out):,} held out, and it takes {FEWEST_TRAIN} and {FEWEST_HELD_OUT}. Give more rows, or "
        "change data.held_out."
    )


def _rows(file: TrainingFile, table: pa.Table, texts: list[Any], indices: list[int]) -> Rows:
    data = file.data
    rows = table.take(pa.array(indices, pa.int64()))
    return Rows(
        texts=[texts[i] for i in indices],
        pairs=texts_of(rows, data.text_pair, data.text_separator) if data.text_pair else None,  # type: ignore[arg-type]
        negatives=column_of(rows, data.negative, "data.negative") if data.negative else None,
        labels=column_of(rows, data.label, "data.label") if data.label else [],
        slices={name: column_of(rows, name, "data.slices") for name in data.slices},
    )


def _contradictions(file: TrainingFile, table: pa.Table, known: Sequence[str]) -> dict[str, Any]:
    """How many texts have two labels, and which rows those of the first ones are."""
    if not file.data.label or file.task in ("sentence-similarity", "text-generation"):
        return {"texts": 0, "rows": []}
    labels = column_of(table, file.data.label, "data.label")
    found = contradictions(known, labels)
    keys = [source for source, _ in file.data.kept[: len(file.data.key)]]
    return {"texts": len(found), "rows": [[_row(table, keys, i, labels) for i in pair] for pair in found[:3]]}


def _row(table: pa.Table, keys: Sequence[str], i: int, labels: Sequence[Any]) -> dict[str, Any]:
    named = {name: table[name][i].as_py() for name in keys if name in table.column_names}
    return {**(named or {"row": i}), "label": labels[i]}


def _by_label(train: Sequence[Any], held_out: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows of each label on both sides, the most frequent first; nothing of numbers and texts to write."""
    sides = [Counter(_flat(values)) for values in (train, held_out)]
    names = [name for name, _ in (sides[0] + sides[1]).most_common()]
    if len(names) > 100:
        return []
    return [{"label": name, "train": sides[0][name], "held_out": sides[1][name]} for name in names]


def _flat(values: Sequence[Any]) -> list[str]:
    found: list[str] = []
    for value in values:
        if isinstance(value, list):
            found += [str(part["label"] if isinstance(part, dict) else part) for part in value]
        elif not isinstance(value, float):
            found.append(str(value))
    return found


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    return {name: ordered[int(share * (len(ordered) - 1))] for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1))}
