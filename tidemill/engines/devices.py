"""What `auto` means on this machine, and what its devices' errors mean."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from tidemill.engines.probing.memory import is_out_of_memory
from tidemill.errors import ConfigError
from tidemill.machine import num_cpus

if TYPE_CHECKING:
    import torch

LEAST_CAPABILITY_FOR_FLOAT16 = (7, 0)
"""Volta's, the first GPUs with matrix units."""
# Where a batch stays in a CPU's cache (python -m benchmarks.bench --full --only budgets), and what fills a GPU.
AUTO_TOKEN_BUDGET = {"cpu": 1_024, "cuda": 65_536}
FOUR_BYTES_TOKEN_BUDGET = 768
"""On a CPU, where activations are in float32, as they are around the products of int8 too."""
WRITING_TOKEN_BUDGET = {"cpu": 16_384, "cuda": 131_072, "server": 16_384}
"""Of prompts and what is written behind them: a step costs little more for many rows than for one. Of what
goes to a server four bytes count as a token."""


def auto_token_budget(device: str, dtype: str) -> int:
    """Padded tokens of a batch where nothing is declared and nothing was tried; `device` as engines tell theirs."""
    kind = device.partition(":")[0]
    return FOUR_BYTES_TOKEN_BUDGET if kind == "cpu" and dtype in ("float32", "int8") else AUTO_TOKEN_BUDGET[kind]


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
    """The dtype that is declared, or the first of `fast_dtypes`, else `float32`."""
    return next(iter(fast_dtypes(device)), "float32") if declared == "auto" else declared


def fast_dtypes(device: torch.device) -> tuple[str, ...]:
    """The dtypes of 16 bits that the hardware gains by, the first choice first.

    A GPU multiplies as fast in both. bfloat16 has float32's range, and float16 three more bits for the digits.
    """
    found = ("bfloat16",) if _computes_in_bfloat16(device) else ()
    return (*found, "float16") if _has_fast_float16(device) else found


def _has_fast_float16(device: torch.device) -> bool:
    import torch

    return device.type == "cuda" and bool(torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY_FOR_FLOAT16)


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware does, and not an emulation of it; of a CPU, whether its products are the faster ones.

    Of processors with the same flag for it, some multiply twice as fast in it as in float32, some half as fast.
    """
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without that no product would be tried, and the rates not be worth their time.
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    from tidemill.engines.rates import product_rates

    return product_rates().pays("bfloat16")


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


def is_device_failure(error: Exception) -> bool:
    """Whether the device's context is lost: every later call would fail too, whatever the row."""
    return "CUDA error" in str(error) and not is_out_of_memory(error)
