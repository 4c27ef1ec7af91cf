"""What a process and all its descendants take: CPU seconds and memory with shared pages counted once, from /proc, and
how busy the GPU is meanwhile, from nvidia-smi."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def tree(root: int) -> list[int]:
    """The process and its descendants, as they are now."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*"):
        with suppress(*_GONE):
            children.setdefault(int(_stat(int(path.name))[1]), []).append(int(path.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


class CpuWatch:
    """The CPU seconds of a process's descendants, sampled, for some of them end unwaited and take their count along."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._by_process: dict[int, float] = {}
        self._samples = [(0.0, 0.0)]

    def sample(self) -> None:
        for pid in tree(self._root)[1:]:
            with suppress(*_GONE):
                self._by_process[pid] = sum(int(ticks) for ticks in _stat(pid)[11:13]) / TICKS
        self._samples.append((time.perf_counter(), sum(self._by_process.values())))

    def between(self, start: float, stop: float) -> float:
        """By readings of `perf_counter`, which processes of one machine share."""
        moments, totals = zip(*self._samples, strict=True)
        return float(np.interp(stop, moments, totals) - np.interp(start, moments, totals))


class GpuWatch:
    """The share of time in which the first GPU computes anything, as `nvidia-smi` samples it."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        query = ["nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        self._process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                self._samples.append((time.perf_counter(), int(line) / 100))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def between(self, start: float, stop: float) -> float | None:
        """The mean by readings of `perf_counter`; None where it was not sampled."""
        shares = [share for moment, share in self._samples if start <= moment <= stop]
        return float(np.mean(shares)) if shares else None


def busy_seconds() -> float:
    """CPU seconds that everything on this machine, and whoever it shares its processor with, has taken so far."""
    first_line = (PROC / "stat").read_text(encoding="ascii").split("\n")[0]
    user, nice, system, _idle, _iowait, *others = first_line.split()[1:9]
    return sum(map(int, (user, nice, system, *others))) / TICKS


def memory_bytes(root: int) -> int:
    """The tree's memory now: its proportional set size, as shared pages would count once a process."""
    total = 0
    for pid in tree(root):
        with suppress(*_GONE):
            total += _kilobytes(PROC / str(pid) / "smaps_rollup", "Pss:") * 1024
    return total


def peak_bytes(pid: int) -> int:
    """The most that one process, alone, has had resident."""
    return _kilobytes(PROC / str(pid) / "status", "VmHWM:") * 1024


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _kilobytes(path: Path, name: str) -> int:
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
