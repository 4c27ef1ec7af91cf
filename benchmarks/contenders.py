"""What people write to classify texts, and Tidemill. Each runs in a process of its own (`benchmarks.worker`).

A contender loads its model, warms up on a few rows and returns a function that
does the work once. Its clock runs from that function's call to its return,
unless it says otherwise: Ray's starts when the actors have loaded their model,
Tidemill's ends when the last row is committed. None gets the results of
another row for its own: deduplication is off.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.corpora import MAX_LENGTH

TASK = "text-classification"
BATCH_SIZE = 32
POLL_SECONDS = 0.005

Answers = list[tuple[str, float]]
"""Label and score of each row, in order."""


class Skipped(Exception):
    """The contender cannot run here; the message says what is missing."""


class Clock(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Work:
    """What a contender gets. `options` are its own: a batch size, Tidemill's inference section."""

    model: Path
    files: list[Path]
    warm_up: Path
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)

    def texts(self) -> list[str]:
        return _texts(self.files)

    def few_texts(self) -> list[str]:
        return _texts([self.warm_up])


@dataclass
class Done:
    """What a run leaves: answers, and what it says of itself."""

    answers: Answers
    facts: dict[str, Any] = field(default_factory=dict)


Run = Callable[[Clock], Done]


def pipeline(work: Work) -> Run:
    """`transformers.pipeline` in fp32 (or `dtype`), over a list, at its default or with `batch_size`."""
    answers = pipeline_classifier(work)
    texts = work.texts()
    answers(work.few_texts())
    return lambda clock: Done(answers(texts))


def pipeline_classifier(work: Work) -> Callable[[list[str]], Answers]:
    """The pipeline, loaded, as a function of a list of texts."""
    import torch
    from transformers import pipeline as make_pipeline

    dtype = work.options.get("dtype", "float32")
    if dtype == "bfloat16" and work.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Skipped("the processor does not compute in bfloat16, which is emulated slowly")
    classify = make_pipeline(TASK, model=str(work.model), dtype=getattr(torch, dtype), device=work.device)
    batching = {"batch_size": work.options["batch_size"]} if "batch_size" in work.options else {}

    def answers(texts: list[str]) -> Answers:
        found = classify(texts, truncation=True, max_length=MAX_LENGTH, **batching)
        return [(answer["label"], answer["score"]) for answer in found]

    return answers


def datasets_map(work: Work) -> Run:
    """`datasets.map(batched=True)` around a tokenizer and a model in fp32."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    classify = _batch_classifier(work)
    home = tempfile.mkdtemp(prefix="bench-datasets-")

    def batched(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        labels, scores = classify(batch["text"])
        return {"label": labels, "score": scores}

    files = [str(path) for path in work.files]
    dataset = load_dataset("parquet", data_files=files, split="train", cache_dir=home)
    batched({"text": work.few_texts()})

    def run(clock: Clock) -> Done:
        done = dataset.map(batched, batched=True, batch_size=BATCH_SIZE, load_from_cache_file=False)
        clock.stop()
        return Done(list(zip(done["label"], done["score"], strict=True)))

    return run


def sorted_batches(work: Work) -> Run:
    """As sentence-transformers encodes: all texts sorted by length, longest first, then in batches of 32, in fp32."""
    classify = _batch_classifier(work)
    texts = work.texts()
    classify(work.few_texts())

    def run(clock: Clock) -> Done:
        order = np.argsort([-len(text) for text in texts])
        answers: dict[int, tuple[str, float]] = {}
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE].tolist()
            answers |= dict(zip(batch, zip(*classify([texts[i] for i in batch]), strict=True), strict=True))
        return Done([answers[i] for i in range(len(texts))])

    return run


def _batch_classifier(work: Work) -> Callable[[list[str]], tuple[list[str], list[float]]]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work.model)
    model = AutoModelForSequenceClassification.from_pretrained(work.model, dtype=torch.float32).to(work.device).eval()

    def classify(texts: list[str]) -> tuple[list[str], list[float]]:
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            best = model(**inputs.to(work.device)).logits.softmax(dim=-1).max(dim=-1)
        return [model.config.id2label[i] for i in best.indices.tolist()], best.values.tolist()

    return classify


class RayClassifier:
    """The class that Ray's guide has people write; says when its model is there."""

    def __init__(self, model: str, device: str, few_texts: list[str], ready: str) -> None:
        import torch
        from transformers import pipeline as make_pipeline

        self.classify = make_pipeline(TASK, model=model, dtype=torch.float32, device=device)
        self({"text": np.array(few_texts, dtype=object)})
        Path(tempfile.mkstemp(dir=ready)[1]).touch()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = batch["text"].tolist()
        found = self.classify(texts, batch_size=BATCH_SIZE, truncation=True, max_length=MAX_LENGTH)
        return batch | {"label": [answer["label"] for answer in found], "score": [answer["score"] for answer in found]}


