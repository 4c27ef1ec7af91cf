"""What the pipeline around the model costs: time over the bare loop, and memory by the number of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.comparison import DEFAULT
from benchmarks.corpora import TINY_SENTIMENT, Corpus, build
from benchmarks.measure import Contender, Say, Turn, best_of, notes, take_turn
from benchmarks.report import Section, number, times

WHOLE = Contender("files to table", "tidemill", DEFAULT)
ENGINE = Contender("tokenizer and model in memory", "tidemill engine", DEFAULT)
BARE = Contender("bare loop over the same batches", "bare loop", DEFAULT)


def overhead(corpus: Corpus, *, turns: int, device: str, say: Say) -> Section:
    """Files to table over the bare loop: what reading, tokenizing, storing and committing add."""
    say(f"Overhead: {corpus.num_rows:,} rows in {len(corpus.files)} shards")
    contenders = (WHOLE, ENGINE, BARE)
    found = best_of(contenders, corpus, TINY_SENTIMENT, turns=turns, device=device, say=say)
    return Section(
        title="The whole pipeline over the bare loop",
        conditions=(
            f"{corpus.name}: {corpus.num_rows:,} rows, {corpus.num_tokens:,} tokens in {len(corpus.files)} shards; "
            f"tiny-sentiment on {device}; the bare loop has its batches tokenized and padded beforehand; "
            f"the best of {turns} turns"
        ),
        header=("", "seconds", "tokens/s", "× bare loop", "CPU seconds", "× bare loop's"),
        rows=[_overhead_row(turn, corpus, found[-1]) for turn in found],
        notes=notes(found),
        facts={
            "rows": corpus.num_rows,
            "tokens": corpus.num_tokens,
            "shards": len(corpus.files),
            "seconds": {turn.label: turn.seconds for turn in found},
            "cpu_seconds": {turn.label: turn.cpu_seconds for turn in found},
            "resolved": found[-1].facts.get("resolved"),
        },
    )


def _overhead_row(turn: Turn, corpus: Corpus, bare: Turn) -> tuple[str, ...]:
    if turn.skipped:
        return (turn.label, "skipped", "", "", "", "")
    return (
        turn.label,
        number(turn.seconds, 2),
        number(corpus.num_tokens / turn.seconds),
        times(turn.seconds / bare.seconds if bare.seconds else None),
        number(turn.cpu_seconds, 1),
        times(turn.cpu_seconds / bare.cpu_seconds if bare.cpu_seconds else None),
    )


def memory(home: Path, num_shards: tuple[int, int], rows_per_shard: int, *, device: str, say: Say) -> Section:
    """The most memory of a run over few and over many shards of one size."""
    facts = [_peak(home, count, rows_per_shard, device=device, say=say) for count in num_shards]
    few = facts[0]
    return Section(
        title="Memory by the number of shards",
        conditions=(
            f"reviews, {rows_per_shard:,} rows a shard, tiny-sentiment on {device}; files to table in a fresh process"
        ),
        header=("shards", "rows", "peak MB", "× few", "above the loaded model, MB"),
        rows=[
            (
                number(fact["shards"]),
                number(fact["rows"]),
                number(fact["peak_bytes"] / 2**20),
                times(fact["peak_bytes"] / few["peak_bytes"]),
                number((fact["peak_bytes"] - fact["loaded_bytes"]) / 2**20),
            )
            for fact in facts
        ],
        facts={"runs": facts},
    )


def _peak(home: Path, num_shards: int, rows_per_shard: int, *, device: str, say: Say) -> dict[str, Any]:
    corpus = build("reviews", home / "corpus", num_rows=num_shards * rows_per_shard, num_files=num_shards)
    say(f"Memory: {num_shards} shards")
    turn = take_turn(WHOLE, corpus, TINY_SENTIMENT, device=device, say=say)
    return {
        "shards": num_shards,
        "rows": corpus.num_rows,
        "peak_bytes": turn.peak_bytes,
        "loaded_bytes": turn.loaded_bytes,
        "seconds": turn.seconds,
    }
