"""Weights in 8 bits, in the shape of graph by which OpenVINO knows them: numbers, less a zero point, times a scale.

On a processor with VNNI it then quantizes what it multiplies them by, while it runs, in
groups of values: `group_of`. On others it multiplies in float32, and gains nothing.

Shapes: O outputs of a layer, I inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as operations
from openvino.properties import hint as hints

from tidemill.engines.probing.conversion import CannotConvert

if TYPE_CHECKING:
    from openvino import Model, Node

GROUPS = (128, 64, 32, 16)
"""How many values of a row may share a scale. Each group costs time, and in a large one an outlier costs more of the
others' digits; layers whose inputs it does not divide OpenVINO does not quantize."""
LEVELS = 255


def with_int8_weights(model: Model, names: Container[str]) -> tuple[Model, int]:
    """A copy of `model` with the constants of these names, which are weights OI, in 8 bits, and the group for it.

    Raises:
        CannotConvert: it has none of these names.
    """
    copy = model.clone()
    weights = [node for node in copy.get_ops() if _is_weight(node, names)]
    if not weights:
        raise CannotConvert("converted, its linear layers are not to be found, so none would be computed in int8")
    group = group_of(node.get_data().shape[1] for node in weights)
    for node in weights:
        compressed = _compressed(node.get_data())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(compressed.output(0))
    copy.validate_nodes_and_infer_types()
    return copy, group


def group_of(num_inputs: Iterable[int]) -> int:
    """The largest group that divides the inputs of all these layers, if any does."""
    shared = math.gcd(*num_inputs)
    return next((group for group in GROUPS if shared % group == 0), GROUPS[-1])


def _is_weight(node: Node, names: Container[str]) -> bool:
    return node.get_type_name() == "Constant" and node.get_friendly_name() in names


def _compressed(weight_OI: NDArray[np.float32]) -> Node:
    numbers_OI, zero_O1, scale_O1 = quantized(weight_OI)
    centered = operations.subtract(
        operations.convert(operations.constant(numbers_OI), np.float32),
        operations.convert(operations.constant(zero_O1), np.float32),
    )
    return operations.multiply(centered, operations.constant(scale_O1))


def quantized(weight_OI: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Numbers, zero points and scales: each output has its own, with zero among its numbers."""
    least_O1 = np.minimum(weight_OI.min(axis=1, keepdims=True), 0)
    most_O1 = np.maximum(weight_OI.max(axis=1, keepdims=True), 0)
    scale_O1 = np.maximum((most_O1 - least_O1) / LEVELS, np.finfo(np.float32).tiny)
    zero_O1 = np.round(-least_O1 / scale_O1)
    numbers_OI = np.clip(np.round(weight_OI / scale_O1) + zero_O1, 0, LEVELS)
    return numbers_OI.astype(np.uint8), zero_O1.astype(np.uint8), scale_O1.astype(np.float32)


@functools.cache
def quantizes_activations() -> bool:
    """Whether OpenVINO does so on this processor: told by an answer that differs where it is asked to."""
    size = 2 * GROUPS[0]
    draw = np.random.default_rng(0)
    x_1I = operations.parameter([1, size], np.float32)
    weight = operations.constant(draw.standard_normal((size, size)).astype(np.float32), name="weight")
    product = operations.matmul(x_1I, weight, transpose_a=False, transpose_b=True)
    model, group = with_int8_weights(ov.Model([operations.result(product)], [x_1I]), {"weight"})
    given = draw.standard_normal((1, size)).astype(np.float32)
    exact, asked = (
        ov.compile_model(model, "CPU", {hints.inference_precision: "f32", hints.dynamic_quantization_group_size: each})(
            [given]
        )[0]
        for each in (0, group)
    )
    return not np.allclose(exact, asked, rtol=1e-4, atol=1e-4)
