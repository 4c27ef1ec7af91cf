"""A pipeline measured on a sample of its own data: each stage alone, all together, and which one bounds it.

Nothing of it reaches the pipeline's lake or store: the run is a real one, into a lake that is thrown away.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.config import Inference, Pipeline
from tidemill.encoding import windowing as windows
from tidemill.encoding.batching import plan_batches
from tidemill.encoding.items import Items
from tidemill.engines.feeding import outputs_of_each
from tidemill.errors import InputError
from tidemill.inference.opening import load_preparer, load_runner
from tidemill.inference.rounds import Keep, predict_in_rounds
from tidemill.inference.runner import ModelRunner
from tidemill.inference.work import Predictions
from tidemill.lake import Lake
from tidemill.lake.ledger import seconds_by_stage
from tidemill.machine import num_cpus
from tidemill.models.tasks import Preparer
from tidemill.planning.plan import make_plan
from tidemill.planning.versions import VersionSpec
from tidemill.running.run import Run
from tidemill.running.stages import with_texts
from tidemill.shards import SourceFile
from tidemill.sources.dataset import Dataset
from tidemill.values.columns import TEXTS

NUM_SHARDS = 6
"""Files that the sample is written to, so that the stages have something to overlap."""
GOOD_RATIO = 1.10
"""A whole pipeline that takes no longer than this, over the bare engine, is bounded by its model."""
MUCH_PADDING = 0.05


@dataclass(frozen=True)
class StageSpeed:
    """One stage alone: it had the machine to itself, but for `materialize`, which is taken from the whole run."""

    stage: str
    seconds: float
    rows_per_second: float
    tokens_per_second: float


def find_bottleneck(pipeline: Pipeline, *, num_rows: int) -> dict[str, Any]:
    """Measure the pipeline on about its first `num_rows` rows.

    Raises:
        InputError: as for a plan; or the dataset has no rows with text.
    """
    plan, dataset = make_plan(pipeline, None)
    started = time.perf_counter()
    rows, num_rows_read = _read(dataset, plan.readable, num_rows)
    ingest_seconds = (time.perf_counter() - started) * rows.num_rows / max(1, num_rows_read)
    if rows.num_rows == 0:
        raise InputError(f"The dataset {pipeline.dataset.path} has no rows with text to measure.")
    started = time.perf_counter()
    preparer, runner = load_preparer(plan.spec), load_runner(plan.spec, pipeline.inference)
    load_seconds = time.perf_counter() - started

    tokenize_seconds, tokens = _timed(lambda: preparer.prepare(rows))
    prepared = with_texts(tokens, rows, preparer.reads)
    rounds = _warm_up(runner, prepared, preparer)
    infer_seconds, predictions = _timed_alone(lambda: runner.predict(prepared, preparer=preparer))
    bare_seconds, _ = _timed(lambda: _bare_loop(runner, rounds, pipeline.inference))
    whole = _run_whole(pipeline, plan.spec, rows)

    num_tokens = windows.num_tokens(prepared["token_ids"])
    num_read = sum(windows.num_tokens(each["token_ids"]) for each in rounds)
    stages = [
        StageSpeed(name, seconds, _rate(rows.num_rows, seconds), _rate(tokens, seconds))
        for name, seconds, tokens in (
            ("ingest", ingest_seconds, num_tokens),
            ("tokenize", tokenize_seconds, num_tokens),
            ("infer", infer_seconds, num_read),
            ("materialize", whole["materialize_seconds"], num_tokens),
        )
    ]
    slowest = max(stages, key=lambda each: each.seconds)
    padding = predictions.stats.num_padded_tokens / max(1, predictions.stats.num_tokens) - 1
    facts = {
        "pipeline": pipeline.name,
        "num_rows": rows.num_rows,
        "num_tokens": num_tokens,
        "num_cpus": num_cpus(),
        "resolved": runner.resolved,
        "load_seconds": load_seconds,
        "stages": [asdict(each) for each in stages],
        "bare_engine_seconds": bare_seconds,
        "padding": padding,
        "duplicates": 1 - predictions.stats.num_distinct / max(1, predictions.stats.num_items),
        "whole": whole,
        "ratio_to_bare_engine": whole["seconds"] / bare_seconds,
        "bottleneck": slowest.stage,
    }
    return facts | {"advice": list(_advice(facts))}


def _read(dataset: Dataset, files: Sequence[SourceFile], num_rows: int) -> tuple[pa.Table, int]:
    """The first rows that have text, and how many rows were read to get them."""
    parts: list[pa.Table] = []
    num_read = 0
    for file in files:
        reader = dataset.reader(file)
        for cut in reader.slices(shard_bytes=dataset.shard_bytes):
            rows = reader.rows(cut)
            parts.append(
                rows.select([name for name in TEXTS if name in rows.column_names]).filter(rows["text"].is_valid())
            )
            num_read += rows.num_rows
            if sum(part.num_rows for part in parts) >= num_rows:
                return pa.concat_tables(parts).slice(0, num_rows), num_read
    return (pa.concat_tables(parts) if parts else pa.table({"text": pa.array([], pa.string())})), num_read


def _warm_up(runner: ModelRunner, prepared: pa.Table, preparer: Preparer) -> list[pa.Table]:
    """Calibrate, and compile what comes up often; returns what the model reads: the rows, and those of later rounds."""
    rounds: list[pa.Table] = []

    def predict(rows: pa.Table, _: Keep) -> Predictions:
        rounds.append(rows)
        return runner.predict_round(rows)

    if runner.reads_again:
        predict_in_rounds(prepared, lambda: runner.task, preparer=preparer, predict=predict)
    else:
        predict(prepared, lambda _: None)
    return rounds


def _bare_loop(runner: ModelRunner, rounds: Sequence[pa.Table], inference: Inference) -> None:
    """The same batches through the engine, as many on their way as it takes, and nothing else."""
    for prepared in rounds:
        items = Items.of(prepared, deduplicate=inference.deduplicate)
        budget = max(runner.token_budget, int(items.lengths.max(initial=1)))
        planned = plan_batches(items.lengths, token_budget=budget, company=runner.engine.company)
        for _ in outputs_of_each(runner.engine, (items.collate(batch, pad_id=0) for batch in planned)):
            pass


def _run_whole(pipeline: Pipeline, spec: VersionSpec, rows: pa.Table) -> dict[str, Any]:
    """Files to table, in a lake of its own."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        as_parts = spec.joined_text.as_parts
        per_file = math.ceil(rows.num_rows / NUM_SHARDS)
        for number, start in enumerate(range(0, rows.num_rows, per_file)):
            part = rows.slice(start, per_file)
            if as_parts:
                Path(folder, f"{number}.jsonl").write_bytes(_records(part["text"], spec.text))
            else:
                pq.write_table(part, Path(folder, f"{number}.parquet"))
        sample = pipeline.model_copy(
            update={
                "dataset": pipeline.dataset.model_copy(
                    update={
                        "path": f"{folder}/*",
                        "config": None,
                        "format": "jsonl" if as_parts else "parquet",
                        "text": list(spec.text) if as_parts else ["text"],
                        "text_pair": ["text_pair"] if "text_pair" in rows.column_names else [],
                        "key": [],
                        "keep": [],
                        "types": {},
                    }
                ),
                "lake": pipeline.lake.model_copy(
                    update={"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"}
                ),
                "store": pipeline.store.model_copy(update={"path": f"{folder}/store"}),
            }
        )
        before = os.times()
        result = Run(sample).execute()
        after = os.times()
        with Lake(sample.lake, read_only=True) as lake:
            seconds = seconds_by_stage(lake.cursor(), result.run_id)
        return {
            "state": result.state,
            "seconds": result.seconds,
            "rows_per_second": _rate(result.num_rows, result.seconds),
            "tokens_per_second": _rate(result.num_tokens, result.seconds),
            "cpu_use": (after.user + after.system - before.user - before.system) / result.seconds / num_cpus(),
            "materialize_seconds": seconds.get("materialize_seconds", 0.0),
        }


