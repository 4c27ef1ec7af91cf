"""The token budget by which a model is fastest on its device: tried once, kept for next time.

What is kept are JSON files under `TIDEMILL_HOME`, one for each model shape, engine,
dtype, device and number of CPUs. Removing them makes the next large run try again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from tidemill.encoding.batching import ANY_LENGTHS
from tidemill.encoding.items import IDS, MASK
from tidemill.engines import Engine
from tidemill.engines.devices import is_device_failure
from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import first_line
from tidemill.fingerprints import fingerprint
from tidemill.machine import num_cpus
from tidemill.storage.kept import keep, read_kept

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger("tidemill")

CANDIDATES = {"cpu": (1_024, 2_048, 4_096, 8_192), "cuda": (16_384, 32_768, 65_536, 131_072)}
"""Padded tokens of one batch."""
WIDTH = 256
"""Tokens of each row in a trial."""
ENOUGH_SECONDS = 0.3
MIN_TRIES = 2
"""A candidate is tried until it has taken so long, and so often: the best counts, for noise only adds time."""
AS_GOOD = 0.97
"""A smaller budget that reaches this share of the best speed is better: it pads less and needs less memory."""


def calibrated_budget(
    engine: Engine, config: PretrainedConfig, *, longest: int | None, inputs: Collection[str] = (IDS, MASK)
) -> int | None:
    """Most padded tokens a batch, by trial or by what is kept of one; None if not even the smallest can be tried.

    `inputs` are those of the model. `longest` is the most tokens of a row that the model takes.
    """
    name = _name(engine, config)
    speeds = _read(name)
    if not speeds and (speeds := _try_all(engine, inputs, longest=longest)):
        keep(name, {"tokens_per_second": speeds})
    if not speeds:
        return None
    best = max(speeds.values())
    return min(budget for budget, speed in speeds.items() if speed >= AS_GOOD * best)


def _try_all(engine: Engine, inputs: Collection[str], *, longest: int | None) -> dict[int, float]:
    """Tokens a second by budget, until two in a row are slower than the best, or memory runs out.

    What is tried are ids of no text, which not every model takes: one that fails at them keeps its budget.
    """
    width = min(WIDTH, longest or WIDTH)
    speeds: dict[int, float] = {}
    num_slower = 0
    for budget in CANDIDATES[engine.facts()["device"].partition(":")[0]]:
        try:
            speeds[budget] = _speed(engine, inputs, num_rows=max(1, budget // width), width=width)
        except Exception as e:
            if is_device_failure(e):
                raise
            if is_out_of_memory(e):
                engine.release_memory()
            else:
                logger.warning("No other token budget was tried: %s.", first_line(e))
            break
        num_slower = num_slower + 1 if speeds[budget] < max(speeds.values()) else 0
        if num_slower == 2:
            break
    return speeds


def _speed(engine: Engine, inputs: Collection[str], *, num_rows: int, width: int) -> float:
    batch = {name: np.ones((num_rows, width), dtype=np.int64) for name in inputs if name != MASK}
    if engine.company == ANY_LENGTHS:
        # The last row is half padding, as in most batches.
        batch[MASK] = np.ones((num_rows, width), dtype=np.int64)
        batch[MASK][-1, width // 2 :] = 0
    engine.submit(batch).result()
    best, spent, num_tries = float("inf"), 0.0, 0
    while spent < ENOUGH_SECONDS or num_tries < MIN_TRIES:
        started = time.perf_counter()
        answers = [engine.submit(batch) for _ in range(engine.depth)]
        for answer in answers:
            answer.result()
        seconds = time.perf_counter() - started
        best, spent, num_tries = min(best, seconds / engine.depth), spent + seconds, num_tries + 1
    return num_rows * width / best


def _name(engine: Engine, config: PretrainedConfig) -> str:
    facts = {**engine.facts(), "num_cpus": num_cpus()}
    return fingerprint(config.to_json_string(), json.dumps(facts, sort_keys=True))


def _read(name: str) -> dict[int, float]:
    try:
        kept = read_kept(name)["tokens_per_second"]
        speeds = {int(budget): float(speed) for budget, speed in kept.items()}
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError):
        return {}
    known = {budget for candidates in CANDIDATES.values() for budget in candidates}
    return speeds if known.issuperset(speeds) and all(0 < speed < float("inf") for speed in speeds.values()) else {}
