"""Embeddings: files to a committed table beside `SentenceTransformer.encode`, and the search over what is kept.

    python -m benchmarks.embeddings MODEL [--corpora reviews,emails] [--rows 2000] [--turns 2] [--search 1000000]

MODEL is a folder of sentence-transformers, such as that of all-MiniLM-L6-v2. Each turn is a fresh process, and the best
of each contender counts. `cosine` is the least between a row's vector and that of `encode` at its defaults, which
computes in float32; `CPU s` is what the process took, for a machine on which others work too. `of the peak` is the
model's own operations over texts without padding, beside the fastest product of matrices in the same dtype; `of
sustained` beside products for five seconds.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contenders import Work
from benchmarks.corpora import Corpus, build
from benchmarks.embedding_worker import pipeline
from benchmarks.limits import Products, forward_flops, matmul_products, products_of
from benchmarks.machine import this_machine
from benchmarks.measure import in_process
from tidemill.config import Lake as LakeOptions
from tidemill.encoding.items import Items
from tidemill.inference.opening import load_preparer
from tidemill.lake import Cursor, Lake
from tidemill.lake.tables import ResultTable, create_result_table, insert_rows, limit_inlining, point_view
from tidemill.planning.versions import declared

CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SentenceTransformer.encode": ("sentence-transformers", {}),
    "Tidemill, defaults": ("tidemill vectors", {}),
    "Tidemill, float32": ("tidemill vectors", {"dtype": "float32"}),
    "Tidemill, int8": ("tidemill vectors", {"dtype": "int8"}),
    "limit: bare loop, defaults": ("bare loop", {}),
    "limit: bare loop, int8": ("bare loop", {"dtype": "int8"}),
}
SIZE = 384
ROWS_TOGETHER = 50_000
NEAREST = """
    WITH asked AS (SELECT embedding FROM notes WHERE id = 17)
    SELECT id, array_cosine_similarity(notes.embedding, asked.embedding) AS similarity
    FROM notes, asked ORDER BY similarity DESC LIMIT 10
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", type=Path, nargs="?")
    asked.add_argument("--corpora", default="reviews,emails")
    asked.add_argument("--rows", type=int, help="of each corpus; all unless given")
    asked.add_argument("--turns", type=int, default=2)
    asked.add_argument("--contenders", default="", help="a pattern; all beside SentenceTransformer unless given")
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--search", type=int, default=1_000_000, help="rows that are searched; 0 leaves it out")
    given = asked.parse_args()
    print(this_machine(), flush=True)
    products = matmul_products(given.device) if given.model else {}
    for dtype, each in products.items():
        rates = f"{each.peak / 1e9:,.0f} GFLOP/s at best, {each.sustained / 1e9:,.0f} sustained"
        print(f"products in {dtype}: {rates}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-embeddings-") as folder:
        for name in given.corpora.split(",") if given.model else ():
            corpus = build(name, Path(folder, name), num_rows=given.rows)
            compare(corpus, given.model, given.contenders, products, turns=given.turns, device=given.device)
        if given.search:
            search(Path(folder), given.search)


def compare(
    corpus: Corpus, model: Path, pattern: str, products: dict[str, Products], *, turns: int, device: str
) -> None:
    lengths = _lengths(corpus, model)
    flops = forward_flops(model, lengths, built_as="AutoModel")
    print(
        f"{corpus.name}, {corpus.num_rows:,} rows, {sum(lengths):,} tokens, "
        f"{flops / sum(lengths) / 1e6:.1f} million operations a token",
        flush=True,
    )
    first = next(iter(CONTENDERS))
    asked = {label: how for label, how in CONTENDERS.items() if label == first or re.search(pattern, label)}
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in asked}
    for _ in range(turns):
        for label, (kind, options) in asked.items():
            found[label].append(take_turn(kind, options, corpus, model, device, corpus.folder / f"{label}.npy"))
    expected, *others = asked
    best = {label: min(tried, key=lambda turn: turn.get("seconds", np.inf)) for label, tried in found.items()}
    for label in (expected, *others):
        print(told(label, best[label], best[expected], corpus, flops, products), flush=True)


def _lengths(corpus: Corpus, model: Path) -> list[int]:
    """Tokens of each text, as a run gives them to the model."""
    work = Work(model, corpus.files, corpus.warm_up)
    preparer = load_preparer(declared(pipeline(work, corpus.folder, corpus.warm_up)))
    prepared = preparer.prepare(pa.concat_tables(pq.read_table(path, columns=["text"]) for path in corpus.files))
    return Items.of(prepared, deduplicate=False).lengths.tolist()


