"""Made-up tables to report on, and what their reports say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.lakes import PIPELINE, commit_rows, lake_at
from tests.pipelines import make_pipeline
from tidemill.config import Pipeline
from tidemill.pictures import Report, make_report
from tidemill.pictures.figures.figure import Picture

MARKUP = "<script>document.title='run'</script>"
"""What is text wherever it stands."""


def made_pipeline(
    folder: Path,
    labels: Sequence[str | None],
    scores: Sequence[float | None] | None = None,
    /,
    *,
    sections: dict[str, Any] | None = None,
    **kept: Any,
) -> Pipeline:
    """A pipeline with a table of these answers, `id` as its key, and other kept columns."""
    count = len(labels)
    given = [0.5 + 0.4 * (number % 5) / 5 for number in range(count)] if scores is None else list(scores)
    results = pa.table({"label": pa.array(labels, pa.string()), "score": pa.array(given, pa.float32())})
    rows = pa.table({"id": [f"row-{number}" for number in range(count)], **kept})
    commit_rows(lake_at(folder), rows, [count // 2, count - count // 2] if count > 1 else [count], results=results)
    return make_pipeline(folder, "nowhere", name=PIPELINE, dataset={"keep": list(kept)}, **(sections or {}))


def shown(report: Report, id: str) -> Picture:  # noqa: A002
    found = report.find(id)
    assert found is not None, f"{id} is none of {[picture.figure.id for picture in report.pictures]}"
    return found


def rows_of(report: Report, id: str) -> list[dict[str, Any]]:  # noqa: A002
    return shown(report, id).records()


def ids_of(pipeline: Pipeline, **options: Any) -> set[str]:
    return {picture.figure.id for picture in make_report(pipeline, **options).pictures}
