"""What a model's files ask for is applied, or refused by name before anything is computed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import TokenizersBackend

from tests.checkpoints import NUM_POSITIONS, save_checkpoint, save_tokenizer
from tests.opened import module_of
from tidemill.checkpoints.files import (
    CONVERTED_BY,
    LARGEST_JSON,
    LARGEST_TOKENIZER,
    files_read,
    is_read,
    refuse_unapplied_tokenizer,
    refuse_weights,
)
from tidemill.checkpoints.loading import load_config, max_positions
from tidemill.config import Inference
from tidemill.encoding.items import prepared_rows
from tidemill.encoding.tokenizer import TextTokenizer
from tidemill.errors import ModelError
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import find_task

QUANTIZED = {"quant_method": "bitsandbytes", "load_in_8bit": True}
KERNEL = "kernels-community/flash-attn2"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("saved") / "model", "roberta", "two labels")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def opened(folder: Path, *, trust_remote_code: bool = False) -> None:
    load_config(folder, trust_remote_code=trust_remote_code)
    TextTokenizer.load(folder, trust_remote_code=trust_remote_code)


def whole(folder: Path, *, trust_remote_code: bool = False) -> list[dict[str, Any]]:
    """Everything that a run does with a model's folder."""
    config = load_config(folder, trust_remote_code=trust_remote_code)
    find_task("text-classification")(config)
    tokenizer = TextTokenizer.load(folder, model_max_length=max_positions(config), trust_remote_code=trust_remote_code)
    runner = ModelRunner.load(
        folder,
        task="text-classification",
        inference=Inference(engine="torch", device="cpu", dtype="float32", token_budget=512),
        trust_remote_code=trust_remote_code,
    )
    texts = pa.array(["A film to see twice.", "Dull, and far too long."])
    return runner.predict(prepared_rows(tokenizer.encode(texts).token_ids)).columns.to_pylist()


@pytest.mark.parametrize(
    ("file", "asked", "said"),
    [
        ("adapter_config.json", {"peft_type": "LORA"}, "merge_and_unload"),
        ("config.json", {"quantization_config": QUANTIZED}, r"quantized \(quantization_config\)"),
        ("config.json", {"text_config": {"quantization_config": QUANTIZED}}, r"text_config\.quantization_config"),
        ("config.json", {"compression_config": {"format": "int-quantized"}}, "compression_config"),
        ("quantize_config.json", {"bits": 4}, r"quantize_config\.json says that the weights are quantized"),
        ("hf_quant_config.json", {"quantization": {}}, "quantized"),
        ("config.json", {"_attn_implementation": KERNEL}, f"_attn_implementation = '{KERNEL}'"),
        ("config.json", {"attn_implementation": f"paged|{KERNEL}@v1:f"}, "kernels from elsewhere"),
        ("config.json", {"attn_implementation": {"": "sdpa", "text_config": KERNEL}}, "kernels from elsewhere"),
        ("config.json", {"text_config": {"attn_implementation": KERNEL}}, r"text_config\.attn_implementation"),
        ("config.json", {"experts_implementation": "owner/experts"}, "kernels from elsewhere"),
        ("config.json", {"use_kernels": True}, "use_kernels = True"),
        (
            "config.json",
            {"auto_map": {"AutoModelForSequenceClassification": "m.M"}},
            r"config\.json asks for Python code",
        ),
        ("config.json", {"auto_map": {"AutoConfig": "c.C"}}, r"set model\.trust_remote_code = true"),
        ("config.4.0.0.json", {"auto_map": {"AutoConfig": "c.C"}}, r"config\.4\.0\.0\.json asks for Python code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}, "tokenizer_config.json asks for"),
        ("tokenizer_config.json", {"auto_map": ["t.T", None]}, "asks for Python code"),
        ("tokenizer_config.json", {"tokenizer_class": "FancyTokenizer"}, "tokenizer_class = 'FancyTokenizer'"),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "p.P"}}, r"processor_config\.json asks for"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "p.P"}}, "asks for Python code"),
        ("config.json", {"custom_pipelines": {"text-classification": {"impl": "p.P"}}}, "custom_pipelines"),
        ("config.json", {"transformers_weights": "../model.safetensors"}, "transformers_weights = '../model"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "not a safetensors file beside it"),
        ("config.json", {"configuration_files": ["../config.4.0.0.json"]}, "configuration_files"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]}, "fast_tokenizer_files"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../model.safetensors"}}, r"weight_map\['a'\]"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/model.safetensors"}}, "beside it"),
    ],
)
def test_what_a_run_would_not_apply_is_refused_by_file_and_key(folder, file, asked, said):
    edit(folder / file, **asked)

    with pytest.raises(ModelError, match=said):
        opened(folder)


