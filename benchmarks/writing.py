"""Models that write, files to table, beside `pipeline("text-generation")` or `model.generate`, so many rows at once.

    python -m benchmarks.writing --model FOLDER [--task text-generation] [--rows 200] [--new-tokens 64] [--turns 1]
        [--batch-sizes 1 8] [--continuous] [--prompt TEXT] [--set KEY=VALUE ...]

`python -m benchmarks.smollm2 FOLDER` makes a folder of a decoder. A decoder with a chat template is given each
review as a user's message behind `--prompt` as its system prompt; other models are given the review itself.
`--continuous` adds Transformers' continuous batching, `model.generate_batch`, of a decoder.
All write greedily and at most `--new-tokens`. Each turn computes the rows once with each, in turn, in this process;
printed are medians, how many times as fast Tidemill is, and how many rows have the same text. Opening the model is
counted for none.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from benchmarks.entities import read_texts
from benchmarks.machine import this_machine
from benchmarks.turns import OURS, take_turns
from tidemill.config import Pipeline, with_overrides
from tidemill.lake import Lake
from tidemill.running.run import Run

PAGE_TOKENS = 256
PROMPT = "Say in one sentence what the reviewer thinks of it."
TEXT_COLUMNS = {"summarization": "summary_text", "translation": "translation_text"}


@dataclass(frozen=True)
class Asked:
    home: Path
    model: Path
    task: str
    new_tokens: int
    prompt: str | None
    settings: Sequence[str]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", type=Path, required=True)
    asked.add_argument("--task", default="text-generation")
    asked.add_argument("--rows", type=int, default=200)
    asked.add_argument("--new-tokens", type=int, default=64)
    asked.add_argument("--turns", type=int, default=1)
    asked.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 8])
    asked.add_argument("--continuous", action="store_true")
    asked.add_argument("--prompt", default=PROMPT)
    asked.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    given = asked.parse_args()
    transformers.logging.set_verbosity_error()
    has_chat = given.task == "text-generation" and has_chat_template(given.model)
    with tempfile.TemporaryDirectory() as home:
        of = Asked(
            Path(home), given.model, given.task, given.new_tokens, given.prompt if has_chat else None, given.settings
        )
        compare(of, given.rows, given.turns, given.batch_sizes, continuous=given.continuous)


def has_chat_template(model: Path) -> bool:
    return transformers.AutoTokenizer.from_pretrained(model).chat_template is not None


def compare(asked: Asked, num_rows: int, turns: int, batch_sizes: Sequence[int], *, continuous: bool) -> None:
    write_texts(asked, read_texts("reviews", num_rows))
    by_tidemill(asked, "first")  # what it opens is counted apart, for each
    theirs = by_pipeline if asked.task == "text-generation" else by_generate
    called = "pipeline" if asked.task == "text-generation" else "generate"
    contenders: dict[str, Callable[[], list[str]]] = {OURS: lambda: by_tidemill(asked)}
    contenders |= {f"{called}, {size} at once": theirs(asked, size) for size in batch_sizes}
    if continuous:
        contenders["generate_batch"] = by_generate_batch(asked)
    print(this_machine())
    print(f"{num_rows:,} reviews, {asked.task} by {asked.model.name}, at most {asked.new_tokens} new tokens")
    take_turns(contenders, turns, num_rows, "have the same text")


def write_texts(asked: Asked, texts: Sequence[str]) -> None:
    for name, some in (("data", texts), ("first", texts[:1])):
        (asked.home / name).mkdir()
        pq.write_table(pa.table({"text": some}), asked.home / name / "texts.parquet")


def by_pipeline(asked: Asked, batch_size: int) -> Callable[[], list[str]]:
    pipeline = transformers.pipeline("text-generation", model=str(asked.model), device="cpu", dtype=torch.float32)
    pipeline.tokenizer.pad_token = pipeline.tokenizer.pad_token or pipeline.tokenizer.eos_token
    pipeline.tokenizer.padding_side = "left"

    def compute() -> list[str]:
        given: list[Any] = texts_of(asked)
        if asked.prompt is not None:
            system = {"role": "system", "content": asked.prompt}
            given = [[system, {"role": "user", "content": text}] for text in given]
        written = pipeline(
            given,
            batch_size=batch_size,
            max_new_tokens=asked.new_tokens,
            do_sample=False,
            return_full_text=False,
        )
        return [one[0]["generated_text"] for one in written]

    return compute


def by_generate_batch(asked: Asked) -> Callable[[], list[str]]:
    """With as many pages of its cache as hold every row at once, but no more: it takes what a machine has otherwise."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()

    def compute() -> list[str]:
        prompts = [prompt_ids(asked, tokenizer, text) for text in texts_of(asked)]
        num_pages = sum(-(-(len(prompt) + asked.new_tokens) // PAGE_TOKENS) for prompt in prompts)
        batching = transformers.ContinuousBatchingConfig(page_size=PAGE_TOKENS, num_blocks=num_pages + 1)
        ends = model.generation_config.eos_token_id
        greedily = transformers.GenerationConfig(
            max_new_tokens=asked.new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.eos_token_id
        )
        found = model.generate_batch(prompts, greedily, batching, warmup=False)
        # By their numbers: they end in any order.
        ids = [found[name].generated_tokens for name in sorted(found, key=lambda name: int(name.rpartition("_")[2]))]
        written: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return written

    return compute


def prompt_ids(asked: Asked, tokenizer: Any, text: str) -> list[int]:
    if asked.prompt is None:
        encoded = tokenizer(text)
    else:
        messages = [{"role": "system", "content": asked.prompt}, {"role": "user", "content": text}]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    ids: list[int] = encoded["input_ids"]
    return ids


def by_generate(asked: Asked, batch_size: int) -> Callable[[], list[str]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.model)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(asked.model, dtype=torch.float32).eval()

    def compute() -> list[str]:
        return [text for texts in in_batches(texts_of(asked), batch_size) for text in write(texts)]

    def write(texts: Sequence[str]) -> list[str]:
        inputs = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
        with torch.inference_mode():
            ids = model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=asked.new_tokens,
                do_sample=False,
            )
        written: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return written

    return compute


def in_batches(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[i : i + size] for i in range(0, len(texts), size))


def texts_of(asked: Asked) -> list[str]:
    texts: list[str] = pq.read_table(asked.home / "data" / "texts.parquet")["text"].to_pylist()
    return texts


def by_tidemill(asked: Asked, data: str = "data") -> list[str]:
    """A lake and a store of its own each time: nothing is left to copy."""
    column = TEXT_COLUMNS.get(asked.task, "text")
    with tempfile.TemporaryDirectory() as folder:
        raw: dict[str, Any] = {
            "name": "written",
            "dataset": {"path": f"{asked.home}/{data}/*.parquet", "text": "text"},
            "model": {
                "task": asked.task,
                "path": str(asked.model),
                "options": {
                    "max_new_tokens": asked.new_tokens,
                    **({} if asked.prompt is None else {"system_prompt": asked.prompt}),
                },
            },
            "lake": {"catalog": f"sqlite:{folder}/lake.sqlite", "data": f"{folder}/lake"},
            "store": {"path": f"{folder}/store"},
        }
        pipeline = with_overrides(Pipeline.model_validate(raw), asked.settings)
        Run(pipeline).execute()
        with Lake(pipeline.lake, read_only=True) as lake:
            rows = lake.cursor().execute(f"SELECT {column} FROM written ORDER BY row_number").fetchall()
    return [text for (text,) in rows]


if __name__ == "__main__":
    main()
