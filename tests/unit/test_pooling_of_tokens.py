"""The vectors of tokens become one as sentence-transformers pools them, whichever side of a row is padded."""

from __future__ import annotations

import pytest
import torch

from tests.embedders import save_dense, save_embedder, save_encoder
from tidemill.checkpoints.embeddings.embedder import Head, load_embedder
from tidemill.checkpoints.embeddings.folder import POOLING_MODES, Dense, Normalize
from tidemill.checkpoints.embeddings.pooling import Pooling
from tidemill.checkpoints.embeddings.recipe import Recipe, encoder_class
from tidemill.checkpoints.loading import load_config
from tidemill.errors import ModelError

NUM_TOKENS, WIDTH, SIZE = 5, 8, 4
HIDDEN = torch.randn(2, NUM_TOKENS, SIZE, generator=torch.Generator().manual_seed(0))


def padded(side):
    """The same rows in wider ones, beside values that would show in every mode; and their mask."""
    before = WIDTH - NUM_TOKENS if side == "left" else 0
    wide_BTH = torch.full((2, WIDTH, SIZE), 100.0)
    wide_BTH[:, before : before + NUM_TOKENS] = HIDDEN
    mask_BT = torch.zeros(2, WIDTH, dtype=torch.int64)
    mask_BT[:, before : before + NUM_TOKENS] = 1
    return wide_BTH, mask_BT


@pytest.mark.parametrize("num_left_out", [0, 2])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_padding_at_either_side_changes_nothing(mode, num_left_out):
    pooling = Pooling([mode], num_left_out=num_left_out)

    alone = pooling(HIDDEN, None)

    for side in ("left", "right"):
        torch.testing.assert_close(pooling(*padded(side)), alone)


@pytest.mark.parametrize("num_left_out", [0, 2])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_each_mode_is_that_of_sentence_transformers(mode, num_left_out):
    theirs = pytest.importorskip("sentence_transformers.sentence_transformer.modules").Pooling
    wide_BTH, mask_BT = padded("left")
    features = {"token_embeddings": wide_BTH, "attention_mask": mask_BT, "prompt_length": num_left_out}

    found = theirs(SIZE, mode, include_prompt=not num_left_out)(features)["sentence_embedding"]

    torch.testing.assert_close(Pooling([mode], num_left_out=num_left_out)(wide_BTH, mask_BT), found)


def test_several_modes_are_joined_in_their_order():
    joined = Pooling(["max", "cls"])(HIDDEN, None)

    assert joined.shape == (2, 2 * SIZE)
    torch.testing.assert_close(joined[:, SIZE:], HIDDEN[:, 0])


def test_a_row_of_which_a_prompt_leaves_nothing_is_zero_and_not_nan():
    pooled = Pooling(["mean"], num_left_out=NUM_TOKENS)(HIDDEN, None)

    assert (pooled == 0).all()


def test_dimensions_are_cut_before_the_rest_is_made_one_long():
    head = Head(Recipe(("mean",), truncate_dim=2, normalize=True))
    mean_BH = HIDDEN.mean(dim=1)[:, :2]

    torch.testing.assert_close(head(HIDDEN, None), mean_BH / mean_BH.norm(dim=1, keepdim=True))


def test_a_head_computes_in_float32_whatever_it_is_given():
    embedding_BE = Head(Recipe(("mean",)))(HIDDEN.bfloat16(), None)

    assert embedding_BE.dtype == torch.float32
    torch.testing.assert_close(embedding_BE, HIDDEN.bfloat16().float().mean(dim=1))


def test_the_size_of_an_embedding_follows_from_what_is_computed(tmp_path):
    dense = Dense(tmp_path, 64, 16)

    assert Recipe(("mean",)).size(32) == 32
    assert Recipe(("mean", "max"), steps=(dense,)).size(32) == 16
    assert Recipe(("mean",), truncate_dim=8).size(32) == 8
    with pytest.raises(ModelError, match="takes 64 dimensions, and what comes before it gives 32"):
        Recipe(("mean",), steps=(dense,)).size(32)
    with pytest.raises(ModelError, match=r"truncate_dim = 33 is more than the 32 dimensions"):
        Recipe(("mean",), truncate_dim=33).size(32)


def test_embeddings_are_one_long_where_that_is_the_last_that_is_done():
    assert Recipe(("mean",), steps=(Normalize(),)).is_unit
    assert Recipe(("mean",), normalize=True, truncate_dim=8).is_unit
    assert not Recipe(("mean",), steps=(Normalize(),), truncate_dim=8).is_unit
    assert not Recipe(("mean",)).is_unit


def load(folder, recipe):
    return load_embedder(folder, recipe, dtype=torch.float32, trust_remote_code=False)


def test_a_checkpoint_of_a_masked_language_model_is_whole(tmp_path):
    """It lacks the weights of BERT's pooler, which embeddings do not read."""
    save_encoder(tmp_path, "bert", head="AutoModelForMaskedLM")
    ids_BT = torch.tensor([[2, 7, 9, 3]])

    first, second = (load(tmp_path, Recipe(("cls",)))(ids_BT) for _ in range(2))

    assert torch.equal(first, second)


def test_weights_that_are_read_may_not_be_missing(tmp_path):
    from safetensors.torch import load_file, save_file

    save_encoder(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        load(tmp_path, Recipe(("cls",)))


def test_weights_of_a_dense_layer_of_another_shape_are_refused(tmp_path):
    save_embedder(tmp_path, then=("Dense",))
    save_dense(tmp_path / "2_Dense", num_outputs=8)

    with pytest.raises(ModelError, match=r"are linear\.bias 8, linear\.weight 8x32, and its config\.json says"):
        load(tmp_path, Recipe(("mean",), steps=(Dense(tmp_path / "2_Dense", 32, 16),)))


def test_of_a_model_with_a_decoder_only_t5s_encoders_stand_alone(tmp_path):
    save_encoder(tmp_path, "t5", head="AutoModelForSeq2SeqLM")

    assert encoder_class(load_config(tmp_path)) == "T5EncoderModel"
    assert load(tmp_path, Recipe(("mean",)))(torch.tensor([[5, 2]])).shape == (1, 32)
    config = load_config(tmp_path)
    config.model_type = "bart"
    with pytest.raises(ModelError, match=r"is a bart with a decoder, .* encoders of t5, mt5, umt5, longt5 alone"):
        encoder_class(config)
