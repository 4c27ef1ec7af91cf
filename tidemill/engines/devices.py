"""What `auto` means on this machine, and what its devices' errors mean."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Where a batch stays in a CPU's cache (python -m benchmarks.bench --full --only budgets), and what fills a GPU.
AUTO_TOKEN_BUDGET = {"cpu": 2_048, "cuda": 65_536}


def resolve_device(declared: str) -> torch.device:
    """The device that is declared, or `cuda` where there is one, else `cpu`.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    import torch

    if declared == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(declared)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ConfigError(
            f'inference.device = "{declared}" is not on this machine. Here: {", ".join(_available())}.'
        ) from e
    return device


def _available() -> list[str]:
    import torch

    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return str(_cpu_capabilities().get("cpu_name") or platform.machine())


def resolve_dtype(declared: str, device: torch.device) -> str:
    """The dtype that is declared, or `bfloat16` where the hardware computes in it, else `float32`."""
    if declared == "auto":
        return "bfloat16" if _computes_in_bfloat16(device) else "float32"
    return declared


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware does, and not an emulation of it."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # oneDNN also says yes where it emulates, so the processor's own word comes first.
    return bool(_cpu_capabilities().get("avx512_bf16", torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _cpu_capabilities() -> dict[str, Any]:
    import torch

    # Older torch has no such function.
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def use_all_cpus() -> None:
    """Let torch compute on the CPUs that this process may use, unless OMP_NUM_THREADS says otherwise.

    Torch counts the machine's, so in a container its threads would get in each other's way.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cpus())


def num_cpus() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))


def is_device_failure(error: Exception) -> bool:
    """Whether the device's context is lost: every later call would fail too, whatever the row."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)
