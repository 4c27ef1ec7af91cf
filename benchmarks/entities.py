"""Token classification, files to table, beside `pipeline("token-classification")` with so many rows at once.

    python -m benchmarks.entities [--rows 1000] [--turns 3] [--corpus reviews] [--strategy simple] [--set KEY=VALUE ...]

The model has the bundled one's encoder and a random head, by which about one token in twelve is of an entity.
Each turn computes the rows once with each, in turn, in this process; printed are medians and how many times as
fast Tidemill is. What it opens and compiles is counted apart, for both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from benchmarks.machine import this_machine
from benchmarks.turns import OURS, take_turns
from tidemill.config import Pipeline, with_overrides
from tidemill.lake import Lake
from tidemill.running.run import Run

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "data" / "models" / "tiny-sentiment"
BATCH_SIZES = (1, 8, 32)
LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
SHARE_OF_ENTITIES = 1 / 12

Entities = list[tuple[str, int, int]]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=1000)
    asked.add_argument("--turns", type=int, default=3)
    asked.add_argument("--corpus", choices=("reviews", "emails"), default="reviews")
    asked.add_argument("--strategy", default="simple")
    asked.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    given = asked.parse_args()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as home:
        compare(Path(home), given.rows, given.turns, given.corpus, given.strategy, given.settings)


def compare(home: Path, num_rows: int, turns: int, corpus: str, strategy: str, settings: Sequence[str]) -> None:
    texts = read_texts(corpus, num_rows)
    (home / "data").mkdir()
    pq.write_table(pa.table({"text": texts}), home / "data" / "texts.parquet")
    save_model(home / "model", texts[:50])
    contenders: dict[str, Callable[[], list[Entities]]] = {
        OURS: lambda: by_tidemill(home, strategy, settings),
        **{f"pipeline, {size} at once": by_pipeline(home, strategy, size) for size in BATCH_SIZES},
    }
    found = {name: compute() for name, compute in contenders.items()}  # what they open is counted for none
    print(this_machine())
    print(f"{num_rows:,} {corpus}, {sum(map(len, found[OURS])):,} entities, aggregation_strategy {strategy}")
    take_turns(contenders, turns, num_rows, "have the same entities")


def read_texts(corpus: str, num_rows: int) -> list[str]:
    files = sorted((ROOT / "data" / corpus).glob("*.parquet"))
    texts = pa.concat_tables([pq.read_table(path, columns=["text"]) for path in files])["text"].to_pylist()
    return [text for text in texts if text][:num_rows]


def save_model(folder: Path, texts: Sequence[str]) -> None:
    """A token classifier, biased to `O` until so many of the texts' tokens are of entities as are wanted."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    config = transformers.AutoConfig.from_pretrained(MODEL, id2label=dict(enumerate(LABELS)))
    torch.manual_seed(0)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        MODEL, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
    ).eval()
    torch.nn.init.normal_(model.classifier.weight)
    with torch.inference_mode():
        inputs = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
        logits = model(**inputs).logits[inputs["attention_mask"].bool()]
        lead = logits[:, 1:].amax(dim=1) - logits[:, 0]
        model.classifier.bias[0] += torch.quantile(lead, 1 - SHARE_OF_ENTITIES)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def by_pipeline(home: Path, strategy: str, batch_size: int) -> Callable[[], list[Entities]]:
    pipeline = transformers.pipeline(
        "token-classification", model=str(home / "model"), aggregation_strategy=strategy, device="cpu"
    )
    name = "entity" if strategy == "none" else "entity_group"

    def compute() -> list[Entities]:
        texts = pq.read_table(home / "data" / "texts.parquet")["text"].to_pylist()
        return [
            [(one[name], one["start"], one["end"]) for one in entities]
            for entities in pipeline(texts, batch_size=batch_size)
        ]

    return compute


def by_tidemill(home: Path, strategy: str, settings: Sequence[str]) -> list[Entities]:
    """A lake and a store of its own each time: nothing is left to copy."""
    with tempfile.TemporaryDirectory() as folder:
        raw: dict[str, Any] = {
            "name": "entities",
            "dataset": {"path": f"{home}/data/*.parquet", "text": "text"},
            "model": {
                "task": "token-classification",
                "path": str(home / "model"),
                "options": {"aggregation_strategy": strategy},
            },
            "lake": {"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"},
            "store": {"path": f"{folder}/store"},
        }
        pipeline = with_overrides(Pipeline.model_validate(raw), settings)
        Run(pipeline).execute()
        with Lake(pipeline.lake, read_only=True) as lake:
            rows = lake.cursor().execute("SELECT entities FROM entities ORDER BY row_number").fetchall()
    return [[(one["entity"], one["start"], one["end"]) for one in entities] for (entities,) in rows]


if __name__ == "__main__":
    main()
