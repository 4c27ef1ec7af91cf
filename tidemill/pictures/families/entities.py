"""Entities: which types there are, over what, their most frequent words, and texts with the places marked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tidemill.lake import Cursor
from tidemill.lake.tables import identifier, literal
from tidemill.pictures.families.labels import spread
from tidemill.pictures.families.over import over_all
from tidemill.pictures.figures.bins import binned
from tidemill.pictures.figures.figure import Axes, Figure
from tidemill.pictures.figures.sql import OTHERS_NOTE, laid_out
from tidemill.pictures.figures.subject import Subject

SECTION, WORDS, EXAMPLES = "Entities", "Frequent words", "Examples"
NUM_TYPES, NUM_WORDS, NUM_EXAMPLES = 6, 15, 10
FEWEST_ROWS = 3
"""Rows that have a word, of words that are shown without `--texts`: what one row alone has may tell whose row it is."""
OWN = ("entity", "score", "word")


def figures(cursor: Cursor, subject: Subject) -> Iterator[Figure]:
    entities = each_entity(subject)
    yield replace(
        spread(entities, "entity", section=SECTION, id="entities"),
        title="Entities by type",
        tells="How many entities the model found of each type.",
    )
    yield from over_all(cursor, entities, "entity", section=SECTION)
    yield scores(entities)
    yield numbers(subject)
    for place, name in enumerate(first_types(cursor, entities)):
        yield words(entities, name, place)
    yield from examples(subject)


def each_entity(subject: Subject) -> Subject:
    """A row for each entity, with the other columns of its row, but for kept ones that have an entity's names."""
    left_out = [name for name, _ in subject.table.kept if name in OWN]
    excluded = ", ".join(map(identifier, ("entities", *left_out)))
    return replace(subject, kept=subject.kept.without(OWN)).counting(
        "entity_rows",
        f"""
            SELECT _e.entity, _e.score, trim(_e.word) AS word, _row.* EXCLUDE (_e)
            FROM (SELECT * EXCLUDE ({excluded}), unnest(entities) AS _e FROM {subject.view}) AS _row
        """,
        "entities",
    )


def first_types(cursor: Cursor, entities: Subject) -> list[str]:
    asked = f"""
        SELECT entity FROM {entities.source} WHERE entity IS NOT NULL
        GROUP BY entity ORDER BY count(*) DESC, entity LIMIT {NUM_TYPES}
    """
    found = cursor.execute(entities.sql(asked)).fetchall()
    return [name for (name,) in found]


def scores(entities: Subject) -> Figure:
    return Figure(
        id="entity-scores",
        section=SECTION,
        title="Scores of entities by type",
        tells="How sure the model was of the entities that it found, for each type.",
        sql=entities.sql(binned(entities.source, "score", "entity", unit=entities.unit)),
        kind="histogram",
        axes=Axes(x="score_from", y="num_entities", series="entity", x_title="score", y_title="entities"),
        of_others=OTHERS_NOTE.format("types"),
    )


def numbers(subject: Subject) -> Figure:
    counted = subject.counting("counts", f"SELECT len(entities) AS entities FROM {subject.view}", "rows")
    return Figure(
        id="entities-per-row",
        section=SECTION,
        title="Entities per row",
        tells="In how many rows the model found how many entities; those at 0 have none.",
        sql=counted.sql(binned(counted.source, "entities", whole=True)),
        kind="histogram",
        axes=Axes(x="entities_from", x_title="entities in a row", y_title="rows"),
    )


def words(entities: Subject, name: str, place: int) -> Figure:
    rare = "" if entities.with_texts else f"HAVING num_rows >= {FEWEST_ROWS}"
    note = f"Words that fewer than {FEWEST_ROWS} rows have are shown only with --texts." if rare else ""
    return Figure(
        id=f"words-{place + 1}",
        section=WORDS,
        title=f"{name}: the most frequent words",
        tells=f"Which words the model most often took for {name}, and how often.",
        sql=entities.sql(f"""
            SELECT word, count(*) AS num_entities, count(DISTINCT (shard_id, row_number)) AS num_rows
            FROM {entities.source} WHERE entity = {literal(name)}
            GROUP BY word {rare}
            ORDER BY num_entities DESC, word LIMIT {NUM_WORDS}
        """),
        kind="bars",
        axes=Axes(x="word", y="num_entities", x_title="", y_title="entities"),
        notes=(note,) if note else (),
    )


def examples(subject: Subject) -> Iterator[Figure]:
    """Texts with marks, where one kept column is the text that offsets are of."""
    name = subject.text_column
    if not subject.with_texts or name is None:
        return
    text = identifier(name)
    names = ", ".join(map(identifier, subject.row_names))
    yield Figure(
        id="examples",
        section=EXAMPLES,
        title="Entities in their texts",
        tells=f"{NUM_EXAMPLES} rows with entities of the most different types, the shorter texts first.",
        sql=laid_out(f"""
            SELECT {names}, {text}, entities FROM {subject.view}
            WHERE len(entities) > 0 AND {text} IS NOT NULL
            ORDER BY len(list_distinct(list_transform(entities, lambda _e: _e.entity))) DESC, length({text}),
              shard_id, row_number
            LIMIT {NUM_EXAMPLES}
        """),
        kind="spans",
        axes=Axes(x=name, value="entities"),
    )
