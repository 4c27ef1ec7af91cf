"""How many rows have the same text as float32 alone, by each engine and number type that writes with a model.

    python -m benchmarks.written_alike --model FOLDER [--rows 200] [--new-tokens 32] [--by ENGINE:DTYPE ...]

Each review is the user's message behind a system prompt, written greedily, as in `benchmarks.writing`. What the
others are held against is `pipeline("text-generation")` in float32, a row at a time. An engine that refuses the model
in a number type says why in its line.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import transformers

from benchmarks.entities import read_texts
from benchmarks.machine import this_machine
from benchmarks.writing import PROMPT, Asked, by_pipeline, by_tidemill, has_chat_template, write_texts
from tidemill.errors import TidemillError

WRITERS = ("torch:float32", "torch:bfloat16", "ctranslate2:float32", "ctranslate2:int8")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", type=Path, required=True)
    asked.add_argument("--rows", type=int, default=200)
    asked.add_argument("--new-tokens", type=int, default=32)
    asked.add_argument("--by", nargs="*", default=WRITERS, metavar="ENGINE:DTYPE")
    given = asked.parse_args()
    transformers.logging.set_verbosity_error()
    prompt = PROMPT if has_chat_template(given.model) else None
    print(this_machine())
    print(f"{given.rows:,} reviews by {given.model.name}, at most {given.new_tokens} new tokens", flush=True)
    with tempfile.TemporaryDirectory() as home:
        alone = Asked(Path(home), given.model, "text-generation", given.new_tokens, prompt, ())
        write_texts(alone, read_texts("reviews", given.rows))
        expected = timed("pipeline, float32, 1 at once", by_pipeline(alone, 1), None)
        for writer in given.by:
            engine, _, dtype = writer.partition(":")
            settings = (f"inference.engine={engine}", f"inference.dtype={dtype}", "inference.max_drift=1")
            of = Asked(alone.home, given.model, alone.task, given.new_tokens, prompt, settings)
            timed(f"Tidemill, {engine}, {dtype}", lambda of=of: by_tidemill(of), expected)  # type: ignore[misc]


def timed(name: str, write: Callable[[], list[str]], expected: Sequence[str] | None) -> list[str]:
    begun = time.perf_counter()
    try:
        texts = write()
    except TidemillError as e:
        print(f"  {name:32} refused: {e}", flush=True)
        return []
    seconds = time.perf_counter() - begun
    same = sum(ours == theirs for ours, theirs in zip(texts, expected or texts, strict=True))
    print(f"  {name:32} {same / len(texts):7.2%} of texts the same   {len(texts) / seconds:6.2f} rows/s", flush=True)
    return texts


if __name__ == "__main__":
    main()