@pytest.mark.parametrize("reference", ["owner/repository--modeling.Model", "code/modeling.Model", "../modeling.Model"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_trusted_code_from_elsewhere_is_refused_since_no_version_could_record_it(folder, file, reference):
    edit(folder / file, auto_map={"AutoModel": reference, "AutoTokenizer": [None, reference]})

    with pytest.raises(ModelError, match=r"takes code from another (repository|folder)"):
        opened(folder, trust_remote_code=True)


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 437\n"


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_what_git_lfs_was_not_asked_to_fetch_is_refused_by_name(folder, file):
    (folder / file).write_text(POINTER)

    with pytest.raises(ModelError, match=rf"{file} is a pointer of Git LFS.*`git lfs pull`"):
        opened(folder)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["pytorch_model.bin", "training_args.bin"], r"are pickled \(pytorch_model\.bin, training_args\.bin\)"),
        (["model.pt"], r"are pickled \(model\.pt\)"),
        (["tf_model.h5", "flax_model.msgpack"], r"of another kind \(flax_model\.msgpack, tf_model\.h5\)"),
        (["adapter_config.json", "adapter_model.bin"], "merge_and_unload"),
        (["config.json"], r"no weights \(\*\.safetensors\) in owner/model\. .*set model\.subfolder"),
    ],
)
def test_a_listing_says_that_there_are_no_weights_to_read(names, said):
    with pytest.raises(ModelError, match=said):
        refuse_weights(names, "owner/model")
    refuse_weights([*names, "model-00001-of-00002.safetensors"], "owner/model")


def test_a_tokenizer_that_has_to_be_converted_names_the_packages_that_are_missing(folder, monkeypatch):
    (folder / "tokenizer.json").rename(folder / "spm.model")
    for name in [name for name in ("vocab.json", "vocab.txt") if (folder / name).exists()]:
        (folder / name).unlink()
    for absent in (["sentencepiece", "protobuf"], ["protobuf"]):
        found = {"sentencepiece": "json", "google.protobuf": "json.decoder"}
        installed = {package: found[module] for package, module in CONVERTED_BY.items() if package not in absent}
        monkeypatch.setattr(
            "tidemill.checkpoints.files.CONVERTED_BY", {**dict.fromkeys(absent, "no.such"), **installed}
        )
        with pytest.raises(ModelError, match=rf"\(spm\.model\).*pip install {' '.join(absent)}\."):
            opened(folder)


@pytest.mark.parametrize("name", ["source.spm", "sentencepiece.bpe.model"])
def test_a_tokenizer_that_sentencepiece_runs_names_what_installs_it(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"pieces")
    edit(tmp_path / "vocab.json", pieces=0)
    monkeypatch.setattr("tidemill.checkpoints.files.CONVERTED_BY", {"sentencepiece": "json"})
    refuse_unapplied_tokenizer(tmp_path, trust_remote_code=False)

    monkeypatch.setattr("tidemill.checkpoints.files.CONVERTED_BY", {"sentencepiece": "no.such"})

    with pytest.raises(
        ModelError, match=r"is run by the package sentencepiece, .* pip install 'tidemill\[translation\]'"
    ):
        refuse_unapplied_tokenizer(tmp_path, trust_remote_code=False)


