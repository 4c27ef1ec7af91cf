"""A pipeline tried on a few rows: nothing is written to the lake or the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from tidemill.config import Pipeline
from tidemill.formats import KEPT_PREFIX
from tidemill.inference.opening import load_preparer, load_runner
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Preparer
from tidemill.planning.plan import make_plan
from tidemill.running.stages import with_reasons, with_texts
from tidemill.shards import SourceFile
from tidemill.sources.dataset import Dataset


def sample(pipeline: Pipeline, num_rows: int) -> list[dict[str, Any]]:
    """The first rows of the first shards with their predictions: path, row number, text, key, kept and result columns.

    Raises:
        InputError: as for a plan; this finds what is wrong with a pipeline at the least cost.
    """
    plan, dataset = make_plan(pipeline, None)
    spec = plan.spec
    preparer, runner = load_preparer(spec), load_runner(spec, pipeline.inference)
    found: list[dict[str, Any]] = []
    for path, rows in _first_rows(dataset, plan.readable, num_rows):
        results = answers_to(rows, preparer, runner)
        for row, result in zip(_records(rows.drop_columns(["reason"])), _records(results), strict=True):
            found.append({"path": path, **{name.removeprefix(KEPT_PREFIX): v for name, v in row.items()}, **result})
    return found


def answers_to(rows: pa.Table, preparer: Preparer, runner: ModelRunner) -> pa.Table:
    """What a version's table would hold of rows, or the stage and the reason why not."""
    tokens = preparer.prepare(rows)
    predicted = runner.predict(with_texts(tokens, rows, preparer.reads), preparer=preparer)
    return with_reasons(rows, tokens, predicted.columns, predicted.reason)


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """A dict each, and a dict of each map in it: as `sql` gives them."""
    rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    return rows


def _first_rows(dataset: Dataset, files: Sequence[SourceFile], num_rows: int) -> Iterator[tuple[str, pa.Table]]:
    left = num_rows
    for file in files:
        reader = dataset.reader(file)
        for cut in reader.slices(shard_bytes=dataset.shard_bytes):
            rows = reader.rows(cut).slice(0, left)
            left -= rows.num_rows
            yield file.path, rows
            if left <= 0:
                return
