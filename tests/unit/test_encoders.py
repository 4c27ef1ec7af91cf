from __future__ import annotations

import pytest
import torch
import transformers

from tidemill.engines import encoders

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "bert": (transformers.BertConfig, transformers.BertForSequenceClassification, SIZES),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification, SIZES),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForSequenceClassification, SIZES),
    "camembert": (transformers.CamembertConfig, transformers.CamembertForSequenceClassification, SIZES),
    "electra": (
        transformers.ElectraConfig,
        transformers.ElectraForSequenceClassification,
        SIZES | {"embedding_size": 20},
    ),
    "distilbert": (
        transformers.DistilBertConfig,
        transformers.DistilBertForSequenceClassification,
        {"vocab_size": 90, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40},
    ),
}


def model_of(family, **options):
    config_class, model_class, sizes = FAMILIES[family]
    torch.manual_seed(3)
    model = model_class(config_class(**sizes, num_labels=3, **options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch(model, *lengths, seed=1):
    ids = torch.randint(5, 90, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids.masked_fill(mask == 0, model.config.pad_token_id or 0), mask


def by_sequence(q, k, v, query_starts, key_starts, most_queries, most_keys, *, scale):
    """What variable-length attention means, a sequence at a time."""
    contexts = []
    for i in range(len(key_starts) - 1):
        queries = q[query_starts[i] : query_starts[i + 1]].transpose(0, 1)
        keys, values = (x[key_starts[i] : key_starts[i + 1]].transpose(0, 1) for x in (k, v))
        assert queries.shape[1] <= most_queries
        assert keys.shape[1] <= most_keys
        weights = torch.softmax(scale * (queries @ keys.transpose(1, 2)), dim=-1)
        contexts.append((weights @ values).transpose(0, 1))
    return torch.cat(contexts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rewritten_model_answers_as_transformers_does(family):
    model = model_of(family)
    encoder = encoders.rewrite(model)
    assert encoder is not None

    with torch.no_grad():
        for lengths in ((7, 7), (20, 3, 1), (1,)):
            ids, mask = batch(model, *lengths)
            expected = model(input_ids=ids, attention_mask=mask).logits
            torch.testing.assert_close(encoder(ids, mask), expected, rtol=1e-4, atol=1e-4)
            if len(set(lengths)) == 1:
                torch.testing.assert_close(encoder(ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_padding_it_answers_the_same(family):
    model = model_of(family)
    encoder = encoders.rewrite(model)
    assert encoder is not None
    lengths = (9, 4, 1, 16)
    ids, mask = batch(model, *lengths)
    starts = torch.tensor([0, 9, 13, 14, 30], dtype=torch.int32)

    with torch.no_grad():
        packed = encoder.forward_packed(ids[mask.bool()], starts, longest=16, attend=by_sequence)
        torch.testing.assert_close(packed, encoder(ids, mask), rtol=1e-4, atol=1e-4)


def test_a_pad_token_inside_of_a_text_takes_no_position_in_roberta():
    model = model_of("roberta")
    encoder = encoders.rewrite(model)
    assert encoder is not None
    ids, mask = batch(model, 8, 5)
    ids[0, 3] = model.config.pad_token_id

    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(encoder(ids, mask), expected, rtol=1e-4, atol=1e-4)
        packed = encoder.forward_packed(
            ids[mask.bool()], torch.tensor([0, 8, 13], dtype=torch.int32), longest=8, attend=by_sequence
        )
        torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_computes_something_else_than_its_type_says_stays_as_it_is():
    # transformers is Any here.
    class BertForSequenceClassification(transformers.BertForSequenceClassification):  # type: ignore[misc]
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits + inputs["input_ids"].float().mean(dim=1, keepdim=True)
            return output

    plain = model_of("bert")
    other = BertForSequenceClassification(plain.config).eval()
    other.load_state_dict(plain.state_dict())

    assert encoders.rewrite(plain) is not None
    assert encoders.rewrite(other) is None


def test_a_relative_without_the_parts_stays_as_it_is():
    class Wrapped(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **options):
            return self.inner(*args, **options)

    model = model_of("bert")
    attention = model.bert.encoder.layer[0].attention
    attention.self = Wrapped(attention.self)

    assert encoders.rewrite(model) is None


def test_other_types_and_tasks_stay_as_they_are():
    sizes = {
        "vocab_size": 90,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    modern = transformers.ModernBertForSequenceClassification(transformers.ModernBertConfig(**sizes, **special)).eval()
    tagger = transformers.BertForTokenClassification(transformers.BertConfig(**SIZES)).eval()

    assert encoders.rewrite(modern) is None
    assert encoders.rewrite(tagger) is None
