"""Engines that compute a rewritten model, whatever its head reads, beside Transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.unit.test_encoders import assert_same, batch, halves, model_of, outputs
from tidemill.config import Inference
from tidemill.encoding.items import IDS, MASK, TYPES, prepared_rows
from tidemill.engines import open_engine

HEADS = ["classes of tokens", "mean of tokens", "first token"]


@pytest.fixture
def opened(tmp_path):
    def opened(head, inputs=(IDS, MASK), **inference):
        texts = pa.array([list(range(5, 5 + n)) for n in (12, 30, 4)], pa.list_(pa.int32()))
        return open_engine(
            tmp_path,
            load=lambda dtype: model_of("bert", head).to(dtype),
            called=head,
            inference=Inference(device="cpu", **inference),
            inputs=inputs,
            longest=40,
            calibration=lambda: prepared_rows(texts),
        )

    return opened


def compare(engine, head, lengths, *, with_types=False, tolerance=1e-4):
    """Hold what an engine answers against the module of Transformers."""
    ids, mask = batch(model_of("bert"), *lengths)
    types: Any = halves(ids) if with_types else None
    with torch.no_grad():
        expected = outputs(model_of("bert", head), ids, mask, types)
    arrays = {IDS: ids.numpy(), MASK: mask.numpy()} | ({TYPES: types.contiguous().numpy()} if with_types else {})
    if bool(mask.all()):
        del arrays[MASK]

    answered = torch.from_numpy(np.array(engine.submit(arrays).result()))

    assert engine.facts()["rewritten"]
    assert_same(answered, expected, mask, tolerance=tolerance)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("head", HEADS)
def test_a_rewritten_model_is_computed_by_every_engine(opened, head, engine):
    computing = opened(head, engine=engine, dtype="float32")

    for lengths in ((20, 3, 1), (7, 7)):
        compare(computing, head, lengths)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("head", ["classes", "classes of tokens"])
def test_types_of_tokens_reach_a_rewritten_model_in_every_engine(opened, head, engine):
    computing = opened(head, (IDS, MASK, TYPES), engine=engine, dtype="float32")

    for lengths in ((20, 3, 1), (7, 7)):
        compare(computing, head, lengths, with_types=True)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("head", HEADS)
def test_in_16_bits_a_head_is_computed_in_float32(opened, head, engine):
    computing = opened(head, engine=engine, dtype="bfloat16")

    compare(computing, head, (20, 3, 1), tolerance=0.1)
    if engine == "openvino":
        # `_head` is compiled by itself.
        assert computing._head is not None
    else:
        assert {each.dtype for each in computing.model.head.parameters()} <= {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_int8_computes_the_layers_of_a_rewritten_model_whatever_its_head_reads(opened, head):
    computing = opened(head, engine="openvino", dtype="int8")

    compare(computing, head, (20, 3, 1), tolerance=0.1)
    compare(computing.reference, head, (20, 3, 1))
    kinds = {node.get_element_type().get_type_name() for node in computing._model.get_ops() if is_constant(node)}
    assert "u8" in kinds


def is_constant(node):
    return node.get_type_name() == "Constant"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_heads_on_the_same_weights_are_told_apart_in_one_process(opened, dtype):
    for head in ("mean of tokens", "first token", "first and last token", "mean of tokens"):
        compare(opened(head, engine="openvino", dtype=dtype), head, (9, 4), tolerance=0.1)
