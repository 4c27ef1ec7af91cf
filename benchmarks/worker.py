"""One contender, once, in this process: a JSON request on standard input, a JSON answer into the file it names."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import busy_seconds, peak_bytes

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class CpuClock:
    """Wall time, the CPU time of this process and the machine's. `start` again starts anew, the first `stop` holds."""

    def __init__(self) -> None:
        self.stopped_at = self.cpu_seconds = self.busy_seconds = 0.0
        self.start()

    def start(self) -> None:
        self._busy_start, self._cpu_start = busy_seconds(), time.process_time()
        self.started_at = time.perf_counter()

    def stop(self) -> None:
        if not self.stopped_at:
            self.stopped_at = time.perf_counter()
            self.cpu_seconds = time.process_time() - self._cpu_start
            self.busy_seconds = busy_seconds() - self._busy_start


def work_once(request: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.contenders import Skipped, Work, prepare

    begun = time.perf_counter()
    work = Work(
        model=Path(request["model"]),
        files=[Path(path) for path in request["files"]],
        warm_up=Path(request["warm_up"]),
        device=request["device"],
        options=request["options"],
    )
    clock = CpuClock()
    try:
        run = prepare(request["contender"], work)
        load_seconds = time.perf_counter() - begun
        loaded_bytes = peak_bytes(os.getpid())
        clock.start()
        done = run(clock)
        clock.stop()
    except Skipped as e:
        return {"skipped": str(e)}
    return {
        "load_seconds": load_seconds,
        "loaded_bytes": loaded_bytes,
        "seconds": clock.stopped_at - clock.started_at,
        "between": [clock.started_at, clock.stopped_at],
        "cpu_seconds": clock.cpu_seconds,
        "busy_seconds": clock.busy_seconds,
        "peak_bytes": peak_bytes(os.getpid()),
        "facts": done.facts,
        "answers": done.answers,
    }


def main() -> None:
    os.environ |= OFFLINE
    request = json.load(sys.stdin)
    Path(request["out"]).write_text(json.dumps(work_once(request), default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
