"""What the app takes for a page of a table of millions of rows: paged, filtered, searched, sorted; and its memory.

    python -m benchmarks.browsing --rows 10_000_000 --home /tmp/browsing

`--home` is made where it is not there, which takes minutes; a second call measures the lake that is in it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.filled_lake import fill
from tidemill.app.rows.browsing import Order, Page, Start, read_page
from tidemill.app.rows.filters import Filter
from tidemill.app.source import Source
from tidemill.config import load_pipeline

ROUNDS = 5
FILTERS: dict[str, tuple[Filter, Order]] = {
    "page": (Filter(), "by file"),
    "filter by label": (Filter(label="POSITIVE"), "by file"),
    "filter by label and score, 1 in 5,000": (Filter(label="POSITIVE", least=0.4, most=0.5002), "by file"),
    "filter by a kept column": (Filter(column="domain", value="tweet"), "by file"),
    "condition": (Filter(condition="rating > 7 AND label = 'NEGATIVE'"), "by file"),
    "search, found at once": (Filter(search="number 12"), "by file"),
    "search, one row at the end": (Filter(search="number 9999998."), "by file"),
    "search, nothing": (Filter(search="nowhere"), "by file"),
    "by key": (Filter(column="id", value="review-07654321"), "by file"),
    "least score first": (Filter(), "least score first"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--home", type=Path, required=True)
    given = parser.parse_args()
    file = given.home / "reviews.toml"
    if not file.exists():
        fill(given.home, given.rows, ("domain", "rating", "text"))
    source = Source(load_pipeline(file))
    print(f"{'what':<40} {'median':>8} {'slowest':>8} {'CPU':>6} {'rows':>5} {'looked at':>12} {'MiB':>6}")
    for name, (asked, order) in FILTERS.items():
        told(name, lambda asked=asked, order=order: page(source, asked, Start(), order))  # type: ignore[misc]
    told("page, in the middle", lambda: page(source, Filter(), Start(shard=50), "by file"))
    told("100 pages on", lambda: on_and_on(source, 100), rounds=1)
    told("search, nothing, to the end", lambda: to_the_end(source, Filter(search="nowhere")), rounds=1)


def page(source: Source, asked: Filter, start: Start, order: Order) -> Page:
    with source.open() as (cursor, table):
        return read_page(cursor, table, asked, start, order=order)


def on_and_on(source: Source, num_pages: int) -> Page:
    found = page(source, Filter(), Start(), "by file")
    for _ in range(num_pages):
        assert found.next is not None
        found = page(source, Filter(), found.next, "by file")
    return found


def to_the_end(source: Source, asked: Filter) -> Page:
    found = page(source, asked, Start(), "by file")
    while found.next is not None:
        found = page(source, asked, found.next, "by file")
    return found


def told(name: str, ask: Callable[[], Page], rounds: int = ROUNDS) -> None:
    seconds, cpu = [], time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        found = ask()
        seconds.append(time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / rounds
    memory = psutil.Process().memory_info().rss / 2**20
    print(
        f"{name:<40} {statistics.median(seconds):>8.3f} {max(seconds):>8.3f} {cpu:>6.2f} {len(found.rows):>5} "
        f"{found.num_looked_at:>12,} {memory:>6.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
