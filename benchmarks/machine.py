"""The hardware and the software that a number was measured on."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "tokenizers", "openvino", "datasets", "ray", "duckdb", "pyarrow", "numpy")
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni")
ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Of the environment: what oneDNN does not use beyond, in torch and in OpenVINO, whose own copy of it reads it too."""


@dataclass(frozen=True)
class Machine:
    """`bfloat16` and `int8` name what the processor computes these in, or are `none`; `memory` is in bytes.

    `isa` is what libraries are told to use of it at most, where they are told.
    """

    processor: str
    cores: int
    memory: int
    bfloat16: str
    accelerator: str
    python: str
    packages: dict[str, str]
    day: str
    int8: str = "none"
    isa: str = ""

    @property
    def slug(self) -> str:
        """For a file's name."""
        name = self.accelerator or f"{self.processor} {self.bfloat16.split()[0]} {self.cores} cores {self.isa}"
        return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)|processor|cpu", "", name.lower())).strip("-")

    def __str__(self) -> str:
        where = [self.accelerator] if self.accelerator else []
        where += [
            f"{self.processor}, {self.cores} cores, bf16: {self.bfloat16}, int8: {self.int8}",
            *([f"{ISA_VARIABLE}={self.isa}"] if self.isa else []),
            f"{self.memory / 2**30:.0f} GiB",
            f"Python {self.python}",
            ", ".join(f"{name} {version}" for name, version in self.packages.items()),
            self.day,
        ]
        return "; ".join(where)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def this_machine(device: str = "cpu") -> Machine:
    described = _cpuinfo()
    flags = described.get("flags", "").split()
    return Machine(
        processor=re.sub(r"\s+", " ", re.sub(r"\((R|TM)\)| Processor", "", described.get("model name", ""))).strip()
        or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        bfloat16=" + ".join(flag for flag in BFLOAT16_FLAGS if flag in flags) or "none",
        int8=" + ".join(flag for flag in INT8_FLAGS if flag in flags) or "none",
        isa=os.environ.get(ISA_VARIABLE, ""),
        accelerator=_accelerator(device),
        python=platform.python_version(),
        packages=dict(_versions()),
        day=str(date.today()),
    )


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _accelerator(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    import torch

    return str(torch.cuda.get_device_name(torch.device(device)))


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "missing"))
    return found
