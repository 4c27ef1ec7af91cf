"""Rows without padding, on the CPU: what attention means there is written out, the GPU's kernels are not tested."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests.checkpoints import TINY_SENTIMENT
from tests.unit.test_encoders import by_sequence, model_of
from tidemill.engines import encoders
from tidemill.engines.packed import PackedEncoder, check

CPU = torch.device("cpu")


def rewritten(model):
    encoder = encoders.rewrite(model)
    assert encoder is not None
    return encoder.to(torch.bfloat16)


@pytest.fixture
def encoder():
    model = transformers.AutoModelForSequenceClassification.from_pretrained(TINY_SENTIMENT, dtype=torch.float32)
    return rewritten(model.eval())


def all_see_all(q, k, v, query_starts, key_starts, most_queries, most_keys, *, scale):
    """Attention that forgets where rows end."""
    ends = [0, len(q)], [0, len(k)]
    return by_sequence(q, k, v, *ends, len(q), len(k), scale=scale)


def answer(forward):
    with torch.inference_mode():
        return forward(torch.arange(7, 20), torch.tensor([0, 9, 13], dtype=torch.int32), longest=9)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("head", "shape"), [("classes", (2, 3)), ("classes of tokens", (2, 9, 3)), ("mean of tokens", (2, 32))]
)
def test_what_answers_as_with_padding_is_used(family, head, shape):
    forward = PackedEncoder(rewritten(model_of(family, head)), CPU, by_sequence)

    assert answer(forward).shape == shape


def test_types_that_are_told_apart_otherwise_are_found_out():
    encoder = rewritten(model_of("bert"))

    def blind(ids_N, starts, types_N=None, *, longest):
        return encoder.forward_packed(ids_N, starts, longest=longest, attend=by_sequence)

    with pytest.raises(ArithmeticError, match="other answers"):
        check(encoder, blind, CPU)


def test_attention_over_the_ends_of_rows_is_found_out(encoder):
    with pytest.raises(ArithmeticError, match="other answers"):
        PackedEncoder(encoder, CPU, all_see_all)
