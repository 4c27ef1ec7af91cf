"""Contenders in turn, each turn in a fresh process, and the best turn of each: noise of a machine only adds time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import Answers
from benchmarks.corpora import Corpus
from benchmarks.processes import CpuWatch, GpuWatch, memory_bytes

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.25
LONGEST_SECONDS = 3 * 3600
DISTURBED_CORES = 0.15
"""So many cores busy with something else, and the turn is marked."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """A name for the table, which function of `contenders`, and its options."""

    label: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One run of one contender; `skipped` says why there was none.

    `seconds` are the work's, `load_seconds` what came before it: imports, the
    model, a warm-up. `peak_bytes` is the most memory of the process and its
    children at any time, `cpu_seconds` what they took during the work, and
    `busy_seconds` what all processes of the machine did. `gpu_busy` is the share of
    the work's time in which the GPU computed, where the device is one.
    """

    label: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    busy_seconds: float = 0.0
    load_seconds: float = 0.0
    loaded_bytes: int = 0
    peak_bytes: int = 0
    gpu_busy: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    answers: Answers = field(default_factory=list)
    skipped: str = ""

    @property
    def others(self) -> float:
        """How many cores were busy with something else meanwhile."""
        return max(0.0, self.busy_seconds - self.cpu_seconds) / self.seconds if self.seconds else 0.0


def best_of(
    contenders: Sequence[Contender], corpus: Corpus, model: Path, *, turns: int, device: str, say: Say
) -> list[Turn]:
    """Each contender's best turn, in their order."""
    rounds = [[take_turn(one, corpus, model, device=device, say=say) for one in contenders] for _ in range(turns)]
    return [min(tried, key=lambda turn: turn.seconds) for tried in zip(*rounds, strict=True)]


def notes(found: Sequence[Turn]) -> tuple[str, ...]:
    """What a reader of the numbers should know: who was skipped, and whose machine was busy with something else."""
    skipped = [f"{turn.label}: {turn.skipped}" for turn in found if turn.skipped]
    disturbed = [f"{turn.label} ({turn.others:.1f})" for turn in found if turn.others > DISTURBED_CORES]
    if disturbed:
        skipped.append(f"Other work on the machine kept cores busy during {', '.join(disturbed)}.")
    return tuple(skipped)


def take_turn(contender: Contender, corpus: Corpus, model: Path, *, device: str, say: Say) -> Turn:
    say(f"  {contender.label} ...")
    request = {
        "contender": contender.kind,
        "model": str(model),
        "files": [str(path) for path in corpus.files],
        "warm_up": str(corpus.warm_up),
        "device": device,
        "options": contender.options,
    }
    try:
        answer = in_process("benchmarks.worker", request)
    except RuntimeError as e:
        answer = {"skipped": f"failed, {str(e).splitlines()[-1]}"}
    if "skipped" in answer:
        say(f"  {contender.label}: skipped, {answer['skipped']}")
        return Turn(contender.label, skipped=answer["skipped"])
    turn = Turn(contender.label, **answer)
    say(f"  {contender.label}: {turn.seconds:.1f} s, {corpus.num_tokens / turn.seconds:,.0f} tokens/s")
    return turn


def in_process(module: str, request: dict[str, Any]) -> dict[str, Any]:
    """What a module's `main` answers to a request, in a process of its own, with what its descendants took added.

    Raises:
        RuntimeError: it failed; the message is the end of what it printed.
    """
    # What the worker and its libraries leave in the temporary folder goes with it.
    place = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
    gpu = GpuWatch() if str(request.get("device", "")).startswith("cuda") else None
    with place as folder, Path(folder, "log").open("w+") as log:
        out = Path(folder, "answer.json")
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder},
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(request | {"out": str(out)}))
        process.stdin.close()
        try:
            peak, cpu = _watch(process)
        finally:
            if gpu is not None:
                gpu.close()
        if process.returncode != 0 or not out.exists():
            log.seek(0)
            raise RuntimeError(log.read().strip()[-3000:])
        answer: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if "between" in answer:
        between = answer.pop("between")
        answer["cpu_seconds"] += cpu.between(*between)
        if gpu is not None:
            answer["gpu_busy"] = gpu.between(*between)
        answer["peak_bytes"] = max(peak, answer["peak_bytes"])
    return answer


def _watch(process: subprocess.Popen[str]) -> tuple[int, CpuWatch]:
    """Wait for the end; returns the most memory that the process and its descendants were seen to have."""
    peak, cpu, deadline = 0, CpuWatch(process.pid), time.monotonic() + LONGEST_SECONDS
    while process.poll() is None:
        peak = max(peak, memory_bytes(process.pid))
        cpu.sample()
        time.sleep(POLL_SECONDS)
        if time.monotonic() > deadline:
            process.kill()
    return peak, cpu
