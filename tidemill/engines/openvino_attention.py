"""Attention as OpenVINO computes it fastest: one kernel, and nothing transposed before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as operations

if TYPE_CHECKING:
    from openvino import Model, Node, Output, Type

OUT = -1e38
"""Nothing is left of what this is added to, as of minus infinity. But padding further from its text than a window is
wide sees no token at all: from minus infinity alone softmax makes NaN, which the next layer gives to the text."""


def with_attention_spelled_out(model: Model, dtype: str | None = None) -> Model:
    """A copy of `model` with attention as products and a softmax, in `dtype` if that is not to be the model's.

    OpenVINO takes it apart like that by itself and makes one kernel of the parts,
    but transposes the keys before it, where the product could.
    """
    copy = model.clone()
    for node in copy.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and (context := _attention(node, dtype)) is not None:
            context.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(context.output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _attention(node: Node, dtype: str | None) -> Node | None:
    """None for attention that looks back only, or by a scale that is not known before it runs."""
    query, key, value, *others = (node.input_value(i) for i in range(node.get_input_size()))
    given, scale = query.get_element_type(), _scale(query, others)
    if node.get_attributes()["causal"] or scale is None:
        return None
    scaled = query if scale == 1 else operations.multiply(query, operations.constant(scale, given))
    scores = operations.matmul(_in(dtype, scaled), _in(dtype, key), transpose_a=False, transpose_b=True)
    if others:
        bias = _bias(others[0], given)
        if dtype is not None:
            # Rounded to fewer bits, the least number of float32 is minus infinity.
            bias = _in(dtype, operations.maximum(bias, operations.constant(OUT, given)))
        scores = operations.add(scores, bias)
    context = operations.matmul(operations.softmax(scores, -1), _in(dtype, value), transpose_a=False, transpose_b=False)
    return context if dtype is None else operations.convert(context, given)


def _in(dtype: str | None, values: Output | Node) -> Output | Node:
    return values if dtype is None else operations.convert(values, dtype)


def _scale(query: Output, others: Sequence[Output]) -> float | None:
    """By what attention multiplies; None if that is not known before it runs."""
    if len(others) == 2:
        given = others[1].get_node()
        return float(given.get_data().item()) if given.get_type_name() == "Constant" else None
    size = query.get_partial_shape()[-1]
    return None if size.is_dynamic else float(size.get_length()) ** -0.5


def _bias(mask: Output, dtype: Type) -> Output | Node:
    """What is added to scores: the mask, or where it is false what leaves nothing of a score."""
    if mask.get_element_type() != ov.Type.boolean:
        return mask
    nothing, out = operations.constant(0.0, dtype), operations.constant(OUT, dtype)
    return operations.select(mask, nothing, out)
