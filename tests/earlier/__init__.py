"""Lakes, their stores and their data as a Tidemill of a time left them, and how the next one is packed.

`python -m tests.earlier` leaves what this Tidemill makes. An archive that is there stays as it is: the code that
made it is gone, and whoever has such a lake still has it.
"""

from __future__ import annotations

import csv
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.pipelines import ROOT, make_pipeline, query, reviews, run, write_parquet
from tidemill.config import Pipeline
from tidemill.lake.ducklake.connection import LAYOUT_VERSION

FOLDER = ROOT / "tests" / "earlier"
ARCHIVES = tuple(sorted(FOLDER.glob("*.tar.gz")))
BUNDLED = ROOT / "data" / "models" / "tiny-sentiment"
RUN_COLUMNS = ("shard_id", "dataset_revision")
"""Of a row: what says when it was made."""

PIPELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "reviews": ("*.parquet", {}),
    "windows": (
        "*.jsonl",
        {
            "dataset": {"text": ["domain", "text"], "text_separator": ": ", "keep": ["domain"]},
            "tokenizer": {"long_text": "windows", "max_length": 32, "overlap": 4, "aggregate": "max"},
            "model": {"all_scores": True},
        },
    ),
    "short": (
        "*.csv",
        {
            "dataset": {"delimiter": ";", "keep": []},
            "tokenizer": {"long_text": "quarantine", "max_length": 24},
            "model": {"pad_token_id": 0},
        },
    ),
}
"""By name: which files a pipeline reads, and what it says of them. An archive has some of these."""
TOKENIZER_APART = ("short",)
"""Those that name the model's tokenizer as if it were another's."""


def pipeline_over(left: Path, folder: Path, name: str, *, model: Path = BUNDLED, **sections: Any) -> Pipeline:
    """The pipeline of that name over the data of an unpacked archive, with its lake and its store in `folder`."""
    files, own = PIPELINES[name]
    said = {"model": {"path": str(model), **own.get("model", {})}, "limits": {"max_quarantine": 1.0}}
    if name in TOKENIZER_APART:
        said["tokenizer"] = {"path": str(model), **own.get("tokenizer", {})}
    return make_pipeline(folder, f"{left}/data/{files}", name=name, **{**own, **said, **sections})


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def expected(left: Path) -> dict[str, Any]:
    """What the archive says of itself: by name the version, rows and quarantined rows; names of its token shards."""
    found: dict[str, Any] = json.loads((left / "expected.json").read_text())
    # The first archive has one pipeline alone.
    return found if "pipelines" in found else {"pipelines": {"reviews": found}, "tokens": found["tokens"]}


def rows_of(pipeline: Pipeline, columns: Any = ()) -> list[dict[str, Any]]:
    """What `sql` gives, each row without what says when it was made."""
    every = [name for name, *_ in query(pipeline.lake, f"DESCRIBE {pipeline.name}") if name not in RUN_COLUMNS]
    names = list(columns) or every
    found = query(pipeline.lake, f"SELECT {', '.join(names)} FROM {pipeline.name} ORDER BY id, row_number")
    return [dict(zip(names, row, strict=True)) for row in found]


def quarantined(pipeline: Pipeline) -> list[list[Any]]:
    found = query(
        pipeline.lake,
        "SELECT path, row_number, stage, reason FROM _quarantine "
        f"WHERE pipeline = '{pipeline.name}' ORDER BY path, row_number",
    )
    return [list(row) for row in found]


def write_data(folder: Path) -> None:
    """Reviews in three formats: long ones, one twice, and one without a text."""
    for number in range(3):
        write_parquet(folder / f"{number}.parquet", _with_oddities(reviews(20 * number, 15)))
    with (folder / "texts.jsonl").open("w") as lines:
        for row in _with_oddities(reviews(100, 12)).select(["id", "domain", "text"]).to_pylist():
            lines.write(f"{json.dumps(row)}\n")
    with (folder / "texts.csv").open("w", newline="") as table:
        writer = csv.writer(table, delimiter=";")
        writer.writerow(["id", "text"])
        writer.writerows((row["id"], row["text"]) for row in reviews(200, 12).to_pylist())


def _with_oddities(rows: pa.Table) -> pa.Table:
    texts = rows["text"].to_pylist()
    texts[1], texts[2], texts[3] = texts[0], None, " ".join(reviews(300, 30)["text"].to_pylist())
    return rows.set_column(rows.column_names.index("text"), "text", pa.array(texts, pa.string()))


def leave(folder: Path) -> None:
    """Fill a folder with data, a lake and a store, and with what is to be found in them."""
    write_data(folder / "data")
    # So that nothing in it says where the checkout lay.
    (folder / "model").symlink_to(BUNDLED)
    told = {}
    for name in PIPELINES:
        pipeline = pipeline_over(folder, folder, name, model=folder / "model")
        result = run(pipeline)
        assert result.state == "done", result.notes
        told[name] = {"version": result.version, "rows": rows_of(pipeline), "quarantine": quarantined(pipeline)}
    tokens = sorted(path.name for path in (folder / "store" / "tokens").iterdir())
    (folder / "expected.json").write_text(json.dumps({"pipelines": told, "tokens": tokens}, indent=0))


def pack(archive: Path) -> None:
    """Leave it in a folder that is gone then: a lake that is opened elsewhere must not find where it was made."""
    with tempfile.TemporaryDirectory(prefix="tidemill-earlier-") as made:
        leave(Path(made))
        with tarfile.open(archive, "w:gz") as packed:
            for name in ("data", "lake", "lake.sqlite", "store", "expected.json"):
                packed.add(Path(made) / name, name, filter=_by_nobody)


def _by_nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def main() -> None:
    archive = FOLDER / f"layout-{LAYOUT_VERSION}.tar.gz"
    if archive.exists():
        raise SystemExit(f"{archive} is there, and what made it may be gone: it stays.")
    pack(archive)
    print(f"{archive}: {archive.stat().st_size:,} bytes")
