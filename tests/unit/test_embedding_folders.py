"""What a folder of sentence-transformers says is read under all its names, or refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.embedders import NEW, OLD, save_dense, write_json
from tidemill.checkpoints.embeddings.folder import Dense, Normalize, read_sentence_folder
from tidemill.checkpoints.modules import is_module_file, module_files, module_folders
from tidemill.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    """Without an encoder, which is not read here."""
    name_modules(tmp_path, "Transformer", "Pooling", "Normalize")
    write_json(
        tmp_path / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    )
    return tmp_path


def name_modules(folder, *kinds, of=OLD):
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": of + kind if of else kind}
        for i, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)


def pool(folder, **facts):
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **facts})


def test_normalize_needs_no_folder_and_settings_may_be_absent(folder):
    found = read_sentence_folder(folder)

    assert (found.pooling, found.steps, found.token_size) == (("mean",), (Normalize(),), 32)
    assert (found.max_length, found.lower_case, found.include_prompt) == (None, False, True)
    assert (dict(found.prompts), found.default_prompt_name, found.truncate_dim) == ({}, None, None)


def test_class_names_before_and_since_5_4_mean_the_same(folder):
    before = read_sentence_folder(folder)
    listed = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [each | {"type": NEW[each["type"].removeprefix(OLD)]} for each in listed])

    assert read_sentence_folder(folder) == before


@pytest.mark.parametrize(
    ("facts", "modes"),
    [
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": False}, ("lasttoken",)),
        # Joined in the order that those releases have, whatever that of the file.
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
    ],
)
def test_pooling_is_read_from_switches_and_from_names(folder, facts, modes):
    pool(folder, **facts)

    assert read_sentence_folder(folder).pooling == modes


@pytest.mark.parametrize(
    "facts", [{}, {"pooling_mode_cls_token": False}, {"pooling_mode": "median"}, {"pooling_mode": []}]
)
def test_a_pooling_that_is_not_named_is_refused_and_not_taken_for_the_mean(folder, facts):
    pool(folder, **facts)

    with pytest.raises(ModelError, match=r"names no pooling that is known .* Known: cls, max, mean"):
        read_sentence_folder(folder)


@pytest.mark.parametrize("kind", ["StaticEmbedding", "CLIPModel", "Router", "WordEmbeddings"])
def test_a_module_that_is_not_known_is_refused_by_name(folder, kind):
    name_modules(folder, "Transformer", "Pooling", kind)

    with pytest.raises(ModelError, match=rf"names a module {kind}, and Tidemill knows .*Transformer, Pooling, Dense"):
        read_sentence_folder(folder)


def test_a_class_from_elsewhere_is_none_of_the_known_ones_whatever_its_name(folder):
    name_modules(folder, "custom_st.Transformer", "custom_st.Pooling", of="")

    with pytest.raises(ModelError, match=r"names a module custom_st\.Transformer"):
        read_sentence_folder(folder)


@pytest.mark.parametrize("kinds", [("Transformer",), ("Pooling", "Transformer"), ("Transformer", "Dense", "Pooling")])
def test_modules_in_an_order_that_is_not_computed_are_refused(folder, kinds):
    name_modules(folder, *kinds)

    with pytest.raises(ModelError, match="a Transformer, then a Pooling, then any of Dense and Normalize"):
        read_sentence_folder(folder)


def test_a_folder_that_is_named_and_missing_is_refused(folder):
    shutil.rmtree(folder / "1_Pooling")

    with pytest.raises(
        ModelError, match=r"names a Pooling in the folder '1_Pooling', and its config\.json is not there"
    ):
        read_sentence_folder(folder)


def test_a_folder_without_modules_is_told_how_a_bare_encoder_is_embedded(tmp_path):
    with pytest.raises(
        ModelError, match=r'no modules\.json .*"feature-extraction" and model\.options\.pooling to "mean"'
    ):
        read_sentence_folder(tmp_path)


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", "a/b", ".hidden", "*"])
def test_a_module_outside_of_the_folder_is_refused(folder, path):
    listed = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [listed[0], listed[1] | {"path": path}])

    with pytest.raises(ModelError, match="is no list of modules"):
        read_sentence_folder(folder)


def test_a_dense_layer_is_read_by_its_path(folder):
    name_modules(folder, "Transformer", "Pooling", "Dense", "Normalize")
    save_dense(folder / "2_Dense", activation_function="torch.nn.modules.linear.Identity", bias=False)

    assert read_sentence_folder(folder).steps == (
        Dense(folder / "2_Dense", 32, 16, has_bias=False, activation="Identity"),
        Normalize(),
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"activation_function": "os.system"}, "activation_function = 'os.system'"),
        ({"activation_function": "torch.nn.Module"}, "activation_function = 'torch.nn.Module'"),
        ({"module_input_name": "token_embeddings"}, "module_input_name = 'token_embeddings'"),
        ({"in_features": "32"}, "in_features, out_features"),
    ],
)
def test_what_a_dense_layer_asks_for_is_held_against_what_is_known(folder, facts, said):
    name_modules(folder, "Transformer", "Pooling", "Dense")
    save_dense(folder / "2_Dense", **facts)

    with pytest.raises(ModelError, match=said):
        read_sentence_folder(folder)


def test_a_dense_layer_with_pickled_weights_is_refused(folder):
    name_modules(folder, "Transformer", "Pooling", "Dense")
    save_dense(folder / "2_Dense")
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"2_Dense are pickled \(pytorch_model\.bin\)"):
        read_sentence_folder(folder)


def test_lengths_and_lower_case_are_read_from_the_transformers_settings_under_their_old_names_too(folder):
    write_json(folder / "sentence_roberta_config.json", {"max_seq_length": 128, "do_lower_case": True})

    found = read_sentence_folder(folder)

    assert (found.max_length, found.lower_case) == (128, True)


def test_settings_as_releases_since_5_4_write_them_are_read(folder):
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    facts = {"transformer_task": "feature-extraction", "modality_config": {"text": text}, "unpad_inputs": False}
    write_json(folder / "sentence_bert_config.json", {**facts, "module_output_name": "token_embeddings"})

    assert read_sentence_folder(folder).max_length is None


@pytest.mark.parametrize(
    "facts",
    [
        {"transformer_task": "fill-mask"},
        {"modality_config": {"image": {"method": "get_image_features", "method_output_name": "pooler_output"}}},
        {"processing_kwargs": {"text": {"max_length": 8}}},
        {"tokenizer_args": {"add_bos_token": False}},
        {"query_length": 32},
    ],
)
def test_settings_that_would_not_be_applied_are_refused(folder, facts):
    write_json(folder / "sentence_bert_config.json", facts)

    with pytest.raises(ModelError, match=f"says {next(iter(facts))} = .*which Tidemill would not do"):
        read_sentence_folder(folder)


def test_prompts_are_read_with_the_default_one(folder):
    prompts = {"query": "query: ", "document": None}
    facts = {"prompts": prompts, "default_prompt_name": "query", "truncate_dim": 8}
    write_json(folder / "config_sentence_transformers.json", facts)

    found = read_sentence_folder(folder)

    assert (dict(found.prompts), found.default_prompt_name, found.truncate_dim) == ({"query": "query: "}, "query", 8)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"default_prompt_name": "query"}, r"default_prompt_name = 'query', which is not one of its prompts \(none\)"),
        ({"prompts": ["query: "]}, "which is not texts by name"),
        ({"model_type": "SparseEncoder"}, "model_type = 'SparseEncoder', which gives no one vector a text"),
    ],
)
def test_settings_of_the_whole_model_that_do_not_fit_are_refused(folder, facts, said):
    write_json(folder / "config_sentence_transformers.json", facts)

    with pytest.raises(ModelError, match=said):
        read_sentence_folder(folder)


def test_the_files_of_modules_are_named_with_their_folders(folder):
    name_modules(folder, "Transformer", "Pooling", "Dense", "Normalize")
    save_dense(folder / "2_Dense")
    write_json(folder / "sentence_bert_config.json", {})

    assert module_folders(folder) == ["1_Pooling", "2_Dense", "3_Normalize"]
    within = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    assert module_files(folder) == ["modules.json", "sentence_bert_config.json", *within]
    assert all(map(is_module_file, module_files(folder)))
    assert not any(map(is_module_file, ["config.json", "model.safetensors", "2_Dense/README.md"]))
