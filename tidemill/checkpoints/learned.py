"""Which texts a model that was trained on this machine learned from, by their hashes, and by what the model is.

They are no part of the model's folder: whoever has a text could ask it of them.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tidemill.places import home, make_folders, published

COLUMN = "text_hash"


def keep_learned(model: str, hashes: pa.Array) -> None:
    """`model` is the identity that a version has of it, `hashes` are those of `encoding.text_hashes`."""
    import pyarrow.parquet as pq

    path = _path(model)
    make_folders(path.parent)
    with published(path) as unpublished:
        pq.write_table(pa.table({COLUMN: hashes.storage}), unpublished)


def learned_texts(model: str) -> list[bytes]:
    """None of a model that nobody trained here."""
    import pyarrow.parquet as pq

    path = _path(model)
    if not model.startswith("sha256:") or not path.is_file():
        return []
    try:
        found: list[bytes] = pq.read_table(path)[COLUMN].to_pylist()
    except (OSError, KeyError, pa.ArrowException):
        return []
    return found


def _path(model: str) -> Path:
    return home() / "learned" / f"{model.rpartition(':')[2]}.parquet"