def take_turn(
    kind: str, options: dict[str, Any], corpus: Corpus, model: Path, device: str, vectors: Path
) -> dict[str, Any]:
    request = {
        "contender": kind,
        "model": str(model.absolute()),
        "files": [str(path) for path in corpus.files],
        "warm_up": str(corpus.warm_up),
        "device": device,
        "options": {**options, "vectors": str(vectors)},
    }
    try:
        return in_process("benchmarks.embedding_worker", request) | {"vectors": vectors}
    except RuntimeError as e:
        return {"skipped": str(e).splitlines()[-1]}


def told(
    label: str,
    turn: dict[str, Any],
    expected: dict[str, Any],
    corpus: Corpus,
    flops: float,
    products: dict[str, Products],
) -> str:
    if "skipped" in turn:
        return f"  {label:<28} skipped: {turn['skipped']}"
    compared = "skipped" not in expected and turn["vectors"].exists()
    cosine = "" if not compared else f"{least_cosine(turn['vectors'], expected['vectors']):10.5f}"
    resolved = turn["facts"].get("resolved") or {}
    times = "" if "skipped" in expected else f"{expected['seconds'] / turn['seconds']:6.2f}"
    cpu_times = "" if "skipped" in expected else f"{expected['cpu_seconds'] / turn['cpu_seconds']:6.2f}"
    rates, reached = products.get(products_of(resolved.get("dtype", "float32"))), flops / turn["seconds"]
    of_peak = f"{reached / rates.peak:.1%} of the peak, {reached / rates.sustained:.1%} of sustained, " if rates else ""
    how = f"{resolved.get('engine', '')} {resolved.get('dtype', 'float32')}".strip()
    return (
        f"  {label:<28} {turn['seconds']:8.1f} s {turn['cpu_seconds']:8.1f} CPU s "
        f"{corpus.num_rows / turn['seconds']:8,.0f} rows/s, times as fast {times}, by CPU {cpu_times}, "
        f"{of_peak}cosine {cosine}, {how}"
    )


def least_cosine(ours: Path, theirs: Path) -> float:
    a, b = np.load(ours), np.load(theirs)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def search(home: Path, num_rows: int) -> None:
    """The ten nearest of `num_rows` drawn vectors, through the view, on all cores; and over bare rows in memory."""
    options = LakeOptions(catalog=f"sqlite:{home}/search.sqlite", data=f"{home}/search")
    with Lake(options) as lake:
        table = ResultTable("notes", "drawn", (("id", "BIGINT"),), (("embedding", f"FLOAT[{SIZE}]"),), num_keys=1)
        lake.write(lambda cursor: begin(cursor, table), message="begin")
        for rows in drawn(num_rows):
            lake.write(partial(insert_rows, table=table.name, rows=rows), message="fill")
    with Lake(options, read_only=True, scans=True) as lake:  # As `tidemill sql` opens it.
        cursor = lake.cursor()
        times = [timed(cursor, NEAREST) for _ in range(5)]
        print(f"the ten nearest of {num_rows:,} rows of {SIZE}, from Parquet files: {told_times(times)}", flush=True)
        cursor.execute(f"CREATE TEMP TABLE held AS SELECT id, embedding::FLOAT[{SIZE}] AS embedding FROM notes")
        times = [timed(cursor, NEAREST.replace("notes", "held")) for _ in range(5)]
        print(f"  from a table in memory: {told_times(times)}", flush=True)


def begin(cursor: Cursor, table: ResultTable) -> None:
    limit_inlining(cursor)
    create_result_table(cursor, table)
    point_view(cursor, table)


def drawn(num_rows: int) -> Iterator[pa.Table]:
    draw = np.random.default_rng(0)
    for start in range(0, num_rows, ROWS_TOGETHER):
        vectors = draw.standard_normal((min(ROWS_TOGETHER, num_rows - start), SIZE), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), SIZE)
        yield pa.table({"id": pa.array(range(start, start + len(vectors)), pa.int64()), "embedding": column})


def timed(cursor: Cursor, query: str) -> tuple[float, float]:
    """Seconds, and those of all cores together."""
    started, cpu = time.perf_counter(), time.process_time()
    found = cursor.execute(query).fetchall()
    seconds = time.perf_counter() - started, time.process_time() - cpu
    assert [row for row, _ in found[:1]] == [17], "the nearest of a row is not the row itself"
    return seconds


def told_times(times: list[tuple[float, float]]) -> str:
    (first, _), (best, cpu) = times[0], min(times)
    return f"{first:.2f} s at first, {best:.2f} s at best ({cpu:.2f} CPU s)"


if __name__ == "__main__":
    main()