def test_an_adapter_without_its_model_is_refused_as_one(tmp_path):
    edit(tmp_path / "adapter_config.json", base_model_name_or_path="owner/base")

    with pytest.raises(ModelError, match="merge_and_unload"):
        load_config(tmp_path)


def test_trusted_code_computes_under_a_model_type_that_transformers_knows(folder):
    (folder / "modeling_flipped.py").write_text(
        "from transformers import RobertaForSequenceClassification\n\n"
        "class FlippedForSequenceClassification(RobertaForSequenceClassification):\n"
        "    def forward(self, *args, **options):\n"
        "        answer = super().forward(*args, **options)\n"
        "        answer.logits = -answer.logits\n"
        "        return answer\n"
    )
    plain = whole(folder)
    auto_map = {"AutoModelForSequenceClassification": "modeling_flipped.FlippedForSequenceClassification"}
    edit(folder / "config.json", auto_map=auto_map)

    flipped = whole(folder, trust_remote_code=True)

    assert [row["label"] for row in plain] != [row["label"] for row in flipped]


@pytest.mark.parametrize(
    "file",
    [
        *("modules.json", "config_sentence_transformers.json", "generation_config.json", "preprocessor_config.json"),
        *("all_results.json", "trainer_state.json", "README.md", "requirements.txt", "handler.py", "training_args.bin"),
        *("model.onnx", "tf_model.h5", "pytorch_model.bin", "flax_model.msgpack", "onnx/model.onnx"),
    ],
)
def test_a_file_that_is_not_read_neither_counts_nor_hinders(folder, file):
    before = files_read(folder, trust_remote_code=False)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("{ not JSON")

    assert files_read(folder, trust_remote_code=False) == before
    assert TextTokenizer.load(folder).max_length == NUM_POSITIONS
    module_of(folder)


