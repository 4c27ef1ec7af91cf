"""The machine: processor, memory, disks and clock."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from tidemill import machine
from tidemill.diagnosis.finding import Finding

LEAST_MEMORY = 4 * 2**30
LEAST_FREE = 1 * 2**30
INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx512f": "AVX-512",
    "asimd": "NEON",
    "avx2": "AVX2",
}
"""Flags of the kernel's, of what makes models fast; the best first."""


def processor() -> list[Finding]:
    found = machine.processor()
    allowed, present = found.num_cpus, os.cpu_count() or 1
    known = [shown for flag, shown in INSTRUCTIONS.items() if flag in found.flags]
    cores = f"{allowed} of {present} cores" if allowed < present else f"{present} core{'s' if present > 1 else ''}"
    said = f"{found.name}, {cores}; {', '.join(known) or 'no vector instructions that are known here'}"
    if not known or known == ["AVX2"]:
        return [Finding("machine", "processor", "slow", said, "a GPU, or a processor with AVX-512 or AMX, is faster")]
    if allowed < present:
        return [Finding("machine", "processor", "slow", said, "raise the container's CPU limit, or the affinity")]
    return [Finding("machine", "processor", "works", said)]


def memory() -> list[Finding]:
    total, available = machine.memory_bytes()
    said = f"{_gib(available)} available of {_gib(total)}"
    if available < LEAST_MEMORY:
        remedy = "lower limits.shards_in_flight and dataset.shard_bytes, or stop other programs"
        return [Finding("machine", "memory", "slow", said, remedy)]
    return [Finding("machine", "memory", "works", said)]


def disk(name: str, folder: Path, option: str, most_bytes: int = 0) -> list[Finding]:
    """Space and right to write where a folder is or would be made; `most_bytes` is what may come to lie there."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        said, remedy = f"{place} may not be written to by this user", f"give this user the right, or set {option}"
        return [Finding("disk", name, "fails", said, remedy, needed=True)]
    free = shutil.disk_usage(place).free
    said = f"{folder.absolute()}: {_gib(free)} free"
    if free < LEAST_FREE:
        return [Finding("disk", name, "fails", said, f"free space, or set {option} to another place", needed=True)]
    if free < most_bytes:
        return [Finding("disk", name, "slow", f"{said}, and up to {_gib(most_bytes)} may be used", f"lower {option}")]
    return [Finding("disk", name, "works", said)]


def clock(server_seconds: float | None, most_apart: float = 60.0) -> Finding:
    """Whether the clock agrees with a server's; signed requests, as S3's, are refused where it is far off."""
    zone = time.strftime("%Z")
    if server_seconds is None:
        return Finding("machine", "clock", "works", f"{time.strftime('%Y-%m-%d %H:%M')} {zone}, compared with no other")
    apart = abs(time.time() - server_seconds)
    if apart > most_apart:
        said = f"{apart:,.0f} s away from the Hub's: schedules are off by that, and S3 refuses what is signed"
        return Finding("machine", "clock", "fails", said, "timedatectl set-ntp true")
    return Finding("machine", "clock", "works", f"{time.strftime('%Y-%m-%d %H:%M')} {zone}, as the Hub's")


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
