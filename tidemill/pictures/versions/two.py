"""The rows that two versions both have, as what figures count."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidemill.lake import Cursor
from tidemill.models.comparing import Labels, Pair, Texts
from tidemill.models.comparing.texts import MOST_LABELS
from tidemill.pictures.figures.subject import Subject
from tidemill.reports.pairs import Compared, TwoVersions, pairs_query

PAIRS = "pairs"


@dataclass(frozen=True)
class Two:
    """The promoted version, and another one."""

    versions: TwoVersions
    changed: tuple[Compared, ...] = ()
    """Columns in which at least one row differs."""
    labels: frozenset[str] = frozenset()
    """Columns of labels, that is of values that may be shown and counted; other texts are what a model wrote."""

    @classmethod
    def of(cls, cursor: Cursor, subject: Subject, second: str) -> Two:
        """`second` is the beginning of a version's name.

        Raises:
            LakeError: there is no such version.
        """
        two = cls(TwoVersions.of(cursor, subject.table.pipeline, "promoted", second))
        changed = tuple(column for column in two.columns if two._is_changed(cursor, subject, column))
        labels = [column[1].name for column in two.columns if two._is_of_labels(cursor, subject, column)]
        return replace(two, changed=changed, labels=frozenset(labels))

    @property
    def columns(self) -> tuple[Compared, ...]:
        return self.versions.shared.columns

    @property
    def names(self) -> tuple[str, str]:
        return self.versions.a.version, self.versions.b.version

    @property
    def section(self) -> str:
        return f"Version {self.names[0]} and {self.names[1]}"

    def pairs(self, subject: Subject, *columns: Compared, kept: tuple[str, ...] = ()) -> Subject:
        """A subject whose rows are pairs, with these answers and kept columns; all of both where none is named."""
        shared = self.versions.shared
        asked = replace(shared, columns=columns, kept=kept) if columns else shared
        return subject.counting(PAIRS, pairs_query(self.versions.a, self.versions.b, asked))

    def _is_changed(self, cursor: Cursor, subject: Subject, column: Compared) -> bool:
        comparison, pair = column
        differs = comparison.differs(pair) or f"{pair.first} IS DISTINCT FROM {pair.second}"
        asked = self.pairs(subject, column).sql(f"SELECT 1 FROM {PAIRS} WHERE {differs} LIMIT 1")
        return bool(cursor.execute(asked).fetchall())

    def _is_of_labels(self, cursor: Cursor, subject: Subject, column: Compared) -> bool:
        """A classifier's always; of what a model wrote, few different values that rows share, as `compare` judges."""
        comparison, pair = column
        if not isinstance(comparison, Labels | Texts):
            return False
        if isinstance(comparison, Labels) and (subject.family != "texts" or pair.kind != "VARCHAR"):
            return True
        return self._has_few_values(cursor, subject, column, pair)

    def _has_few_values(self, cursor: Cursor, subject: Subject, column: Compared, pair: Pair) -> bool:
        counts = ", ".join(f"count(DISTINCT {side})" for side in (pair.first, pair.second))
        asked = self.pairs(subject, column).sql(f"SELECT count(*), {counts} FROM {PAIRS}")
        num_rows, *found = cursor.execute(asked).fetchall()[0]
        return bool(max(found) <= min(MOST_LABELS, num_rows // 2))
