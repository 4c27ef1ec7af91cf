"""What models write: how it ended, how long it is, what it says where that is a label or has columns, and examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tidemill.lake import Cursor
from tidemill.lake.tables import identifier
from tidemill.models.comparing.texts import MOST_LABELS
from tidemill.pictures.families.labels import spread
from tidemill.pictures.families.numbers import histogram, mean_over_slice
from tidemill.pictures.families.over import has_several, over_all
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import MOST_SHOWN
from tidemill.pictures.figures.subject import Subject

LABELS, ENDS, FIELDS, EXAMPLES = "Answers", "Lengths and ends", "Fields of answers", "Examples"
OF_EVERY_ANSWER = ("finish_reason", "num_prompt_tokens", "num_new_tokens", "num_windows")
NUM_EXAMPLES, LONGEST_SHOWN = 8, 2000
LONGEST_LABEL = 60
CUT = f"Texts are shown up to {LONGEST_SHOWN:,} characters."
WHOLE = ("INTEGER", "BIGINT")


def figures(cursor: Cursor, subject: Subject) -> Iterator[Figure]:
    text, *fields = (name for name in subject.results if name not in OF_EVERY_ANSWER)
    if is_label(cursor, subject, text):
        yield replace(spread(subject, text, section=LABELS), id="labels", title="Answers")
        yield from over_all(cursor, subject, text, section=LABELS)
    for name in fields:
        yield from of_field(cursor, subject, name)
    yield from ends(cursor, subject, text)
    yield from examples(subject, text)


def is_label(cursor: Cursor, subject: Subject, name: str) -> bool:
    """Whether a text column has few different and short values, which rows share: the model chose between some."""
    column = identifier(name)
    longest = f"coalesce(max(length({column}::VARCHAR)), 0)"
    num_distinct, num_rows, most = cursor.execute(
        f"SELECT count(DISTINCT {column}), count({column}), {longest} FROM {subject.view}"
    ).fetchall()[0]
    return bool(0 < num_distinct <= min(MOST_LABELS, num_rows // 2)) and most <= LONGEST_LABEL


def of_field(cursor: Cursor, subject: Subject, name: str) -> Iterator[Figure]:
    """A property of a structured answer, as a label or as a number; of one that is a text only its length."""
    kind = subject.results[name]
    if kind in ("DOUBLE", "FLOAT", *WHOLE) and not (kind in WHOLE and is_label(cursor, subject, name)):
        yield histogram(subject, name, section=FIELDS, whole=kind in WHOLE)
        for slices in subject.kept.slices:
            yield mean_over_slice(subject, name, slices, section=FIELDS)
    elif kind == "BOOLEAN" or (kind in ("VARCHAR", *WHOLE) and is_label(cursor, subject, name)):
        yield spread(subject, name, section=FIELDS, id=f"{name}-values")
        yield from over_all(cursor, subject, name, section=FIELDS)
    elif kind == "VARCHAR":
        yield length_of(subject, name, section=FIELDS)
    elif kind == "VARCHAR[]":
        yield elements(cursor, subject, name)


def elements(cursor: Cursor, subject: Subject, name: str) -> Figure:
    """Those of a list that several rows share; without `--texts` none that one row alone has."""
    rare = "" if subject.with_texts else "HAVING num_rows > 1"
    return Figure(
        id=f"{name}-elements",
        section=FIELDS,
        title=f"Most frequent in {name}",
        tells=f"Which elements the lists in {name} have most often.",
        sql=subject.sql(f"""
            SELECT element, count(*) AS num_rows
            FROM (SELECT unnest(list_distinct({identifier(name)})) AS element FROM {subject.view})
            GROUP BY element {rare} ORDER BY num_rows DESC, element LIMIT {MOST_SHOWN}
        """),
        kind="bars",
        axes=Axes(x="element", x_title="", y_title="rows"),
        notes=("Elements that one row alone has are shown only with --texts.",) if rare else (),
    )


def ends(cursor: Cursor, subject: Subject, text: str) -> Iterator[Figure]:
    ended = replace(
        spread(subject, "finish_reason", section=ENDS),
        title="How answers ended",
        tells="How many answers the model ended itself (stop), and how many were cut at max_new_tokens (length).",
    )
    yield ended
    if has_several(cursor, subject.view, "finish_reason"):
        yield from over_all(cursor, subject, "finish_reason", section=ENDS)
    yield length_of(subject, text, section=ENDS, series="finish_reason")
    for name, told in (("num_new_tokens", "tokens of an answer"), ("num_prompt_tokens", "tokens of a prompt")):
        if name in subject.results:
            yield histogram(subject, name, section=ENDS, series="finish_reason", whole=True, told=told)


def length_of(subject: Subject, name: str, *, section: str, series: str | None = None) -> Figure:
    by = f", {identifier(series)}" if series else ""
    counted = subject.counting(
        "lengths", f"SELECT length({identifier(name)}) AS {identifier(f'{name}_length')}{by} FROM {subject.view}"
    )
    return histogram(
        counted, f"{name}_length", section=section, series=series, whole=True, told=f"characters of {name}"
    )


def examples(subject: Subject, text: str) -> Iterator[Figure]:
    """Beside what the model read, where that is kept."""
    if not subject.with_texts:
        return
    names = ", ".join(map(identifier, subject.row_names))
    read = [name for name in subject.kept.texts if name not in subject.row_names]
    shown = ", ".join(f"left({identifier(name)}, {LONGEST_SHOWN}) AS {identifier(name)}" for name in (*read, text))
    yield Figure(
        id="examples",
        section=EXAMPLES,
        title="Answers beside what the model read" if read else "Answers",
        tells=f"{NUM_EXAMPLES} rows drawn by chance, the same ones each time"
        + ("." if read else "; keep the text that the model reads (dataset.keep) to see it beside them."),
        sql=subject.sql(f"""
            SELECT {names}, {shown}, finish_reason FROM {subject.view} WHERE {identifier(text)} IS NOT NULL
            ORDER BY hash(shard_id, row_number), shard_id, row_number LIMIT {NUM_EXAMPLES}
        """),
        kind="texts",
        axes=Axes(columns=(*read, text)),
        notes=(CUT,),
    )
