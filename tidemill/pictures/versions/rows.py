"""The rows that differ most, with both answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tidemill.lake.tables import identifier
from tidemill.models.comparing import Comparison, Labels, Lists, Maps, Pair, Scores, Texts, Vectors
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.subject import Subject
from tidemill.pictures.versions.two import PAIRS, Two
from tidemill.reports.pairs import different_pairs

NUM_ROWS, LONGEST_SHOWN = 20, 2000


def farthest(subject: Subject, two: Two) -> Iterator[Figure]:
    """Texts that a model wrote come side by side, with `--texts`; all else in a table."""
    if not two.changed:
        return
    texts = [pair for comparison, pair in two.changed if _is_text(two, comparison, pair)]
    side_by_side = bool(texts) and subject.with_texts
    first, second = two.names
    shown = [
        each
        for comparison, pair in two.changed
        for each in _shown(two, comparison, pair, with_texts=subject.with_texts)
    ]
    written: list[str] = []
    if side_by_side:
        for pair in texts:
            written += [f"{pair.name} {first}", f"{pair.name} {second}"]
            shown += [_cut(pair.first, written[-2]), _cut(pair.second, written[-1])]
    condition, order = different_pairs(two.versions.shared)
    yield Figure(
        id="versions-rows",
        section=two.section,
        title="The rows that differ most",
        tells=f"{NUM_ROWS} rows whose answers differ, those first that are the farthest apart or the surest.",
        sql=two.pairs(subject).sql(f"""
            SELECT {", ".join([_row(subject, two), *shown])}
            FROM {PAIRS} WHERE {condition}
            ORDER BY {", ".join([*order, "_shard_id", "_row_number"])} LIMIT {NUM_ROWS}
        """),
        kind="texts" if side_by_side else "table",
        axes=Axes(columns=tuple(written)),
        notes=_notes(texts, side_by_side=side_by_side),
    )


def _notes(texts: Sequence[Pair], *, side_by_side: bool) -> tuple[str, ...]:
    if not texts:
        return ()
    if side_by_side:
        return (f"Texts are shown up to {LONGEST_SHOWN:,} characters.",)
    return ("The texts themselves are shown with --texts.",)


def _row(subject: Subject, two: Two) -> str:
    """SQL: the columns that name a row, and kept ones that may be shown beside it."""
    kept = {*subject.kept.plain, *(subject.kept.texts if subject.with_texts else ())}
    names = [name for name in two.versions.shared.kept if name in kept or name in subject.row_names]
    own = [] if subject.table.keys else ["_shard_id", "_row_number"]
    return ", ".join([*own, *map(identifier, names)])


def _is_text(two: Two, comparison: Comparison, pair: Pair) -> bool:
    return isinstance(comparison, Labels | Texts) and pair.name not in two.labels


def _shown(two: Two, comparison: Comparison, pair: Pair, *, with_texts: bool) -> list[str]:
    """SQL: what is shown of a column: both answers, or where those are long what is apart in them."""
    versions = two.names
    both = {f"{pair.name} {version}": side for version, side in zip(versions, (pair.first, pair.second), strict=True)}
    if _is_text(two, comparison, pair):
        return [f"length({side}) AS {identifier(f'characters of {name}')}" for name, side in both.items()]
    if isinstance(comparison, Labels | Scores | Texts):
        return [f"{side} AS {identifier(name)}" for name, side in both.items()]
    if isinstance(comparison, Lists):
        alone = [_told(comparison, pair, value, with_texts=with_texts) for value in comparison.apart(pair).values()]
        return [
            f"{value} AS {identifier(f'{pair.name} only {version}')}"
            for value, version in zip(alone, versions, strict=True)
        ]
    moved = comparison.moved(pair) if isinstance(comparison, Vectors | Maps) else None
    return [f"{moved} AS {identifier(f'{pair.name}: {comparison.moved_called}')}"] if moved else []


def _told(comparison: Lists, pair: Pair, elements: str, *, with_texts: bool) -> str:
    """SQL: elements; without `--texts` their labels alone, or how many they are, as they may hold words of the text."""
    if with_texts:
        return elements
    label = comparison.label_of(pair)
    return f"list_transform({elements}, lambda _x: _x.{identifier(label)})" if label else f"len({elements})"


def _cut(side: str, name: str) -> str:
    return f"left({side}, {LONGEST_SHOWN}) AS {identifier(name)}"
