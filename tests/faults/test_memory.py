"""Memory is bounded by the shards in flight, never by the dataset."""

from __future__ import annotations

import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines import make_pipeline
from tests.processes import Process
from tidemill.config import Pipeline

ROW_BYTES = 2000
BOUND = 1.2


def peak_bytes(pipeline: Pipeline, home: Path) -> int:
    """The most memory that the process of one run held, models and libraries included."""
    from tests.processes import run_in_process

    assert run_in_process(pipeline, home)["state"] == "done"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_texts(path: Path, num_bytes: int, *, row_group_bytes: int | None = None) -> None:
    """Long texts, other ones in each file, alike in their first tokens: a short `max_length` makes them cheap."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_rows = num_bytes // ROW_BYTES
    words = "a film that is very good and long " * (ROW_BYTES // 34)
    texts = pa.array([f"{words} {path.stem} {i}" for i in range(num_rows)])
    rows = None if row_group_bytes is None else row_group_bytes // ROW_BYTES
    pq.write_table(pa.table({"text": texts}), path, row_group_size=rows or num_rows, use_dictionary=False)


def pipeline_over(folder: Path, data: Path, shard_bytes: int) -> Pipeline:
    return make_pipeline(
        folder,
        f"{data}/*.parquet",
        dataset={"key": [], "keep": [], "shard_bytes": shard_bytes},
        tokenizer={"max_length": 8},
    )


@pytest.mark.parametrize(
    ("shard_bytes", "few", "many", "giant_bytes"),
    [
        pytest.param(2**18, 8, 24, 2**22, id="quick"),
        pytest.param(2**22, 10, 100, 200 * 2**20, id="full", marks=pytest.mark.soak),
    ],
)
def test_peak_memory_does_not_grow_with_the_dataset(tmp_path, shard_bytes, few, many, giant_bytes):
    for number in range(many):
        folder = tmp_path / "many" / f"{number:03}.parquet"
        write_texts(folder, shard_bytes)
    (tmp_path / "few").mkdir()
    for path in sorted((tmp_path / "many").iterdir())[:few]:
        (tmp_path / "few" / path.name).symlink_to(path)
    write_texts(tmp_path / "giant" / "one-row-group.parquet", giant_bytes)
    peaks = {
        name: Process(
            peak_bytes, pipeline_over(tmp_path / f"lake-{name}", tmp_path / name, shard_bytes), tmp_path / "home"
        ).result(timeout=3000)
        for name in ("few", "many", "giant")
    }
    assert peaks["many"] <= BOUND * peaks["few"], peaks
    assert peaks["giant"] <= BOUND * peaks["few"], peaks
