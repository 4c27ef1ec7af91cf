from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from tests.unit.test_encoders import SIZES, Mean, batch
from tidemill.engines.encoders.pooled import Pooled
from tidemill.engines.precision.heads import head_names


@pytest.fixture
def base():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False).eval()


def test_a_pool_sees_the_tokens_of_a_row_and_which_they_are(base):
    model = Pooled(base, Mean()).eval()
    ids, mask = batch(base, 9, 4)

    with torch.no_grad():
        together, alone = model(input_ids=ids, attention_mask=mask), model(input_ids=ids[1:, :4])

    torch.testing.assert_close(together[1:], alone)


def test_types_of_tokens_reach_the_base_model(base):
    model = Pooled(base, Mean()).eval()
    ids, mask = batch(base, 9, 9)
    types = torch.tensor([[0] * 5 + [1] * 4, [0] * 9])

    with torch.no_grad():
        plain, typed = model(ids, mask), model(ids, mask, types)

    assert not torch.allclose(plain[0], typed[0], atol=1e-3)
    torch.testing.assert_close(plain[1], typed[1])


def test_a_pool_is_given_float32_by_a_base_model_in_16_bits(base):
    model = Pooled(base.to(torch.bfloat16), Mean()).eval()

    with torch.no_grad():
        assert model(batch(base, 5)[0]).dtype == torch.float32


def test_a_pool_is_the_head_of_its_model_with_weights_or_without(base):
    class Dense(nn.Module):  # type: ignore[misc]
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(32, 8)

    assert head_names(Pooled(base, Mean())) == head_names(Pooled(base, Dense())) == ["pool"]
