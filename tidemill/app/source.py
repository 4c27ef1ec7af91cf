"""What the app reads: the promoted version's table of a pipeline, as the lake has it at that moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tidemill.config import Pipeline
from tidemill.lake import Cursor, Lake, ResultTable
from tidemill.lake.pipelines import load_spec
from tidemill.lake.records.marks import marked_labels
from tidemill.lake.tables import identifier
from tidemill.planning.versions import VersionSpec, relocated
from tidemill.results.promotion import existing_state, load_table

MAX_LABELS = 500
RIGHT_OR_WRONG = ("right", "wrong")
"""What a row is marked as where its answer is no label."""


class Source:
    """A lake that stays open for reading, sealed: a user's condition reaches nothing else.

    Raises:
        LakeError: there is no lake, or the pipeline never ran.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._lake = Lake(pipeline.lake, read_only=True, scans=True)
        self._lake.seal()
        with self.open():
            pass

    @contextmanager
    def open(self) -> Iterator[tuple[Cursor, ResultTable]]:
        """A cursor on one snapshot, and the table of the version that is promoted in it."""
        with self._lake.reached(), self._lake.snapshot() as cursor:
            state = existing_state(cursor, self.pipeline.name)
            yield cursor, load_table(cursor, self.pipeline.name, state.promoted_version)

    def promoted(self) -> VersionSpec:
        with self.open() as (cursor, table):
            facts = load_spec(cursor, table.pipeline, table.version) or {}
        return relocated(VersionSpec.from_json(facts), self.pipeline)

    @property
    def keys(self) -> list[str]:
        """The key columns of the file, where the table has them."""
        asked = [name for _, name in self.pipeline.dataset.kept[: len(self.pipeline.dataset.key)]]
        with self.open() as (_, table):
            return asked if {*asked} <= {name for name, _ in table.kept} else []

    def labels(self) -> list[str]:
        """What a row may be marked as: the labels of the table, most rows first, then those that people gave beside."""
        with self.open() as (cursor, table):
            given = marked_labels(cursor, table.pipeline)
            if not has(table, "label"):
                return list(dict.fromkeys([*RIGHT_OR_WRONG, *given]))
            rows = cursor.execute(
                f"SELECT label FROM {identifier(table.name)} WHERE label IS NOT NULL "
                f"GROUP BY label ORDER BY count(*) DESC, label LIMIT {MAX_LABELS}"
            ).fetchall()
        return list(dict.fromkeys([*(str(label) for (label,) in rows), *given]))

    def close(self) -> None:
        self._lake.close()


def has(table: ResultTable, column: str) -> bool:
    return any(name == column for name, _ in table.results)


def shown_columns(table: ResultTable) -> Sequence[str]:
    """Key, kept and result columns: what a row is about."""
    return [name for name, _ in (*table.kept, *table.results)]
