"""How fast this processor multiplies matrices, in each type that a model may be computed in.

A model is mostly such products, so they bound its speed, and say more of it than
the processor's flags do: `avx512_bf16` doubles products on one processor and
halves them on another. Measured in a fraction of a second, and kept per processor.

One operation is a multiplication or an addition, as in GFLOP/s. What is timed is
one thread, by the time that it had a CPU: other work of the machine, which would
halve a wall time and not the other, says nothing of the processor.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tidemill.fingerprints import fingerprint
from tidemill.machine import Processor, processor
from tidemill.storage.kept import keep, read_kept

if TYPE_CHECKING:
    import torch

NUM_ROWS = 128
"""Of the left matrix: tokens that a CPU multiplies at one time."""
WIDTH = 768
"""Of both: a linear layer of a base-size model."""
SECONDS = 0.05
LEAST_TURNS = 5
"""Each type is tried so long and so often, in turns; the best counts, for noise only adds time."""
HOPELESS = 4.0
"""So many times as long as float32's, and once is enough."""
PAYS = 1.15
"""So many times float32's products a type's have to be for a model to gain by them: not all of it is products."""

Product = Callable[[], object]


@dataclass(frozen=True)
class ProductRates:
    """Operations a second of one CPU; None where torch has no product of that type here, or none but emulated."""

    float32: float
    bfloat16: float | None
    int8: float | None

    def times(self, dtype: str) -> float | None:
        """How many times as fast as float32's the products of a type are."""
        rate = getattr(self, dtype)
        return None if rate is None else rate / self.float32

    def pays(self, dtype: str) -> bool:
        """Whether a model gains by computing in it, as far as products say."""
        return (self.times(dtype) or 0.0) >= PAYS

    def to_json(self) -> dict[str, float | None]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Any) -> ProductRates:
        """
        Raises:
            ValueError: these are no rates.
        """
        try:
            given = {name: None if facts[name] is None else float(facts[name]) for name in cls.__annotations__}
        except (KeyError, TypeError, OverflowError) as e:
            raise ValueError(f"{facts!r} are no rates.") from e
        if given["float32"] is None or not all(0 < rate < float("inf") for rate in given.values() if rate is not None):
            raise ValueError(f"{facts!r} are no rates.")
        return cls(**given)  # type: ignore[arg-type]


def product_rates() -> ProductRates:
    """This processor's, measured once and kept for later processes."""
    return _product_rates(processor())


def kept_rates() -> ProductRates | None:
    """This processor's, if they have been measured: asks no library."""
    with suppress(ValueError):
        return ProductRates.from_json(read_kept(_name(processor())))
    return None


@functools.cache
def _product_rates(of: Processor) -> ProductRates:
    if (kept := kept_rates()) is not None:
        return kept
    rates = measure_rates()
    keep(_name(of), rates.to_json())
    return rates


def measure_rates(*, seconds: float = SECONDS, clock: Callable[[], float] = time.thread_time) -> ProductRates:
    """Time products of each type, in turns."""
    with _one_thread():
        best = _best_seconds(products(NUM_ROWS, WIDTH), seconds, clock)
    rates = {dtype: 2 * NUM_ROWS * WIDTH * WIDTH / taken for dtype, taken in best.items()}
    return ProductRates(rates["float32"], rates.get("bfloat16"), rates.get("int8"))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _best_seconds(products: Mapping[str, Product], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    best, num_turns = dict.fromkeys(products, float("inf")), 0
    deadline = clock() + seconds * len(products)
    while num_turns < LEAST_TURNS or clock() < deadline:
        for dtype, product in products.items():
            if num_turns and best[dtype] > HOPELESS * best["float32"]:
                continue
            started = clock()
            product()
            best[dtype] = min(best[dtype], clock() - started)
        num_turns += 1
    return best


def _name(of: Processor) -> str:
    return f"products-{fingerprint(of.fingerprint, metadata.version('torch'))}"


def products(num_rows: int, width: int) -> dict[str, Product]:
    """A product of each type that torch has here, as a model's linear layers are computed; each was computed once."""
    import torch

    found: dict[str, Product] = {}
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(num_rows, width, generator=draw), torch.randn(width, width, generator=draw)
    for dtype, made in (("float32", _float_product), ("bfloat16", _float_product), ("int8", _int8_product)):
        # Operations that are not torch's public ones, or that the processor lacks.
        with suppress(RuntimeError, AttributeError, NotImplementedError):
            product = made(x, weight, dtype)
            product()
            found[dtype] = product
    return found


def _float_product(x: torch.Tensor, weight: torch.Tensor, dtype: str) -> Product:
    """By oneDNN with weights laid out for it, where it takes them so; that is how OpenVINO multiplies too."""
    import torch

    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise NotImplementedError("the processor has none, and torch would emulate them")
    x, weight = x.to(getattr(torch, dtype)), weight.to(getattr(torch, dtype))
    with suppress(RuntimeError, AttributeError, NotImplementedError):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return lambda: torch.nn.functional.linear(x, weight)


def _int8_product(x: torch.Tensor, weight: torch.Tensor, dtype: str) -> Product:
    import torch

    numbers = (x * 32 + 128).clamp(0, 255).to(torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack((weight * 32).clamp(-127, 127).to(torch.int8), list(x.shape))
    scales, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        numbers, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
