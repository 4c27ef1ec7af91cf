"""How many rows have the same text as in float32, by each engine and number type that writes with a model.

    python -m benchmarks.written_alike --model FOLDER [--rows 200] [--alone 32] [--new-tokens 32]
        [--by ENGINE:DTYPE ...]

Each review is the user's message behind a system prompt, written greedily, as in `benchmarks.writing`. All are held
against the first that is not refused, torch in float32 unless `--by` says otherwise; that in turn against
`pipeline("text-generation")` in float32, a row at a time, over the first `--alone` reviews. An engine that refuses the
model in a number type says why in its line.
"""

from __future__ import annotations

import argparse
import tempfile
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
    asked.add_argument("--alone", type=int, default=32)
    asked.add_argument("--new-tokens", type=int, default=32)
    asked.add_argument("--by", nargs="*", default=WRITERS, metavar="ENGINE:DTYPE")
    given = asked.parse_args()
    transformers.logging.set_verbosity_error()
    prompt = PROMPT if has_chat_template(given.model) else None
    print(this_machine())
    print(f"{given.rows:,} reviews by {given.model.name}, at most {given.new_tokens} new tokens", flush=True)
    with tempfile.TemporaryDirectory() as home:
        expected: list[str] = []
        texts = read_texts("reviews", given.rows)
        for writer in given.by:
            engine, _, dtype = writer.partition(":")
            settings = (f"inference.engine={engine}", f"inference.dtype={dtype}", "inference.max_drift=1")
            of = asked_of(Path(home) / writer, given, prompt, settings, texts)
            found = held(f"Tidemill, {engine}, {dtype}", lambda of=of: by_tidemill(of), expected)  # type: ignore[misc]
            expected = expected or found
        if given.alone and expected:
            alone = asked_of(Path(home) / "alone", given, prompt, (), texts[: given.alone])
            held("pipeline, float32, 1 at once", by_pipeline(alone, 1), expected[: given.alone])


def asked_of(
    home: Path, given: argparse.Namespace, prompt: str | None, settings: Sequence[str], texts: list[str]
) -> Asked:
    home.mkdir()
    asked = Asked(home, given.model, "text-generation", given.new_tokens, prompt, settings)
    write_texts(asked, texts)
    return asked


def held(name: str, write: Callable[[], list[str]], expected: Sequence[str]) -> list[str]:
    try:
        texts = write()
    except TidemillError as e:
        print(f"  {name:32} refused: {e}", flush=True)
        return []
    if not expected:
        print(f"  {name:32} the others are held against it", flush=True)
        return texts
    same = sum(ours == theirs for ours, theirs in zip(texts, expected, strict=True))
    print(f"  {name:32} {same / len(texts):7.2%} of texts the same", flush=True)
    return texts


if __name__ == "__main__":
    main()
