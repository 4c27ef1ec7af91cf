"""The benchmark: every comparison and limit, in one run.

    python -m benchmarks.bench --quick            a few minutes: `make bench`
    python -m benchmarks.bench --full             as long as it takes: `make bench-full`
    python -m benchmarks.bench --full --only emails,sql --turns 3
    python -m benchmarks.bench --full --only peaks,emails --isa AVX512_CORE_BF16

Prints tables as it goes and saves them, with the hardware and the day, in
benchmarks/results. Every part is a function below, in the order of `PARTS`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmarks import comparison, limits, pipeline_cost, sql, tokenization
from benchmarks.comparison import DEFAULT, FP32, IN_BF16, INT8, OPENVINO, OTHERS, PIPELINES, TORCH, tidemill
from benchmarks.corpora import build
from benchmarks.machine import ISA_VARIABLE, this_machine
from benchmarks.measure import Contender
from benchmarks.report import RESULTS, Report, Section, number, times
from benchmarks.shapes import SHAPES, model_folder

ROWS_PER_FILE = 300
"""Of e-mails; the bundled files have 600."""
ROWS_PER_LARGE_FILE = 2_400
"""Of e-mails, where a base-size model computes so many that a file of `ROWS_PER_FILE` would be too little for a GPU."""


@dataclass(frozen=True)
class Bench:
    """How much is measured, and where the corpora and models of this run lie."""

    home: Path
    full: bool
    device: str
    turns: int
    rows: int | None = None
    contenders: str = ""
    models: str = ""

    @cached_property
    def products(self) -> dict[str, limits.Products]:
        return limits.matmul_products(self.device)

    def compare(
        self, title: str, source: str, rows: int | None, model: str, contenders: Sequence[Contender], *, files: int = 1
    ) -> Section:
        corpus = build(source, self.home / "corpus", num_rows=self.rows or rows, num_files=files)
        return comparison.compare(
            title,
            corpus,
            model_folder(model, self.home),
            [one for one in contenders if re.search(self.contenders, one.label)],
            turns=self.turns,
            device=self.device,
            products=self.products,
            say=say,
        )


def emails(bench: Bench) -> list[Section]:
    ours = [tidemill("defaults", DEFAULT), tidemill("int8", INT8)]
    if bench.full:
        ours += [tidemill("torch", TORCH), tidemill("openvino", OPENVINO), tidemill("fp32", FP32)]
    contenders = [*PIPELINES, *OTHERS, *(one for pair in ours for one in pair)]
    if bench.full:
        contenders.append(IN_BF16)
    rows = bench.rows or (4_800 if bench.full else 160)
    files = max(1, rows // ROWS_PER_FILE)
    return [bench.compare("E-mails, tiny-sentiment", "emails", rows, "tiny-sentiment", contenders, files=files)]


def reviews(bench: Bench) -> list[Section]:
    contenders = [*PIPELINES, *OTHERS, *tidemill("defaults", DEFAULT)]
    rows, files = (None, 8) if bench.full else (600, 2)
    return [bench.compare("Reviews, tiny-sentiment", "reviews", rows, "tiny-sentiment", contenders, files=files)]


def mix(bench: Bench) -> list[Section]:
    contenders = [*PIPELINES, *OTHERS, *tidemill("defaults", DEFAULT)]
    return [bench.compare("Mix, tiny-sentiment", "mix", 100_000, "tiny-sentiment", contenders, files=20)]


def shapes(bench: Bench) -> list[Section]:
    """Base-size models, with few rows: the pipeline takes seconds for each."""
    contenders = [*PIPELINES, *tidemill("defaults", DEFAULT)]
    if bench.full:
        contenders += [*OTHERS, *tidemill("torch", TORCH), *tidemill("int8", INT8)]
    names = [name for name in SHAPES if re.search(bench.models, name)] if bench.full else ["distilbert-base"]
    if not bench.full:
        contenders = [PIPELINES[-1], *contenders[len(PIPELINES) :]]
    rows = bench.rows or (240 if bench.full else 48)
    files = max(1, rows // ROWS_PER_LARGE_FILE)
    return [
        bench.compare(f"E-mails, {name} (random weights)", "emails", rows, name, contenders, files=files)
        for name in names
    ]


def overhead(bench: Bench) -> list[Section]:
    rows, files = (4_800, 24) if bench.full else (1_200, 20)
    corpus = build("emails", bench.home / "corpus", num_rows=bench.rows or rows, num_files=files)
    return [pipeline_cost.overhead(corpus, turns=bench.turns, device=bench.device, say=say)]


def memory(bench: Bench) -> list[Section]:
    counts, rows = ((10, 100), 5_000) if bench.full else ((4, 40), 100)
    return [pipeline_cost.memory(bench.home, counts, rows, device=bench.device, say=say)]


def tokenize(bench: Bench) -> list[Section]:
    return [tokenization.section({"emails": None, "reviews": None} if bench.full else {"emails": 1_200})]


def sql_queries(bench: Bench) -> list[Section]:
    return sql.sections(bench.home / "sql", 10_000_000 if bench.full else 1_000_000, say=say)


def budgets(bench: Bench) -> list[Section]:
    """The bare loop by token budget: where a batch stays in a processor's cache, or fills a GPU."""
    sizes = (512, 768, 1_024, 2_048, 4_096) if bench.device == "cpu" else (8_192, 16_384, 32_768, 65_536, 131_072)
    contenders = [Contender(f"token_budget = {size:,}", "bare loop", {"token_budget": size}) for size in sizes]
    return [bench.compare("The bare loop by token budget", "emails", 480, "tiny-sentiment", contenders)]


