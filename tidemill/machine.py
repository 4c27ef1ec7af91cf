"""The processor and the memory that this process may use: the machine's, or what a container leaves of them."""

from __future__ import annotations

import itertools
import math
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tidemill.fingerprints import fingerprint

IS_VECTOR = re.compile(r"amx|avx|fma|f16c|sse4|asimd|sve|sme(?!p)|bf16|i8mm")
MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""By version of control groups: the files of the bound and of what is used, and what of `memory.stat` in the latter is
files that nobody has read lately, which the kernel gives up where memory is asked for."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")


def num_cpus(root: Path = Path("/")) -> int:
    """The CPUs that this process may keep busy: those it may run on, or fewer where a container's quota is less.

    Part of a CPU counts as one, for a quota that nobody uses is lost. `root` is where `proc` and `sys` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _cpu_quota(root: Path) -> float | None:
    """CPUs that the control groups of this process, and those around them, may keep busy; None without a bound."""
    bounds = []
    for version, folder in _control_groups(root, "cpu"):
        files = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        found = _numbers(folder, *files)
        if len(found) == 2 and found[0] > 0 and found[1] > 0:
            bounds.append(found[0] / found[1])
    return min(bounds, default=None)


def _control_groups(root: Path, controller: str) -> list[tuple[int, Path]]:
    """The folders of this process's groups and of those around them, each with its version of control groups.

    In a container the group that the kernel names may not be there: its own is then at the top.
    """
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    found = [(2, top)]
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            found += [(2, folder) for folder in _around(top, group)]
        elif controller in controllers.split(","):
            found += [(1, folder) for name in {controllers, controller} for folder in _around(top / name, group)]
    return found


def _around(top: Path, group: str) -> list[Path]:
    """A group's folder and those that it lies in, up to `top`."""
    folder = top.joinpath(*[part for part in group.split("/") if part not in ("", "..")])
    return [folder, *itertools.takewhile(lambda each: each != top.parent, folder.parents)]


def _numbers(folder: Path, *files: str) -> list[float]:
    """All that files of a group say; none where one is not there, or says "max"."""
    try:
        return [float(word) for name in files for word in (folder / name).read_text("ascii").split()]
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class Processor:
    """What decides how fast a model is computed here, as far as it is known without trying.

    `model` tells apart what has one name; `flags` are the kernel's, of vectors and matrices; `limits` are variables of
    the environment that keep libraries from using all of it.
    """

    name: str
    model: str
    flags: tuple[str, ...]
    num_cpus: int
    limits: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.name, self.model, self.flags, self.num_cpus, self.limits)


def processor(root: Path = Path("/")) -> Processor:
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        text = ""

    def said(name: str) -> str:
        found = re.search(rf"^(?:{name})\s*: (.*)$", text, re.MULTILINE)
        return found[1].strip() if found else ""

    return Processor(
        said("model name") or platform.processor() or platform.machine(),
        " ".join(filter(None, map(said, ("cpu family|CPU implementer", "model|CPU part", "stepping|CPU revision")))),
        tuple(sorted(set(filter(IS_VECTOR.match, said("flags|Features").split())))),
        num_cpus(root),
        tuple((name, os.environ[name]) for name in LIMITS if os.environ.get(name)),
    )


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """In all and available, as far as a container lets this process have it."""
    total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = root / "proc/meminfo"
    if meminfo.exists() and (found := re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)):
        available = int(found[1]) * 1024
    for version, folder in _control_groups(root, "memory"):
        *files, freed = MEMORY[version]
        if len(bounds := _numbers(folder, *files)) == 2:
            limit, used = map(int, bounds)
            used = max(0, used - _counted(folder / "memory.stat", freed))
            total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def _counted(stat: Path, name: str) -> int:
    """What a file of names and numbers, one a line, says of a name; 0 where it does not."""
    try:
        found = re.search(rf"^{name} (\d+)$", stat.read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return int(found[1]) if found else 0
