"""What people write to embed texts, and Tidemill: one contender, once, in this process (`benchmarks.embeddings`).

The vectors are left in the file that the option `vectors` names, in the order of the rows' `n`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contenders, worker
from benchmarks.contenders import Done, Run, Work, _finish, _ledger_facts

MODES = {"task": "sentence-similarity"}


def sentence_transformer(work: Work) -> Run:
    """`SentenceTransformer.encode` over a list of all texts, at its defaults."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(work.model), device=work.device, local_files_only=True)
    texts = work.texts()
    model.encode(work.few_texts())

    def run(clock: contenders.Clock) -> Done:
        vectors = model.encode(texts)
        clock.stop()
        np.save(work.options["vectors"], vectors)
        return Done([], {"num_rows": len(vectors)})

    return run


def tidemill_vectors(work: Work) -> Run:
    """Parquet files in, a committed table out, in a new lake."""
    from tidemill.lake import Lake

    home = Path(tempfile.mkdtemp(prefix="bench-tidemill-"))
    _finish(pipeline(work, home / "warm-up", work.warm_up))
    asked = pipeline(work, home / "asked", work.files[0].parent / "part-*.parquet")

    def run(clock: contenders.Clock) -> Done:
        _finish(asked)
        clock.stop()
        with Lake(asked.lake, read_only=True) as lake:
            cursor = lake.cursor()
            np.save(work.options["vectors"], _vectors(cursor))
            facts = _ledger_facts(cursor)
        shutil.rmtree(home)
        return Done([], facts)

    return run


def bare_loop(work: Work) -> Run:
    """The limit: `contenders.bare_loop` of a model of embeddings."""
    return contenders.bare_loop_of(pipeline(work, Path(tempfile.gettempdir()), work.warm_up), work)


def _vectors(cursor: Any) -> np.ndarray:
    column = cursor.execute("SELECT embedding FROM bench ORDER BY n").to_arrow_table()["embedding"].combine_chunks()
    vectors: np.ndarray = column.flatten().to_numpy().reshape(len(column), -1)
    return vectors


def pipeline(work: Work, home: Path, files: Path) -> Any:
    from tidemill.config import Pipeline

    inference = {name: value for name, value in work.options.items() if name != "vectors"}
    return Pipeline.model_validate(
        {
            "name": "bench",
            "dataset": {"path": str(files), "text": "text", "key": ["n"]},
            "model": {"path": str(work.model), **MODES},
            "inference": {"deduplicate": False, "device": work.device, **inference},
            "lake": {"catalog": f"sqlite:{home}/lake.sqlite", "data": f"{home}/lake"},
            "store": {"path": f"{home}/store"},
        }
    )


def main() -> None:
    os.environ |= worker.OFFLINE
    contenders.CONTENDERS |= {
        "sentence-transformers": sentence_transformer,
        "tidemill vectors": tidemill_vectors,
        "bare loop": bare_loop,
    }
    worker.main()


if __name__ == "__main__":
    main()
