"""One service for all tests of a module's kind: models are opened once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipelines import make_pipeline, reviews, run, write_parquet
from tests.services import Served, serving
from tidemill.config import Pipeline

NUM_ROWS = 40


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pipeline that ran."""
    folder = tmp_path_factory.mktemp("served")
    write_parquet(folder / "data" / "0.parquet", reviews(0, NUM_ROWS))
    pipeline = make_pipeline(folder, f"{folder}/data/*")
    run(pipeline)
    return pipeline


@pytest.fixture(scope="session")
def served(reviewed: Pipeline) -> Iterator[Served]:
    with serving(reviewed) as found:
        yield found
