"""Tidemill beside what people write: the same texts, model and device, in one run, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import BATCH_SIZE, Answers
from benchmarks.corpora import Corpus
from benchmarks.limits import Products, forward_flops, products_of
from benchmarks.measure import Contender, Say, Turn, best_of, notes
from benchmarks.report import Section, dtype_of, number, percent, times

BASELINE = "pipeline, batch_size=32"
PIPELINES = (
    Contender("pipeline, one by one", "pipeline"),
    Contender("pipeline, batch_size=8", "pipeline", {"batch_size": 8}),
    Contender(BASELINE, "pipeline", {"batch_size": BATCH_SIZE}),
)
IN_BF16 = Contender("pipeline in bf16, batch_size=32", "pipeline", {"batch_size": BATCH_SIZE, "dtype": "bfloat16"})
OTHERS = (
    Contender("datasets.map, batches of 32", "datasets.map"),
    Contender("sorted by length, batches of 32", "sorted batches"),
    Contender("Ray Data, map_batches of 32", "ray"),
)
DEFAULT = {"engine": "auto"}
TORCH, OPENVINO = {"engine": "torch"}, {"engine": "openvino"}
# Its drift is in the table, and is no reason for this run to end.
INT8 = {"engine": "openvino", "dtype": "int8", "max_drift": 1.0}
FP32 = {"engine": "torch", "dtype": "float32"}


def tidemill(name: str, options: dict[str, Any]) -> tuple[Contender, Contender]:
    """Files to table, and its limit."""
    return (
        Contender(f"Tidemill, {name}", "tidemill", options),
        Contender(f"limit: bare loop, {name}", "bare loop", options),
    )


def compare(
    title: str,
    corpus: Corpus,
    model: Path,
    contenders: Sequence[Contender],
    *,
    turns: int,
    device: str,
    products: dict[str, Products],
    say: Say,
) -> Section:
    say(f"{title}: {corpus.num_rows:,} rows, {corpus.num_tokens:,} tokens, {len(corpus.files)} files")
    found = best_of(contenders, corpus, model, turns=turns, device=device, say=say)
    flops = forward_flops(model, corpus.lengths)
    facts = [_facts(one, turn, corpus, found, flops, products) for one, turn in zip(contenders, found, strict=True)]
    return Section(
        title=title,
        conditions=(
            f"{corpus.name}: {corpus.num_rows:,} rows, {corpus.num_tokens:,} tokens "
            f"(median {int(np.median(corpus.lengths))}, most {max(corpus.lengths)}), {len(corpus.files)} files; "
            f"{model.name} on {device}, {flops / corpus.num_tokens / 1e6:.1f} million operations a token; "
            f"deduplication off; the best of {turns} turns"
        ),
        header=(
            "", "tokens/s", "rows/s", "× batch_size=32", "× best pipeline", "of limit", "of matmul peak",
            "of sustained", "padding", "cores used", "GPU busy", "peak MB", "load s", "same label", "drift p99",
        ),
        rows=[_row(fact) for fact in facts],
        notes=notes(found),
        facts={
            "corpus": _corpus_facts(corpus),
            "model": model.name,
            "turns": turns,
            "flops_per_token": flops / corpus.num_tokens,
            "contenders": facts,
        },
    )  # fmt: skip


def _corpus_facts(corpus: Corpus) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "rows": corpus.num_rows,
        "tokens": corpus.num_tokens,
        "median": float(np.median(corpus.lengths)),
        "files": len(corpus.files),
    }


def _facts(
    one: Contender, turn: Turn, corpus: Corpus, found: Sequence[Turn], flops: float, products: dict[str, Products]
) -> dict[str, Any]:
    if turn.skipped:
        return {"label": one.label, "kind": one.kind, "skipped": turn.skipped}
    done = {other.label: other for other in found if not other.skipped}
    pipelines = [done[each.label].seconds for each in PIPELINES if each.label in done]
    limit = done.get(one.label.replace("Tidemill, ", "limit: bare loop, ")) if one.kind == "tidemill" else None
    baseline = done.get(BASELINE)
    dtype = (turn.facts.get("resolved") or {}).get("dtype", "float32")
    rates, reached = products.get(products_of(dtype)), flops / turn.seconds
    return {
        "label": one.label,
        "kind": one.kind,
        "options": one.options,
        "resolved": turn.facts.get("resolved"),
        "seconds": turn.seconds,
        "load_seconds": turn.load_seconds,
        "tokens_per_second": corpus.num_tokens / turn.seconds,
        "rows_per_second": corpus.num_rows / turn.seconds,
        "times_baseline": baseline.seconds / turn.seconds if baseline else None,
        "times_best_pipeline": min(pipelines) / turn.seconds if pipelines else None,
        "of_limit": limit.seconds / turn.seconds if limit else None,
        "of_peak": reached / rates.peak if rates else None,
        "of_sustained": reached / rates.sustained if rates else None,
        "padding": 1 - corpus.num_tokens / num_padded_by(one, turn, corpus),
        "cores": turn.cpu_seconds / turn.seconds,
        "others": turn.others,
        "gpu_busy": turn.gpu_busy,
        "peak_bytes": turn.peak_bytes,
        "agreement": _agreement(turn.answers, baseline.answers) if baseline and turn.answers else None,
        "drift": _drift(turn.answers, baseline.answers) if baseline and turn.answers else None,
    }


def _row(fact: dict[str, Any]) -> tuple[str, ...]:
    if "skipped" in fact:
        return (fact["label"], "skipped", *[""] * 13)
    return (
        _named(fact),
        number(fact["tokens_per_second"]),
        number(fact["rows_per_second"], 1),
        times(fact["times_baseline"]),
        times(fact["times_best_pipeline"]),
        percent(fact["of_limit"]),
        percent(fact["of_peak"], 1),
        percent(fact["of_sustained"], 1),
        percent(fact["padding"]),
        number(fact["cores"], 2),
        percent(fact["gpu_busy"]),
        number(fact["peak_bytes"] / 2**20),
        number(fact["load_seconds"], 1),
        percent(fact["agreement"], 2),
        number(fact["drift"], 4),
    )


def _named(fact: dict[str, Any]) -> str:
    """The label, and what it computed in: of Tidemill, all that `auto` came to."""
    resolved = fact["resolved"]
    if not resolved:
        return f"{fact['label']} ({dtype_of(fact)})"
    facts = [str(resolved[name]) for name in ("engine", "dtype", "token_budget") if name in resolved]
    return f"{fact['label']} ({', '.join(facts)})"


def num_padded_by(one: Contender, turn: Turn, corpus: Corpus) -> int:
    """The tokens that the model saw, padding included: counted by Tidemill, else by how the batches were cut."""
    if "num_padded_tokens" in turn.facts:
        return int(turn.facts["num_padded_tokens"])
    lengths = sorted(corpus.lengths, reverse=True) if one.kind == "sorted batches" else corpus.lengths
    size = one.options.get("batch_size", 1 if one.kind == "pipeline" else BATCH_SIZE)
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return sum(len(batch) * max(batch) for batch in batches)


def _agreement(ours: Answers, theirs: Answers) -> float:
    return sum(one[0] == other[0] for one, other in zip(ours, theirs, strict=True)) / len(theirs)


def _drift(ours: Answers, theirs: Answers) -> float:
    drifts = sorted(abs(one[1] - other[1]) for one, other in zip(ours, theirs, strict=True))
    return drifts[int(0.99 * (len(drifts) - 1))]
