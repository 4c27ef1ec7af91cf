"""How fast the device can multiply matrices, and how many multiplications a model's forward pass is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

PEAK_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (8192, 16384)}
PEAK_DTYPES = ("float32", "bfloat16")
PEAK_SECONDS = 1.0
"""How long one size and dtype is tried."""


def matmul_peak(device: str, dtype: str) -> float:
    """The best floating point operations a second of square matrix products, over sizes and repetitions."""
    import torch

    sizes = PEAK_SIZES[torch.device(device).type]
    return max(_fastest(size, device, getattr(torch, dtype)) for size in sizes)


def _fastest(size: int, device: str, dtype: object) -> float:
    import torch

    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, deadline = float("inf"), time.perf_counter() + PEAK_SECONDS
    torch.mm(left, right)
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        torch.mm(left, right)
        if left.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def forward_flops(model: Path, lengths: Sequence[int]) -> float:
    """Floating point operations of the matrix products over sequences of these lengths, unpadded.

    Counted by torch over the model on the meta device, at two lengths: what grows
    with the tokens and what grows with their square follow from them.
    """
    short, long = 64, 256
    at_short, at_long = _count(model, short), _count(model, long)
    squared = (at_long / long - at_short / short) / (long - short)
    linear = at_short / short - squared * short
    return sum(linear * length + squared * length * length for length in lengths)


def _count(model: Path, length: int) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        built = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        ids_BT = torch.zeros((1, length), dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            built(input_ids=ids_BT)
    return float(counter.get_total_flops())