def test_every_file_that_a_fast_tokenizer_reads_counts():
    classes = [TokenizersBackend]
    for known in classes:
        classes += [derived for derived in known.__subclasses__() if derived not in classes]
    named = {name for known in classes for name in known.vocab_files_names.values() if name}
    named |= {"tokenizer.json", "tokenizer.4.0.0.json", "tokenizer_config.json", "special_tokens_map.json"}
    named |= {"added_tokens.json", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"}

    assert [name for name in sorted(named) if not is_read(name, trust_remote_code=False, weights=False)] == []


def test_attention_that_is_the_same_function_is_computed_by_whatever_is_there(folder):
    expected = whole(folder)
    for name in ("flash_attention_2", "flex_attention", "sdpa", "eager"):
        edit(folder / "config.json", _attn_implementation=name)
        for row, plain in zip(whole(folder), expected, strict=True):
            assert row["label"] == plain["label"]
            assert row["score"] == pytest.approx(plain["score"], abs=1e-5)


HUGE = 10**30
ODD_CONFIGS: dict[str, dict[str, Any]] = {
    "labels in a list": {"id2label": ["bad", "good"]},
    "labels by name": {"id2label": {"a": "bad", "b": "good"}},
    "labels that are no names": {"id2label": {"0": {"a": 1}, "1": [1]}},
    "a label that is null": {"id2label": {"0": None, "1": "good"}},
    "a count in quotes": {"id2label": None, "num_labels": "2"},
    "labels without number": {"id2label": None, "num_labels": HUGE},
    "layers without number": {"num_hidden_layers": 10**7},
    "fewer layers than none": {"num_hidden_layers": -1},
    "no position": {"max_position_embeddings": 0},
    "too few positions": {"max_position_embeddings": 2},
    "positions without number": {"max_position_embeddings": HUGE},
    "positions that no memory holds": {"max_position_embeddings": 2**40},
    "positions in quotes": {"max_position_embeddings": "64"},
    "padding that is no token": {"pad_token_id": 10**9},
    "padding in a list": {"pad_token_id": [1]},
    "a vocabulary that no memory holds": {"vocab_size": 10**12},
    "architectures in one name": {"architectures": "RobertaForSequenceClassification"},
    "architectures by number": {"architectures": [1]},
    "a type in a list": {"model_type": ["roberta"]},
    "no type": {"model_type": None},
    "a dtype of its own": {"dtype": "float9"},
    "an implementation by number": {"attn_implementation": 3},
    "an activation of its own": {"hidden_act": "__import__"},
}


@pytest.mark.parametrize("odd", ODD_CONFIGS)
def test_an_odd_configuration_is_refused_in_one_message(folder, odd):
    edit(folder / "config.json", **ODD_CONFIGS[odd])

    with pytest.raises(ModelError) as refused:
        whole(folder)

    assert len(str(refused.value)) < 500
    assert len(str(refused.value).splitlines()) == 1


ODD_JSON = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "cut": b'{"model_type": "roberta"',
    "zeros": bytes(100),
    "no UTF-8": b'{"model_type": "\xff"}',
    "UTF-16": '{"model_type": "roberta"}'.encode("utf-16"),
    "half a character": b'{"model_type": "roberta", "tokenizer_class": "\\ud800"}',
    "a number of 5,000 digits": b'{"model_type": "roberta", "vocab_size": ' + b"9" * 5000 + b"}",
    "deep lists": b'{"model_type": "roberta", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model_type": "roberta", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("odd", ODD_JSON)
def test_json_that_cannot_be_read_is_refused_in_one_message(folder, file, odd):
    (folder / file).write_bytes(ODD_JSON[odd])

    with pytest.raises(ModelError) as refused:
        opened(folder)

    assert len(str(refused.value).splitlines()) == 1
    str(refused.value).encode()


@pytest.mark.parametrize(
    ("file", "most"),
    [("config.json", LARGEST_JSON), ("tokenizer_config.json", LARGEST_JSON), ("tokenizer.json", LARGEST_TOKENIZER)],
)
def test_json_larger_than_any_of_its_kind_is_refused_unread(folder, file, most):
    os.truncate(folder / file, most + 1)

    with pytest.raises(ModelError, match=f"{file} has .* bytes"):
        opened(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_is_no_file_does_not_stand_for_one(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)

    with pytest.raises(ModelError):
        whole(folder)


@pytest.mark.parametrize("length", [float("nan"), float("inf"), 10**400, 1e30])
def test_a_length_that_is_no_number_of_tokens_is_none(folder, length):
    edit(folder / "tokenizer_config.json", model_max_length=length)

    assert TextTokenizer.load(folder, model_max_length=NUM_POSITIONS).max_length == NUM_POSITIONS
    with pytest.raises(ModelError, match=r"Set tokenizer\.max_length"):
        TextTokenizer.load(folder)


def test_weights_that_are_not_what_their_header_says_are_refused(folder):
    whole_file = (folder / "model.safetensors").read_bytes()
    for damaged in (b"", whole_file[:-4], (2**62).to_bytes(8, "little") + whole_file[8:], b"[" * 100_000):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match="cannot be loaded"):
            module_of(folder)


def test_a_tokenizer_does_not_depend_on_the_path_that_it_lies_at(tmp_path, monkeypatch):
    named = tmp_path / "google" / "umt5-small"  # whose own class Transformers does not use
    save_tokenizer(named, "bpe")
    edit(named / "tokenizer.json", normalizer={"type": "Lowercase"})
    edit(named / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    edit(named / "config.json", model_type="gpt2")
    shutil.copytree(named, tmp_path / "other")
    monkeypatch.chdir(tmp_path)

    assert TextTokenizer.load("google/umt5-small").fingerprint == TextTokenizer.load("other").fingerprint
