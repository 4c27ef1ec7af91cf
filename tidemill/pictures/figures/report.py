"""A report: a table's pictures, in the order in which they are shown, and the same for machines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tidemill.pictures.figures.figure import Picture, exact
from tidemill.pictures.figures.subject import Subject

MOST_MAIN = 4
"""Pictures that are shown where there is no room for a page."""


@dataclass(frozen=True)
class Report:
    """A subject with its pictures, in the order in which they are shown."""

    subject: Subject
    pictures: tuple[Picture, ...]
    made_at: datetime
    against: str | None = None
    """The version that is shown beside the promoted one."""

    def find(self, id: str) -> Picture | None:  # noqa: A002
        return next((picture for picture in self.pictures if picture.figure.id == id), None)

    @property
    def main_pictures(self) -> list[Picture]:
        """Those that say most at a glance, of which none shows a single row."""
        return [picture for picture in self.pictures if not picture.is_of_rows and picture.rows][:MOST_MAIN]

    def to_json(self) -> dict[str, Any]:
        """The figures for machines: what most ask for comes first."""
        subject = self.subject
        facts: dict[str, Any] = exact(
            {
                "pipeline": subject.pipeline.name,
                "num_rows": subject.num_rows,
                "labels": dict(subject.labels) or self._written_labels(),
                "truth": self._truth(),
                "version": subject.table.version,
                "against": self.against,
                "revision": subject.revision,
                "fresh_at": subject.fresh_at,
                "made_at": self.made_at,
                "holds_texts": subject.with_texts,
                "notes": list(subject.notes),
                "figures": [picture.to_json() for picture in self.pictures],
            }
        )
        return facts

    def _written_labels(self) -> dict[str, int]:
        """Where a model wrote one of few answers, how many rows have which."""
        found = self.find("labels")
        return {str(name): num_rows for name, num_rows, *_ in found.rows} if found else {}

    def _truth(self) -> dict[str, Any] | None:
        agreement, by_label = self.find("truth"), self.find("truth-by-label")
        if agreement is None or by_label is None:
            return None
        return {
            **agreement.records()[0],
            "expression": self.subject.truth.declared if self.subject.truth else None,
            "labels": {str(row.pop("label")): row for row in by_label.records()},
        }