def ray_data(work: Work) -> Run:
    """Ray Data's `map_batches` with a pool of actors, one a core (or one with the GPU), as its guide advises."""
    import ray

    num_cpus = len(os.sched_getaffinity(0))
    on_gpu = work.device.startswith("cuda")
    num_actors = 1 if on_gpu else num_cpus
    ready = tempfile.mkdtemp(prefix="bench-ray-")
    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=2**29,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_parquet([str(path) for path in work.files]).materialize()
    few_texts = work.few_texts()

    def run(clock: Clock) -> Done:
        answered = dataset.map_batches(
            RayClassifier,
            fn_constructor_args=(str(work.model), work.device, few_texts, ready),
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            batch_size=BATCH_SIZE,
            num_cpus=None if on_gpu else 1,
            num_gpus=1 if on_gpu else None,
        )
        _start_when_ready(clock, Path(ready), num_actors)
        rows = sorted(answered.take_all(), key=lambda row: row["n"])
        clock.stop()
        return Done([(row["label"], row["score"]) for row in rows])

    return run


def _start_when_ready(clock: Clock, folder: Path, num_expected: int) -> None:
    """Start the clock, in a thread, once every actor has left its file."""

    def wait() -> None:
        while len(list(folder.iterdir())) < num_expected:
            time.sleep(POLL_SECONDS)
        clock.start()

    threading.Thread(target=wait, daemon=True).start()


def tidemill_table(work: Work) -> Run:
    """The whole main job: Parquet files in, a committed table out, in a new lake; `options` are `inference`'s."""
    from tidemill.lake import Lake

    home = Path(tempfile.mkdtemp(prefix="bench-tidemill-"))
    _finish(_tidemill_pipeline(work, home / "warm-up", work.warm_up))
    asked = _tidemill_pipeline(work, home / "asked", work.files[0].parent / "part-*.parquet")

    def run(clock: Clock) -> Done:
        _finish(asked)
        clock.stop()
        with Lake(asked.lake, read_only=True) as lake:
            cursor = lake.cursor()
            answers = cursor.execute("SELECT label, score FROM bench ORDER BY n").fetchall()
            facts = _ledger_facts(cursor)
        shutil.rmtree(home)
        return Done(answers, facts)

    return run


def _finish(pipeline: Any) -> None:
    """Run a pipeline to its end; where it fails, its failure or its most frequent quarantine is why."""
    from tidemill.lake import Lake
    from tidemill.running.run import Run as TidemillRun

    result = TidemillRun(pipeline).execute()
    if result.state == "done":
        return
    with Lake(pipeline.lake, read_only=True) as lake:
        quarantined = lake.cursor().execute(
            "SELECT count(*) || ' rows: ' || reason FROM _quarantine GROUP BY reason ORDER BY count(*) DESC LIMIT 1"
        )
        reasons = [failure["message"] for failure in result.failures] + [reason for (reason,) in quarantined.fetchall()]
    raise Skipped((reasons or [result.state])[0])


def _ledger_facts(cursor: Any) -> dict[str, Any]:
    num_tokens, num_padded, infer_seconds, resolved = cursor.execute(
        "SELECT sum(num_computed_tokens)::BIGINT, sum(num_padded_tokens)::BIGINT, sum(infer_seconds), "
        "arg_max(resolved, committed_at) FROM _ledger"
    ).fetchall()[0]
    return {
        "num_tokens": num_tokens,
        "num_padded_tokens": num_padded,
        "infer_seconds": infer_seconds,
        "resolved": json.loads(resolved),
    }


def _tidemill_pipeline(work: Work, home: Path, files: Path) -> Any:
    from tidemill.config import Pipeline

    return Pipeline.model_validate(
        {
            "name": "bench",
            "dataset": {"path": str(files), "text": "text", "key": ["n"]},
            "tokenizer": {"max_length": MAX_LENGTH},
            "model": {"path": str(work.model)},
            "inference": {"deduplicate": False, "device": work.device, **work.options},
            "lake": {"catalog": f"sqlite:{home}/lake.sqlite", "data": f"{home}/lake"},
            "store": {"path": f"{home}/store"},
        }
    )


