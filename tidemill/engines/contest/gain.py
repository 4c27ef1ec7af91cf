"""Whether int8 would pay on this processor: linear layers as OpenVINO computes them, timed in turns, and kept.

It says no more than that. What int8 does to a model's answers is measured on a run's own rows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from tidemill.engines.rates import PAYS
from tidemill.fingerprints import fingerprint
from tidemill.machine import processor
from tidemill.storage.kept import keep, read_kept

if TYPE_CHECKING:
    from openvino import Model

NUM_ROWS, WIDTH, INNER_WIDTH = 128, 768, 3_072
"""Tokens, and the two linear layers of a base-size model's feed-forward part."""
SECONDS, LEAST_TURNS = 1.0, 10
LINEAR_SHARE = 0.7
"""Of the time that a model takes in a float type, about: the rest, attention above all, int8 leaves as it is."""


@dataclass(frozen=True)
class Gain:
    """`times` as fast as in the fastest float type, which is `than`, linear layers are computed in int8."""

    times: float
    than: str

    @property
    def of_a_model(self) -> float:
        return 1 / (1 - LINEAR_SHARE + LINEAR_SHARE / self.times)

    @property
    def pays(self) -> bool:
        return self.times >= PAYS

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "of_a_model": self.of_a_model, "pays": self.pays, "said": str(self)}

    def __str__(self) -> str:
        layers = f"linear layers are {self.times:.1f} times as fast as in {self.than}"
        if not self.pays:
            return f"int8 does not pay here: {layers}"
        return f'int8 pays here: {layers}, a model about {self.of_a_model:.1f} times (inference.dtype = "int8")'


def gain() -> Gain:
    """This processor's, measured once and kept for later processes.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    if (kept := kept_gain()) is not None:
        return kept
    measured = measure_gain()
    keep(_name(), asdict(measured))
    return measured


def kept_gain() -> Gain | None:
    """This processor's, if it has been measured with the OpenVINO that is installed; loads no library."""
    with suppress(metadata.PackageNotFoundError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        kept = read_kept(_name())
        found = Gain(float(kept["times"]), str(kept["than"]))
        return found if 0 < found.times < float("inf") else None
    return None


def measure_gain(*, seconds: float = SECONDS, clock: Callable[[], float] = time.perf_counter) -> Gain:
    """Time each type in turns, so that noise of the machine hits all alike; the best turn counts."""
    layers = _layers()
    best = _best_seconds(layers, seconds, clock)
    floats = {dtype: taken for dtype, taken in best.items() if dtype != "int8"}
    than = min(floats, key=floats.__getitem__)
    return Gain(floats[than] / best["int8"], than)


def _best_seconds(
    layers: Mapping[str, Callable[[], object]], seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    best, num_turns = dict.fromkeys(layers, float("inf")), 0
    for compute in layers.values():
        compute()
    deadline = clock() + seconds
    while num_turns < LEAST_TURNS or clock() < deadline:
        for dtype, compute in layers.items():
            started = clock()
            compute()
            best[dtype] = min(best[dtype], clock() - started)
        num_turns += 1
    return best


def _layers() -> dict[str, Callable[[], object]]:
    """The same two layers in each type that the processor computes in, on one CPU."""
    import openvino as ov
    from openvino.properties import hint as hints
    from openvino.properties import inference_num_threads, num_streams

    from tidemill.engines.int8.weights import with_int8_weights

    core, model = ov.Core(), _feed_forward()
    in_int8, group = with_int8_weights(model, {"up", "down"})
    one = {inference_num_threads: 1, num_streams: 1}
    asked: dict[str, tuple[Model, dict[Any, Any]]] = {
        "float32": (model, {hints.inference_precision: "f32"}),
        "int8": (in_int8, {hints.inference_precision: "f32", hints.dynamic_quantization_group_size: group}),
    }
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        asked["bfloat16"] = (model, {hints.inference_precision: "bf16"})
    x_NI = np.random.default_rng(0).standard_normal((NUM_ROWS, WIDTH)).astype(np.float32)
    compiled = {dtype: core.compile_model(each, "CPU", {**one, **options}) for dtype, (each, options) in asked.items()}
    return {dtype: functools.partial(each, [x_NI]) for dtype, each in compiled.items()}


def _feed_forward() -> Model:
    import openvino as ov
    from openvino import opset13 as operations

    draw = np.random.default_rng(0)
    up = draw.standard_normal((INNER_WIDTH, WIDTH)).astype(np.float32)
    down = draw.standard_normal((WIDTH, INNER_WIDTH)).astype(np.float32)
    x_NI = operations.parameter([-1, WIDTH], np.float32)
    wide = operations.matmul(x_NI, operations.constant(up, name="up"), transpose_a=False, transpose_b=True)
    y = operations.matmul(
        operations.gelu(wide, "erf"), operations.constant(down, name="down"), transpose_a=False, transpose_b=True
    )
    return ov.Model([operations.result(y)], [x_NI])


def _name() -> str:
    return f"int8-gain-{fingerprint(processor().fingerprint, metadata.version('openvino'))}"
