"""Files as people have them, from listing to table: whatever holds the rows, the table is the same."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.pipelines import make_pipeline, problems_of, run, table_of
from tests.variants import variants

ROWS = [{"id": i, "text": f"schön, {word}"} for i, word in enumerate(["good", "a bad film", "fine", "the worst"] * 5)]


def latin_csv(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "a.csv"
    path.write_text("".join(f"{row['id']};{row['text']}\n" for row in ROWS), encoding="latin-1")
    return path, {"delimiter": ";", "encoding": "latin-1", "header": False, "names": ["id", "text"]}


def array_in_objects(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "a.json"
    path.write_text(json.dumps({"about": [1], "data": {"items": ROWS}}, indent=2), encoding="utf-16")
    return path, {"field": "data.items"}


def archive(folder: Path) -> tuple[Path, dict[str, Any]]:
    with zipfile.ZipFile(folder / "reviews.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("reviews.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "reviews.zip", {}


def saved(folder: Path) -> tuple[Path, dict[str, Any]]:
    whole = datasets.Dataset.from_list(ROWS)
    both = datasets.DatasetDict(train=whole.select([0, 1]), test=whole)
    both.save_to_disk(folder / "saved", num_shards={"train": 1, "test": 2})
    return folder / "saved", {"split": "test"}


@pytest.mark.parametrize("lay", variants([latin_csv, array_in_objects, archive, saved], [latin_csv, archive]))
def test_the_table_has_the_rows_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, lay: Callable[[Path], tuple[Path, dict[str, Any]]]
) -> None:
    path, options = lay(tmp_path)
    dataset = {"key": ["id"], "keep": ["text as said"], **options}
    pipeline = make_pipeline(tmp_path / "lake", str(path), dataset=dataset)

    assert run(pipeline).num_rows == len(ROWS)

    rows = table_of(pipeline).values()
    assert sorted((row["id"], row["said"]) for row in rows) == [(row["id"], row["text"]) for row in ROWS]
    assert problems_of(pipeline) == []
    assert run(pipeline).num_rows == 0