def tidemill_engine(work: Work) -> Run:
    """Tidemill's tokenizer and model over texts in memory, without reading, storing and committing."""
    import pyarrow as pa

    preparer, runner = _opened(_tidemill_pipeline(work, Path(tempfile.gettempdir()), work.warm_up))
    texts = [pa.table({"text": _texts([path])}) for path in work.files]
    runner.predict(preparer.prepare(pa.table({"text": work.few_texts()})))

    def run(clock: Clock) -> Done:
        found = [runner.predict(preparer.prepare(shard)) for shard in texts]
        clock.stop()
        stats = [predictions.stats for predictions in found]
        return Done(
            [pair for predictions in found for pair in _pairs(predictions.columns)],
            {
                "num_tokens": sum(one.num_tokens for one in stats),
                "num_padded_tokens": sum(one.num_padded_tokens for one in stats),
                "resolved": runner.resolved,
            },
        )

    return run


def bare_loop(work: Work) -> Run:
    """The limit: the engine's forward passes alone, over the batches that Tidemill makes, tokenized and padded before.

    Its warm-up is a file's prediction, which settles the token budget as it does in a run.
    """
    return bare_loop_of(_tidemill_pipeline(work, Path(tempfile.gettempdir()), work.warm_up), work)


def bare_loop_of(pipeline: Any, work: Work) -> Run:
    """`bare_loop` of a pipeline's model."""
    import pyarrow as pa
    import pyarrow.compute as pc

    preparer, runner = _opened(pipeline)
    shards = [preparer.prepare(pa.table({"text": _texts([path])})) for path in work.files]
    runner.predict(max(shards, key=lambda prepared: len(pc.list_flatten(prepared["token_ids"]))))
    batches = list(_padded_batches(shards, runner.token_budget))

    def run(clock: Clock) -> Done:
        for _ in _outputs(runner.engine, batches):
            pass
        clock.stop()
        num_padded = sum(batch["input_ids"].size for batch in batches)
        return Done([], {"num_padded_tokens": num_padded, "resolved": runner.resolved})

    return run


def _outputs(engine: Any, batches: list[Any]) -> Iterator[Any]:
    """Each batch's outputs, with as many batches on their way as the engine asks for."""
    waiting: deque[Any] = deque()
    for batch in batches:
        waiting.append(engine.submit(batch))
        if len(waiting) == engine.depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _padded_batches(shards: list[Any], token_budget: int) -> Iterator[Any]:
    """What the model is given, of every batch."""
    from tidemill.encoding.batching import plan_batches
    from tidemill.encoding.items import Items

    for prepared in shards:
        items = Items.of(prepared, deduplicate=False)
        for batch in plan_batches(items.lengths, token_budget=token_budget):
            yield items.collate(batch, pad_id=0)


def _opened(pipeline: Any) -> tuple[Any, Any]:
    """The preparer and the model as a run opens them."""
    from tidemill.inference.opening import load_preparer, load_runner
    from tidemill.planning.versions import declared

    spec = declared(pipeline)
    return load_preparer(spec), load_runner(spec, pipeline.inference)


def _pairs(columns: Any) -> Answers:
    return list(zip(columns["label"].to_pylist(), columns["score"].to_pylist(), strict=True))


def _texts(files: list[Path]) -> list[str]:
    import pyarrow.parquet as pq

    return [text for path in files for text in pq.read_table(path, columns=["text"])["text"].to_pylist()]


CONTENDERS: dict[str, Callable[[Work], Run]] = {
    "pipeline": pipeline,
    "datasets.map": datasets_map,
    "sorted batches": sorted_batches,
    "ray": ray_data,
    "tidemill": tidemill_table,
    "tidemill engine": tidemill_engine,
    "bare loop": bare_loop,
}


def prepare(name: str, work: Work) -> Run:
    """Load and warm up.

    Raises:
        Skipped: a package is missing, or this Tidemill does not know an option or cannot compute so.
    """
    from pydantic import ValidationError

    from tidemill.errors import InputError

    try:
        return CONTENDERS[name](work)
    except (ImportError, ValidationError, InputError) as e:
        raise Skipped(" ".join(str(e).split())[:200]) from e
