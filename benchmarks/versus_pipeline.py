"""Tokens a second beside `transformers.pipeline`, on the sample e-mails.

    python -m benchmarks.versus_pipeline [--rows 600] [--repeat 3]
    python -m benchmarks.versus_pipeline --budgets 512 1024 2048 4096

All get the same texts, cut at 512 tokens, and are charged for tokenizing them;
"files to table" also for planning, reading Parquet and committing to a new lake.
Counted are tokens after truncation and before padding. Models are loaded
beforehand. Ours runs with deduplication off: e-mails repeat, and the pipeline
would not know.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.checkpoint import load_config, max_positions
from tidemill.config import Inference
from tidemill.inference import ModelRunner
from tidemill.tokenization import TextTokenizer

DATA = Path(__file__).parents[1] / "data"
MODEL = DATA / "models" / "tiny-sentiment"
TASK = "text-classification"
ROWS_PER_FILE = 600

Answers = list[tuple[str, float]]


@dataclass(frozen=True)
class Measured:
    name: str
    seconds: float
    answers: Answers


def as_people_write_it(texts: pa.Array, *, batch_size: int = 32) -> Callable[[], Answers]:
    """What a newcomer's script does, once its model is loaded."""
    import torch
    from transformers import pipeline

    classify = pipeline(TASK, model=str(MODEL), dtype=torch.float32, device="cpu")

    def run() -> Answers:
        answers = classify(texts.to_pylist(), batch_size=batch_size, truncation=True, max_length=512)
        return [(answer["label"], answer["score"]) for answer in answers]

    return run


def engine(texts: pa.Array, inference: Inference) -> Callable[[], Answers]:
    """Our tokenization and inference, without reading and committing."""
    tokenizer = _tokenizer()
    runner = ModelRunner.load(MODEL, task=TASK, inference=inference)

    def run() -> Answers:
        columns = runner.predict(tokenizer.encode(texts).token_ids).columns
        return list(zip(columns["label"].to_pylist(), columns["score"].to_pylist(), strict=True))

    return run


def files_to_table(texts: pa.Array) -> Callable[[], Answers]:
    """The whole main job: Parquet files in, a queryable table out, in a new lake each time."""
    from tidemill.config import Pipeline
    from tidemill.lake import Lake
    from tidemill.run import Run

    folder = Path(tempfile.mkdtemp(prefix="tidemill-bench-"))
    for number, start in enumerate(range(0, len(texts), ROWS_PER_FILE)):
        part = texts.slice(start, ROWS_PER_FILE)
        pq.write_table(pa.table({"n": range(start, start + len(part)), "text": part}), folder / f"{number:03}.parquet")

    def run() -> Answers:
        home = Path(tempfile.mkdtemp(dir=folder))
        pipeline = Pipeline.model_validate(
            {
                "name": "emails",
                "dataset": {"path": f"{folder}/*.parquet", "text": "text", "key": ["n"]},
                "tokenizer": {"max_length": 512},
                "model": {"path": str(MODEL)},
                "inference": {"deduplicate": False},
                "lake": {"catalog": f"sqlite:{home}/lake.sqlite", "data": f"{home}/lake"},
                "store": {"path": f"{home}/store"},
            }
        )
        assert Run(pipeline).execute().state == "done"
        with Lake(pipeline.lake, read_only=True) as lake:
            return lake.cursor().execute("SELECT label, score FROM emails ORDER BY n").fetchall()

    return run


def machine() -> str:
    """The hardware and the day, for whoever copies the numbers."""
    import platform

    from tidemill.devices import device_name, resolve_device, resolve_dtype

    device = resolve_device("cpu")
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    return f"{device_name(device)}, {os.cpu_count()} cores, {dtype}, Python {platform.python_version()}, {date.today()}"


def measure(runs: dict[str, Callable[[], Answers]], *, repeat: int) -> list[Measured]:
    """The best of `repeat` runs of each, in turns: noise of a shared machine only ever adds time."""
    rounds = [[_timed(name, run) for name, run in runs.items()] for _ in range(repeat)]
    return [min(turns, key=lambda one: one.seconds) for turns in zip(*rounds, strict=True)]


def _timed(name: str, run: Callable[[], Answers]) -> Measured:
    started = time.perf_counter()
    answers = run()
    return Measured(name, time.perf_counter() - started, answers)


def _tokenizer() -> TextTokenizer:
    return TextTokenizer.load(MODEL, max_length=512, model_max_length=max_positions(load_config(MODEL)))


def emails(num_rows: int) -> pa.Array:
    files = sorted((DATA / "emails").glob("*.parquet"))
    return pq.read_table(files, columns=["text"])["text"].slice(0, num_rows).combine_chunks()


def report(measured: list[Measured], num_tokens: int) -> Iterator[str]:
    baseline = measured[0]
    yield f"{'':36} {'seconds':>8} {'tokens/s':>9} {'times':>6} {'same label':>11} {'drift p99':>10}"
    for one in measured:
        yield (
            f"{one.name:36} {one.seconds:8.1f} {num_tokens / one.seconds:9,.0f} "
            f"{baseline.seconds / one.seconds:6.1f} {_agreement(one, baseline):11.2%} {_drift(one, baseline):10.4f}"
        )


def _agreement(one: Measured, baseline: Measured) -> float:
    pairs = list(zip(one.answers, baseline.answers, strict=True))
    return sum(ours[0] == theirs[0] for ours, theirs in pairs) / len(pairs)


def _drift(one: Measured, baseline: Measured) -> float:
    drifts = sorted(abs(ours[1] - theirs[1]) for ours, theirs in zip(one.answers, baseline.answers, strict=True))
    return drifts[int(0.99 * (len(drifts) - 1))]


def _versus(texts: pa.Array) -> dict[str, Callable[[], Answers]]:
    return {
        "transformers.pipeline, batch_size=32": as_people_write_it(texts),
        "tidemill's engine": engine(texts, Inference(deduplicate=False)),
        "tidemill, files to table": files_to_table(texts),
    }


def _by_budget(texts: pa.Array, budgets: list[int]) -> dict[str, Callable[[], Answers]]:
    return {
        f"tidemill's engine, budget {budget}": engine(texts, Inference(deduplicate=False, token_budget=budget))
        for budget in budgets
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="*", help="compare these token budgets instead")
    args = parser.parse_args()

    texts = emails(args.rows)
    num_tokens = len(_tokenizer().encode(texts).token_ids.values)
    print(f"{machine()}\n{len(texts):,} e-mails, {num_tokens:,} tokens; the best of {args.repeat} turns")
    runs = _by_budget(texts, args.budgets) if args.budgets else _versus(texts)
    print("\n".join(report(measure(runs, repeat=args.repeat), num_tokens)))


if __name__ == "__main__":
    main()
