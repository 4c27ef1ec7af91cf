from __future__ import annotations

import pytest
import torch
import transformers

from tidemill.checkpoints.embeddings.embedder import Embedder, Head
from tidemill.checkpoints.embeddings.recipe import Recipe
from tidemill.engines import encoders
from tidemill.engines.encoders import Encoder
from tidemill.engines.encoders.parts import parts_of
from tidemill.engines.probing.truth import examine

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
DISTILBERT_SIZES = {
    "vocab_size": 90,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "electra": SIZES | {"embedding_size": 20},
    "distilbert": DISTILBERT_SIZES,
}
WITH_TYPES = ("bert", "electra")
HEADS = {
    "classes": transformers.AutoModelForSequenceClassification,
    "classes of tokens": transformers.AutoModelForTokenClassification,
    "mean of tokens": transformers.AutoModel,
    "first token": transformers.AutoModel,
    "first and last token": transformers.AutoModel,
}
POOLING = {"mean of tokens": ("mean",), "first token": ("cls",), "first and last token": ("cls", "lasttoken")}


def model_of(family, head="classes", **options):
    """A model that answers far apart, in eval mode."""
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family], num_labels=3, **options)
    model = HEADS[head].from_config(config).eval()
    for name, parameter in model.named_parameters():
        # A norm that multiplies by almost nothing would let no text through.
        torch.nn.init.normal_(parameter, mean=float("norm.weight" in name.lower()), std=0.2)
    return Embedder(model, Head(Recipe(POOLING[head]))).eval() if head in POOLING else model


def encoder_of(model):
    parts = parts_of(model)
    assert parts is not None
    with torch.no_grad():
        return Encoder(parts).eval()


def outputs(model, ids, mask=None, types=None):
    """What Transformers answers."""
    given = {} if types is None else {"token_type_ids": types}
    answer = model(input_ids=ids, attention_mask=mask, **given)
    return getattr(answer, "logits", answer)


def halves(ids):
    """Types of tokens, as a pair of texts has them."""
    return (torch.arange(ids.shape[1]) >= ids.shape[1] // 2).long().expand_as(ids)


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


def assert_same(answered, expected, mask, *, tolerance=1e-4):
    """In all of a row, or, of what has a value for each token, in its tokens."""
    is_told = mask.bool() if answered.shape[:2] == mask.shape else torch.ones(len(mask), dtype=torch.bool)
    torch.testing.assert_close(answered[is_told], expected[is_told], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_answers_as_transformers_does(family, head):
    model = model_of(family, head)
    encoder = encoder_of(model)

    with torch.no_grad():
        for lengths in ((7, 7), (20, 3, 1), (1,)):
            ids, mask = batch(model, *lengths)
            expected = outputs(model, ids, mask)
            assert_same(encoder(ids, mask), expected, mask)
            if len(set(lengths)) == 1:
                assert_same(encoder(ids), expected, mask)


@pytest.mark.parametrize("head", ["classes", "classes of tokens"])
@pytest.mark.parametrize("family", WITH_TYPES)
def test_types_of_tokens_are_told_apart_as_transformers_does(family, head):
    model = model_of(family, head)
    encoder = encoder_of(model)
    ids, mask = batch(model, 20, 3, 1)
    types = halves(ids)

    with torch.no_grad():
        expected = outputs(model, ids, mask, types)
        assert_same(encoder(ids, mask, types), expected, mask)
        assert not torch.allclose(expected[0], outputs(model, ids, mask)[0], atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_padding_it_answers_the_same(family, head):
    model = model_of(family, head)
    encoder = encoder_of(model)
    ids, mask = batch(model, 9, 4, 1, 16)
    starts = torch.tensor([0, 9, 13, 14, 30], dtype=torch.int32)
    types = halves(ids) if family in WITH_TYPES else None

    with torch.no_grad():
        packed = encoder.forward_packed(
            ids[mask.bool()],
            starts,
            None if types is None else types[mask.bool()],
            longest=16,
            attend=by_sequence,
        )
        expected = encoder(ids, mask, types)
        assert packed.shape == expected.shape
        assert_same(packed, expected, mask)


def test_a_pad_token_inside_of_a_text_takes_no_position_in_roberta():
    model = model_of("roberta")
    encoder = encoder_of(model)
    ids, mask = batch(model, 8, 5)
    ids[0, 3] = model.config.pad_token_id

    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(encoder(ids, mask), expected, rtol=1e-4, atol=1e-4)
        packed = encoder.forward_packed(
            ids[mask.bool()], torch.tensor([0, 8, 13], dtype=torch.int32), longest=8, attend=by_sequence
        )
        torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_answers_alike_is_rewritten(family, head):
    assert encoders.rewrite(model_of(family, head)) is not None


@pytest.mark.parametrize(
    ("head", "reads_first_token"),
    [("classes", True), ("classes of tokens", False), ("mean of tokens", False), ("first token", True)],
)
def test_the_last_layer_makes_no_more_than_what_a_head_reads(head, reads_first_token):
    encoder = encoder_of(model_of("bert", head))
    made = []
    encoder.layers[-1].register_forward_hook(lambda layer, given, x_MH: made.append(len(x_MH)))

    with torch.no_grad():
        encoder(*batch(model_of("bert"), 9, 4))

    assert made == [2 if reads_first_token else 2 * 9]


@pytest.mark.parametrize("head", ["classes", "classes of tokens"])
def test_types_that_are_told_apart_otherwise_keep_a_model_as_it_is(head, monkeypatch):
    model = model_of("bert", head)
    truth = examine(model, longest=40, inputs=("input_ids", "attention_mask", "token_type_ids"))
    assert encoders.rewrite(model, truth) is not None

    monkeypatch.setattr("tidemill.engines.encoders.encoder._beside_type_0", lambda types: types.weight)
    assert encoders.rewrite(model, truth) is None


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
    bare = transformers.BertModel(transformers.BertConfig(**SIZES)).eval()

    assert encoders.rewrite(modern) is None
    assert encoders.rewrite(bare) is None


def test_an_embedder_that_passes_over_a_prompt_reads_more_than_the_first_token():
    assert Head(Recipe(("cls",))).reads_first_token
    assert not Head(Recipe(("cls",), num_left_out=2)).reads_first_token
