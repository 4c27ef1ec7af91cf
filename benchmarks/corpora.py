"""The texts: bundled reviews (short), bundled e-mails (long-tailed), and a mix of both, as Parquet files of one shard.

Every corpus is drawn evenly from its source, in order, so that a part of it
looks like the whole. Columns are `n`, the row's place in the corpus, and `text`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.encoding.tokenizer import TextTokenizer

DATA = Path(__file__).parents[1] / "data"
TINY_SENTIMENT = DATA / "models" / "tiny-sentiment"
MAX_LENGTH = 512
NUM_WARM_UP_ROWS = 48
MIX_OF_EMAILS = 0.1
"""The share of e-mails in the mix; the rest are reviews."""


@dataclass(frozen=True)
class Corpus:
    """`lengths` are the rows' tokens after truncation, special tokens included; `warm_up` is a small file beside it."""

    name: str
    folder: Path
    num_rows: int
    lengths: tuple[int, ...]

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    @property
    def warm_up(self) -> Path:
        return self.folder / "warm-up.parquet"

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


def build(name: str, folder: Path, *, num_rows: int | None = None, num_files: int = 1) -> Corpus:
    """Write a corpus, replacing what lay in `folder`; every row of its source where `num_rows` is not given."""
    texts = SOURCES[name](num_rows)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bounds = np.linspace(0, len(texts), num_files + 1).astype(int).tolist()
    for number, (start, stop) in enumerate(pairwise(bounds)):
        _write(folder / f"part-{number:04}.parquet", texts, start, stop)
    _write(folder / "warm-up.parquet", texts, 0, min(NUM_WARM_UP_ROWS, len(texts)))
    return Corpus(name, folder, len(texts), tuple(token_lengths(texts)))


def token_lengths(texts: pa.Array, *, model: Path = TINY_SENTIMENT) -> list[int]:
    token_ids = TextTokenizer.load(model, max_length=MAX_LENGTH).encode(texts).token_ids
    return [int(length) for length in token_ids.value_lengths().to_pylist()]


def emails(num_rows: int | None = None) -> pa.Array:
    return _evenly(_bundled("emails"), num_rows)


def reviews(num_rows: int | None = None) -> pa.Array:
    return _evenly(_bundled("reviews"), num_rows)


def mix(num_rows: int | None = None) -> pa.Array:
    """Reviews and e-mails in a shuffled order that is always the same; texts repeat where there are too few."""
    num_rows = num_rows or 100_000
    num_emails = round(MIX_OF_EMAILS * num_rows)
    texts = pa.concat_arrays([emails(num_emails), reviews(num_rows - num_emails)])
    return texts.take(pa.array(np.random.default_rng(0).permutation(num_rows)))


SOURCES = {"emails": emails, "reviews": reviews, "mix": mix}


def _bundled(name: str) -> pa.Array:
    files = sorted((DATA / name).glob("*.parquet"))
    return pa.concat_tables(pq.read_table(path, columns=["text"]) for path in files)["text"].combine_chunks()


def _evenly(texts: pa.Array, num_rows: int | None) -> pa.Array:
    if num_rows is None:
        return texts
    rounds, rest = divmod(num_rows, len(texts))
    places = [*range(len(texts))] * rounds + np.linspace(0, len(texts), rest, endpoint=False).astype(int).tolist()
    return texts.take(pa.array(places))


def _write(path: Path, texts: pa.Array, start: int, stop: int) -> None:
    part = texts.slice(start, stop - start)
    pq.write_table(pa.table({"n": pa.array(range(start, stop), pa.int64()), "text": part}), path)