def peaks(bench: Bench) -> list[Section]:
    """Of each dtype, and how many tokens of the e-mails a model that is nothing but its products could do with them."""
    corpus = build("emails", bench.home / "corpus", num_rows=160, num_files=1)
    flops = limits.forward_flops(model_folder("tiny-sentiment", bench.home), corpus.lengths) / corpus.num_tokens
    float32 = bench.products["float32"].peak
    return [
        Section(
            title="Matrix products",
            conditions=(
                f"square matrices on {bench.device}, as torch multiplies and by oneDNN, the best over sizes; "
                f"a token of the e-mails takes tiny-sentiment {flops / 1e6:.1f} million operations"
            ),
            header=("", "GFLOP/s at best", "× float32", "tokens/s at most", "GFLOP/s sustained", "tokens/s"),
            rows=[
                (
                    dtype,
                    f"{each.peak / 1e9:,.0f}",
                    times(each.peak / float32),
                    number(each.peak / flops),
                    f"{each.sustained / 1e9:,.0f}",
                    number(each.sustained / flops),
                )
                for dtype, each in bench.products.items()
            ],
            facts={
                "peaks": {dtype: each.peak for dtype, each in bench.products.items()},
                "sustained": {dtype: each.sustained for dtype, each in bench.products.items()},
                "flops_per_token": flops,
            },
        )
    ]


PARTS: dict[str, Callable[[Bench], list[Section]]] = {
    "peaks": peaks,
    "emails": emails,
    "reviews": reviews,
    "shapes": shapes,
    "overhead": overhead,
    "tokenize": tokenize,
    "memory": memory,
    "sql": sql_queries,
    "budgets": budgets,
    "mix": mix,
}
QUICK = ("peaks", "emails", "shapes", "overhead", "tokenize", "sql")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    args = _arguments()
    if args.isa:
        os.environ[ISA_VARIABLE] = args.isa
    machine = this_machine(args.device)
    report = Report(
        machine=str(machine),
        slug=machine.slug,
        day=machine.day,
        machine_facts=machine.to_json(),
    )
    command = shlex.join(["python", "-m", "benchmarks.bench", *_without_results(sys.argv[1:])])
    say(f"{report.machine}\n")
    started = time.perf_counter()
    home = Path(tempfile.mkdtemp(prefix="tidemill-bench-"))
    # What Tidemill finds out about a model and the machine is kept from turn to turn, and then forgotten.
    os.environ["TIDEMILL_HOME"] = str(home / "tidemill")
    try:
        turns = args.turns or (3 if args.full else 1)
        bench = Bench(home, args.full, args.device, turns, args.rows, args.contenders, args.models)
        for name in args.only or (PARTS if args.full else QUICK):
            for section in PARTS[name](bench):
                report.sections.append(replace(section, command=command))
                say(f"\n{section}")
                path = report.save(args.results, kind="" if args.full else "-quick")
    finally:
        shutil.rmtree(home)
    say(f"{time.perf_counter() - started:.0f} s in all. Saved: {path}")


def _without_results(arguments: Sequence[str]) -> list[str]:
    """What was measured does not depend on where it is saved."""
    kept = list(arguments)
    if "--results" in kept:
        at = kept.index("--results")
        del kept[at : at + 2]
    return [each for each in kept if not each.startswith("--results=")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="few rows, one turn")
    size.add_argument("--full", action="store_true", help="every row, every contender")
    parser.add_argument("--only", type=lambda names: names.split(","), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--rows", type=int, help="rows of each corpus")
    parser.add_argument("--turns", type=int, help="turns of each contender, of which the best counts")
    parser.add_argument("--contenders", default="", help="a regular expression: only contenders whose name it matches")
    parser.add_argument("--models", default="", help="a regular expression: only the shapes whose name it matches")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--isa",
        metavar="NAME",
        help=f"most that torch and OpenVINO may use of the processor ({ISA_VARIABLE}): AVX512_CORE_BF16 is without AMX",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to save to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