def _records(texts: pa.ChunkedArray, columns: Sequence[str]) -> bytes:
    """Lines of JSON, of rows whose columns came apart."""
    rows = (dict(zip(columns, orjson.loads(text), strict=True)) for text in texts.to_pylist())
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _advice(facts: dict[str, Any]) -> Iterator[str]:
    resolved, bottleneck = facts["resolved"], facts["bottleneck"]
    if bottleneck == "ingest":
        yield "Reading bounds it. Parquet with its text in a column of its own reads least; a near mirror helps most."
    if bottleneck == "tokenize":
        yield "Tokenizing bounds it. It takes all CPUs it gets: give the tokenize stage a machine of its own."
    if bottleneck == "materialize":
        yield "Committing bounds it: shards are small. Raise dataset.shard_bytes."
    if bottleneck == "infer":
        yield "The model bounds it, as it should."
        yield from _advice_on_engine(resolved)
        if facts["padding"] > MUCH_PADDING:
            yield f"{facts['padding']:.1%} of it is padding. Larger shards sort better: raise dataset.shard_bytes."
        if facts["ratio_to_bare_engine"] > GOOD_RATIO:
            yield "The other stages take their CPU time from the model: larger shards commit less often."
    if fallback := resolved.get("fallback"):
        yield fallback


def _advice_on_engine(resolved: dict[str, Any]) -> Iterator[str]:
    if resolved["device"] == "cpu" and importlib.util.find_spec("openvino") is None:
        yield 'On a CPU OpenVINO is often faster: pip install "tidemill[openvino]".'
    was_tried = "tokens_per_second" in resolved.get("auto", {})
    dtype = resolved["dtype"]
    if why := resolved.get(f"{dtype}_because"):
        yield f"It computes in {dtype}: {why}."
    elif dtype == "float32" and not was_tried:
        yield "It computes in float32: this device has no faster bfloat16, or inference.dtype asks for it."


def _timed_alone(predict: Callable[[], Predictions]) -> tuple[float, Predictions]:
    """Without what is done once: a contest that was held meanwhile, or a measurement of int8, leaves a note."""
    seconds, predictions = _timed(predict)
    return _timed(predict) if predictions.notes else (seconds, predictions)


def _timed(call: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _rate(amount: int, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0
