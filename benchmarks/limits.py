"""How fast the device can multiply matrices, and how many multiplications a model's forward pass is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PEAK_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (8192, 16384)}
PEAK_DTYPES = ("float32", "bfloat16", "int8")
PEAK_SECONDS = 1.0
"""How long one size and dtype is tried; where one product takes longer, no larger size is."""
SUSTAINED_SECONDS = 5.0


@dataclass(frozen=True)
class Products:
    """Operations a second of square matrix products: of the fastest one, and of one after the other for
    `SUSTAINED_SECONDS`, which is less where a processor slows down or others share it."""

    peak: float
    sustained: float


def matmul_products(device: str) -> dict[str, Products]:
    """By dtype, the best over sizes and ways. A dtype that the device does not compute in is not there."""
    import torch

    from tidemill.engines.devices import use_all_cpus

    use_all_cpus()
    kind = torch.device(device).type
    found = {dtype: _best_products(PEAK_SIZES[kind], device, dtype) for dtype in PEAK_DTYPES}
    return {dtype: products for dtype, products in found.items() if products is not None}


def products_of(dtype: str) -> str:
    """The name among `matmul_products` for a model's dtype."""
    return "bfloat16" if dtype == "float16" else dtype


def _best_products(sizes: Sequence[int], device: str, dtype: str) -> Products | None:
    peak, fastest = 0.0, None
    for size in sizes:
        tried = [
            (2 * size**3 / min(_seconds(each, device, PEAK_SECONDS)), each) for each in _products(size, device, dtype)
        ]
        for rate, product in tried:
            if rate > peak:
                peak, fastest = rate, (size, product)
        if not tried or max(rate for rate, _ in tried) < 2 * size**3 / PEAK_SECONDS:
            break
    if fastest is None:
        return None
    size, product = fastest
    seconds = _seconds(product, device, SUSTAINED_SECONDS)
    return Products(max(peak, 2 * size**3 / min(seconds)), 2 * size**3 * len(seconds) / sum(seconds))


def _products(size: int, device: str, dtype: str) -> list[Callable[[], object]]:
    """As torch multiplies and, on a CPU, by oneDNN with one side laid out for it beforehand."""
    import torch

    from tidemill.engines import rates

    ways: list[Callable[[], object]] = []
    packed = rates.products(size, size) if torch.device(device).type == "cpu" else {"bfloat16": None}
    if dtype != "int8" and dtype in {"float32", *packed}:
        left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
        ways.append(lambda: torch.mm(left, right))
    if (product := packed.get(dtype)) is not None:
        ways.append(product)
    return ways


def _seconds(product: Callable[[], object], device: str, seconds: float) -> list[float]:
    """What one after the other took, for so long; the first does not count."""
    import torch

    product()
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while not taken or time.perf_counter() < deadline:
        started = time.perf_counter()
        product()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return taken


def forward_flops(
    model: Path, lengths: Sequence[int], *, built_as: str = "AutoModelForSequenceClassification"
) -> float:
    """Floating point operations of the matrix products over sequences of these lengths, unpadded.

    Counted by torch over the model on the meta device, at two lengths: what grows
    with the tokens and what grows with their square follow from them.
    """
    short, long = 64, 256
    at_short, at_long = (_count(model, length, built_as) for length in (short, long))
    squared = (at_long / long - at_short / short) / (long - short)
    linear = at_short / short - squared * short
    return sum(linear * length + squared * length * length for length in lengths)


def _count(model: Path, length: int, built_as: str) -> float:
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        built = getattr(transformers, built_as).from_config(config, attn_implementation="eager").eval()
        ids_BT = torch.zeros((1, length), dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            built(input_ids=ids_BT)
    return float(counter.get_total_flops())
