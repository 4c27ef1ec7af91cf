"""Contenders in turn, in this process: what each answered, how long it took, and how it stands beside Tidemill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

OURS = "tidemill"


def take_turns(contenders: Mapping[str, Callable[[], Sequence[Any]]], turns: int, num_rows: int, same: str) -> None:
    """Print medians over the turns, and the share of rows of which each says the same as `OURS`.

    `same` says in words what that is, such as "have the same text".
    """
    found: dict[str, Sequence[Any]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, compute in contenders.items():
            started, cpu = time.perf_counter(), time.process_time()
            found[name] = compute()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu)
    for name in contenders:
        share = np.mean([ours == theirs for ours, theirs in zip(found[OURS], found[name], strict=True)])
        times = [median(spent[name]) / median(spent[OURS]) for spent in (seconds, cpu_seconds)]
        print(
            f"{name:<22} {num_rows / median(seconds[name]):8.2f} rows/s {median(cpu_seconds[name]):8.1f} CPU s; "
            f"Tidemill {times[0]:.2f} times as fast, {times[1]:.2f} by CPU seconds; {share:.1%} of rows {same}"
        )
