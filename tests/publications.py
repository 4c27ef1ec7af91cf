"""Tables that are published to the loopback Hub and read back, with nothing in between that remembers."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.hub.repo import Commit
from tests.hub.server import HubServer
from tests.pipelines import make_pipeline, reviews, run, write_parquet
from tidemill.config import Pipeline
from tidemill.publishing.model import propose_model
from tidemill.publishing.proposal import Published, carried_out
from tidemill.publishing.repositories.writing import Repository
from tidemill.publishing.table import Asked, propose_table

ROWS = 12


def table_of_files(folder: Path, num_files: int = 3, **sections: Any) -> Pipeline:
    """A pipeline that has run over small files of real reviews."""
    for number in range(num_files):
        write_parquet(folder / "data" / f"{number}.parquet", reviews(ROWS * number, ROWS))
    pipeline = make_pipeline(folder, f"{folder}/data/*.parquet", **sections)
    run(pipeline)
    return pipeline


def publish(pipeline: Pipeline, to: str, **asked: Any) -> Published:
    repository = Repository("dataset", to)
    with tempfile.TemporaryDirectory() as folder:
        done = carried_out(
            lambda: propose_table(pipeline, repository, Asked(**asked), Path(folder)), agree=lambda proposal: True
        )
    assert done is not None
    return done


def publish_model(folder: Path, to: str, **asked: Any) -> Published:
    repository = Repository("model", to)
    done = carried_out(
        lambda: propose_model(folder, repository, **{"public": False, **asked}), agree=lambda proposal: True
    )
    assert done is not None
    return done


def read_back(to: str, config: str | None = None, split: str = "train") -> list[dict[str, Any]]:
    """Its rows, as `datasets` reads them with an empty cache: from a full one it would answer in silence."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        found = datasets.load_dataset(to, config, split=split, cache_dir=cache)
        return list(found.to_list())


def rows_there(hub: HubServer, to: str) -> list[dict[str, Any]]:
    """The rows of the data files of the head, as they lie there."""
    files = head_of(hub, "datasets", to).files
    contents = [b"".join(files[path].pieces(0, files[path].size)) for path in sorted(files) if path.startswith("data/")]
    return [row for content in contents for row in pq.read_table(io.BytesIO(content)).to_pylist()]


def commits_of(hub: HubServer, kind: str, to: str) -> list[str]:
    """Their titles, oldest first, less the one that a repository begins with."""
    return [commit.message for commit in head_of(hub, kind, to).history()][-2::-1]


def head_of(hub: HubServer, kind: str, to: str) -> Commit:
    repo = hub.repos[kind, to]
    return repo.commits[repo.branches["main"]]


def objects_sent(hub: HubServer) -> int:
    """How many large files were sent here and taken, whole or in parts."""
    return sum(request.method == "PUT" and request.status == 200 for request in hub.log)
