"""What a tiny file costs: a run over many JSON Lines files of two rows, beside another checkout of Tidemill.

    python -m benchmarks.small_files OTHER [--files 600] [--most 2000]

Both run over `--files` files and, to tell what starting costs, over one; this checkout runs over `--most` files too.
Each run is a new process with a lake of its own, one after the other. Prints seconds, files a second, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.against import MODEL, ROOT, Cost, measure
from benchmarks.machine import this_machine

PIPELINE = "data/pipelines/reviews.toml"


def texts() -> Iterator[str]:
    """The bundled review snippets, again and again."""
    while True:
        for path in sorted(ROOT.glob("data/reviews/*.parquet")):
            yield from pq.read_table(path, columns=["text"])["text"].to_pylist()


def make_files(folder: Path, num_files: int) -> None:
    source = texts()
    for number in range(num_files):
        records = [{"id": 2 * number + row, "text": f"{next(source)} ({number})"} for row in range(2)]
        body = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{number:06}.jsonl").write_text(body)


def run(checkout: Path, num_files: int) -> Cost:
    """One run of the checkout's from nothing to a table."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as data:
        make_files(Path(data), num_files)
        options = (f"dataset.path={data}/*.jsonl", "dataset.keep=[]", f"model.path={MODEL}")
        words = [word for option in options for word in ("--set", option)]
        return measure(checkout, Path(home), ["run", PIPELINE, "--direct", *words])


def line(name: str, num_files: int, cost: Cost) -> str:
    return (
        f"{name:<6} {num_files:7,} files {cost.seconds:8.1f} s {cost.cpu_seconds:8.1f} CPU s "
        f"{num_files / cost.seconds:7.1f} files/s {cost.peak_bytes / 2**20:7.0f} MiB"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("other", type=Path, help="the other checkout")
    asked.add_argument("--files", type=int, default=600)
    asked.add_argument("--most", type=int, default=2000)
    given = asked.parse_args()
    print(this_machine())
    rates, per_file = {}, {}
    for name, checkout in (("this", ROOT), ("other", given.other.resolve())):
        one, many = run(checkout, 1), run(checkout, given.files)
        print(line(name, 1, one), line(name, given.files, many), sep="\n", flush=True)
        rates[name] = given.files / many.seconds
        per_file[name] = (many.cpu_seconds - one.cpu_seconds) / (given.files - 1)
    print(f"CPU seconds a file, without the start: {per_file['this']:.4f} beside {per_file['other']:.4f}")
    most = run(ROOT, given.most)
    print(line("this", given.most, most))
    print(f"files a second over {given.files:,}: {rates['this'] / rates['other']:.1f} times the other's")
    print(
        f"over {given.most:,}: {given.most / most.seconds / rates['other']:.1f} times the other's over {given.files:,}"
    )
    print(f"CPU seconds a file, without the start: a {per_file['other'] / per_file['this']:.1f}th of the other's")


if __name__ == "__main__":
    main()
