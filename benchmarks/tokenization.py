"""The tokenize stage's work alone, beside the bare tokenizer on the same texts and threads.

Ours: `TextTokenizer.encode`, truncation, Arrow columns and a store file. Bare:
`tokenizers.Tokenizer.encode_batch_fast` on a list of the same strings, whose
ids nobody takes. Tokens are counted before truncation, which both have to make.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.corpora import MAX_LENGTH, SOURCES, TINY_SENTIMENT
from benchmarks.report import Section, number, percent
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.storage.store import Store, StoreFile

NUM_TURNS = 5
ROWS_PER_SHARD = 4_000


def section(corpora: dict[str, int | None]) -> Section:
    """A row a corpus, by name and number of rows."""
    facts = {name: _measure(SOURCES[name](num_rows)) for name, num_rows in corpora.items()}
    return Section(
        title="The tokenize stage",
        conditions=(
            "TextTokenizer.encode and the store's write, beside encode_batch_fast alone, tokens before truncation; "
            f"{len(os.sched_getaffinity(0))} cores, the best of {NUM_TURNS}"
        ),
        header=("", "rows", "tokens", "stage tokens/s", "bare tokens/s", "of bare", "of bare a CPU second"),
        rows=[
            (
                name,
                number(fact["rows"]),
                number(fact["tokens"]),
                number(fact["tokens"] / fact["stage"]["seconds"]),
                number(fact["tokens"] / fact["bare"]["seconds"]),
                percent(fact["bare"]["seconds"] / fact["stage"]["seconds"]),
                percent(fact["bare"]["cpu_seconds"] / fact["stage"]["cpu_seconds"]),
            )
            for name, fact in facts.items()
        ],
        facts=facts,
    )


def _measure(texts: pa.Array) -> dict[str, Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer = TextTokenizer.load(TINY_SENTIMENT, max_length=MAX_LENGTH)
    shards = [texts.slice(start, ROWS_PER_SHARD) for start in range(0, len(texts), ROWS_PER_SHARD)]
    lists, bare_tokenizer = [shard.to_pylist() for shard in shards], _bare_tokenizer()
    with tempfile.TemporaryDirectory(prefix="bench-tokens-") as folder:
        store = Store(folder, max_bytes=2**40)
        rounds = [
            (_timed(_stage, tokenizer, store, shards), _timed(_bare, bare_tokenizer, lists)) for _ in range(NUM_TURNS)
        ]
    stage, bare = (min(side, key=lambda one: one["seconds"]) for side in zip(*rounds, strict=True))
    assert stage["result"] == bare["result"], "the two sides made different tokens"
    return {"rows": len(texts), "tokens": stage["result"], "stage": stage, "bare": bare}


def _timed(run: Any, *args: Any) -> dict[str, Any]:
    cpu, started = time.process_time(), time.perf_counter()
    result = run(*args)
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu, "result": result}


def _stage(tokenizer: TextTokenizer, store: Store, shards: list[pa.Array]) -> int:
    num_tokens = 0
    for number_, shard in enumerate(shards):
        tokens = tokenizer.encode(shard)
        columns = {"token_ids": tokens.token_ids, "num_tokens": tokens.num_tokens, "reason": tokens.reason}
        store.write(StoreFile("tokens", str(number_)), pa.table(columns))
        num_tokens += pc.sum(tokens.num_tokens).as_py()
    return num_tokens


def _bare(tokenizer: Any, lists: list[list[str]]) -> int:
    return sum(len(encoding) for texts in lists for encoding in tokenizer.encode_batch_fast(texts))


def _bare_tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY_SENTIMENT / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
