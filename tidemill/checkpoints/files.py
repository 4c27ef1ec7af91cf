"""The files of a model's folder: which of them are read, and what they must not ask for.

Transformers applies some of what a repository asks for only where a package
happens to be installed, and leaves other things out without a word. One version
would then have several sets of predictions, so whatever a run would not apply
is refused, by names and JSON alone: before anything is tokenized.
"""

from __future__ import annotations

import importlib.util
import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tidemill.errors import ModelError
from tidemill.sources.hashes import is_pointer

READ_FILES = (
    *("config.json", "config.*.json"),
    *("*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer.*.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("*vocab*.json", "vocab*.txt", "merges.txt", "*.model", "*.spm", "tekken.json"),
    "*.jinja",
)
"""What is read of a model's folder: configuration, weights, tokenizer."""
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.py", "*.jinja")
"""What may be read where the model's own code runs; all of it is fetched, and counted before `READ_FILES` did."""

LARGEST_JSON = 32 * 2**20
"""Bytes of a configuration. Parsed it takes ten times as much memory; names for a million labels fit."""
LARGEST_TOKENIZER = 2**30

ADAPTER = "adapter_config.json"
CONVERTED_BY = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
"""Package → its module, of what Transformers converts SentencePiece models with."""
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_QUANTIZATION_KEYS = frozenset(["quantization_config", "compression_config", "sparsity_config"])
_KERNEL_KEYS = frozenset(["use_kernels", "kernel_config"])
_IMPLEMENTATION_KEYS = frozenset(
    ["attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"]
)
_IMPLEMENTATION = re.compile(r"(paged\|)?(eager|sdpa|flex_attention|flash_attention_\d|grouped_mm|batched_mm)")
"""Those that compute one function, so that it does not matter which of them is there."""
_MOST = {
    "num_labels": 10**6,
    **dict.fromkeys(["num_hidden_layers", "num_layers", "n_layer", "n_layers"], 10**4),
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 10**4),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "vocab_size"], 10**8),
}
"""Counts of what Transformers makes before it sees that the weights have fewer."""
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def files_read(folder: str | Path, *, trust_remote_code: bool, weights: bool = True) -> list[str]:
    """Names of the folder's files that decide a prediction: all that are read, and no other."""
    return [
        name for name in matching(folder, ["*"]) if is_read(name, trust_remote_code=trust_remote_code, weights=weights)
    ]


def is_read(name: str, *, trust_remote_code: bool, weights: bool = True) -> bool:
    """Whether a file of that name is; code that is trusted may open any, so there all of them count."""
    patterns = MODEL_FILES if trust_remote_code else READ_FILES
    return any(fnmatchcase(name, pattern) for pattern in patterns if weights or pattern != "*.safetensors")


def matching(folder: str | Path, patterns: Iterable[str]) -> list[str]:
    """Names of the files directly in the folder that any of the patterns means; hidden ones never."""
    return sorted(
        path.name
        for path in Path(folder).glob("*")
        if not path.name.startswith(".")
        and any(fnmatchcase(path.name, pattern) for pattern in patterns)
        and path.is_file()
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object that a model's JSON file holds.

    Raises:
        ModelError: it is larger than any configuration, nested too deeply, or no JSON object.
    """
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object. Download the model again.")
    return value


def read_json_value(path: Path) -> Any:
    """What a model's JSON file holds, whatever it is.

    Raises:
        ModelError: it is larger than any configuration, nested too deeply, or no JSON.
    """
    try:
        if (size := path.stat().st_size) > LARGEST_JSON:
            raise ModelError(
                f"{path} has {size:,} bytes, and a configuration at most {LARGEST_JSON:,}. Download the model again."
            )
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a character, which no table and no terminal takes
    except RecursionError as e:
        raise ModelError(f"{path} cannot be read: it is nested too deeply. Download the model again.") from e
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read: {e}. Download the model again.") from e
    return value


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError where an adapter lies in the folder, with or without the model that it adapts."""
    if (folder / ADAPTER).exists():
        raise _adapter(str(folder / ADAPTER))


def _adapter(where: str) -> ModelError:
    return ModelError(
        f"{where} says that an adapter belongs to this model, and Tidemill applies none. Merge it into the weights "
        "(PEFT's merge_and_unload, then save_pretrained) and set model.path to the result; to compute the model "
        f"without it, use a copy of the folder that has no {ADAPTER}."
    )


def refuse_weights(names: Iterable[str], where: str) -> None:
    """Raise ModelError where a listing of a model's folder has no weights that are read: those of safetensors alone."""
    names = sorted(names)
    if any(fnmatchcase(name, "*.safetensors") for name in names):
        return
    if ADAPTER in names:
        raise _adapter(f"{where}/{ADAPTER}")
    if pickled := [name for name in names if fnmatchcase(name, "*.bin") or name.endswith((".pt", ".pth", ".ckpt"))]:
        raise ModelError(
            f"The weights in {where} are pickled ({first_names(pickled)}), and unpickling runs code. Set "
            "model.revision to one with model.safetensors (on the Hub often refs/pr/N, opened by its conversion bot), "
            "or convert the model where you trust it: load it with Transformers and save it with save_pretrained."
        )
    if others := [name for name in names if name.endswith((".h5", ".msgpack", ".onnx", ".gguf", ".ot"))]:
        raise ModelError(
            f"The weights in {where} are of another kind ({first_names(others)}); Tidemill reads *.safetensors. Choose "
            "a model that has them, or convert it: load it with Transformers and save it with save_pretrained."
        )
    raise ModelError(
        f"There are no weights (*.safetensors) in {where}. If they lie in a folder of it, set model.subfolder; else "
        "download the model again."
    )


def first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def refuse_pointers(folder: Path) -> None:
    """Raise ModelError where a file that is read is in truth elsewhere, and Git LFS is to fetch it."""
    for name in matching(folder, MODEL_FILES):
        if is_pointer(folder / name, (folder / name).stat().st_size):
            raise ModelError(
                f"{folder / name} is a pointer of Git LFS, and not the file itself. Fetch it: `git lfs pull` in that "
                "folder, with git-lfs installed."
            )


def refuse_unapplied(folder: Path, *, trust_remote_code: bool) -> None:
    """Hold against a model's folder what its files ask for.

    Raises:
        ModelError: they ask for an adapter, quantization, a kernel, code or files from elsewhere; or for code that
            comes with the model, and that is not trusted; or a file was not fetched.
    """
    refuse_adapter(folder)
    refuse_pointers(folder)
    for name in _QUANTIZATION_FILES:
        if (folder / name).exists():
            raise _quantized(folder / name)
    for name in matching(folder, ["config.json", "config.*.json"]):
        _refuse_config(folder / name, trust_remote_code=trust_remote_code)
    for name in _PROCESSOR_FILES:
        if (folder / name).is_file() and not trust_remote_code:
            _refuse_code(folder / name, _tolerantly(folder / name), trust_remote_code=False)
    for name in matching(folder, ["*.safetensors.index.json"]):
        _refuse_weights_elsewhere(folder / name)


def refuse_unapplied_tokenizer(folder: Path, *, trust_remote_code: bool) -> None:
    """As `refuse_unapplied`, for the tokenizer in a folder.

    Raises:
        ModelError: also where its files cannot be a tokenizer's, or need a package that is not installed.
    """
    refuse_pointers(folder)
    _refuse_missing_packages(folder)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        facts = read_json(config)
        _refuse_code(config, facts, trust_remote_code=trust_remote_code)
        _refuse_files_elsewhere(config, "fast_tokenizer_files", facts)
    for name in matching(folder, ["tokenizer.json", "tokenizer.*.json"]):
        if (size := (folder / name).stat().st_size) > LARGEST_TOKENIZER:
            raise ModelError(
                f"{folder / name} has {size:,} bytes, and a tokenizer at most {LARGEST_TOKENIZER:,}. Download the "
                "model again."
            )


def _refuse_missing_packages(folder: Path) -> None:
    """A SentencePiece model alone is converted when it is opened, by packages that Transformers does not require.

    Marian's and M2M100's are not converted: SentencePiece itself runs them, beside a vocabulary.
    """
    names = matching(folder, ["*.model"])
    is_run = matching(folder, ["*.spm"]) or (names and matching(folder, ["vocab.json"]))
    if is_run and not matching(folder, ["tokenizer.json"]) and not _is_installed(CONVERTED_BY["sentencepiece"]):
        raise ModelError(
            f"The tokenizer in {folder} is run by the package sentencepiece, which is not installed: "
            "pip install 'tidemill[translation]'."
        )
    if not names or matching(folder, ["tokenizer.json", "vocab.*"]):
        return
    absent = [package for package, module in CONVERTED_BY.items() if not _is_installed(module)]
    if absent:
        raise ModelError(
            f"The tokenizer in {folder} is a SentencePiece model ({first_names(names)}) without a tokenizer.json, and "
            f"{' and '.join(absent)} would have to convert it: pip install {' '.join(absent)}. Or set tokenizer.path "
            "to a model of the same vocabulary that has a tokenizer.json."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Of the package that it would lie in.
        return False


def _refuse_config(path: Path, *, trust_remote_code: bool) -> None:
    config = read_json(path)
    _refuse_code(path, config, trust_remote_code=trust_remote_code)
    if config.get("custom_pipelines"):
        raise ModelError(
            f"{path} asks for a pipeline of its own (custom_pipelines), and Tidemill runs none. Choose a model that "
            "needs none, or compute it with transformers.pipeline."
        )
    if not isinstance(config.get("id2label") or {}, dict):
        raise _wrong(path, "id2label", config["id2label"], 'names by number, such as {"0": "no", "1": "yes"}')
    architectures = config.get("architectures") or []
    if not (isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)):
        raise _wrong(path, "architectures", architectures, 'a list of names, such as ["BertForSequenceClassification"]')
    _refuse_files_elsewhere(path, "configuration_files", config)
    named = config.get("transformers_weights")
    if named is not None and not (_is_plain(named) and named.endswith((".safetensors", ".safetensors.index.json"))):
        raise _weights_elsewhere(path, "transformers_weights", named)
    for key, value in _settings(config):
        last = key.rpartition(".")[2]
        if (
            last in _MOST
            and value is not None
            and not (isinstance(value, int) and (-1 if "position" in last else 0) <= value <= _MOST[last])
        ):
            raise _wrong(path, key, value, f"a number up to {_MOST[last]:,}")
        if last in _QUANTIZATION_KEYS and value:
            raise _quantized(path, key)
        if (last in _KERNEL_KEYS and value) or (last in _IMPLEMENTATION_KEYS and not _is_known_implementation(value)):
            raise ModelError(
                f"{path} says {key} = {_shown(value)}, which asks for kernels from elsewhere; Tidemill computes with "
                "PyTorch's own. Use a copy of the model without that key."
            )


def _settings(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a configuration and those inside it; by a list of its own, so that no depth hurts."""
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f"{prefix}{key}", inner
                waiting.append((f"{prefix}{key}.", inner))


def _is_known_implementation(value: Any) -> bool:
    """Whether PyTorch's own stands for it; a model of several parts may name one for each."""
    names = value.values() if isinstance(value, dict) else [value]
    return all(name is None or (isinstance(name, str) and _IMPLEMENTATION.fullmatch(name)) for name in names)


def _refuse_files_elsewhere(path: Path, key: str, config: dict[str, Any]) -> None:
    """Of files for several releases of Transformers, from which it chooses one."""
    names = config.get(key) or []
    if not (isinstance(names, list) and all(_is_plain(name) for name in names)):
        raise _wrong(path, key, names, "a list of files beside it")


def _refuse_code(path: Path, config: dict[str, Any], *, trust_remote_code: bool) -> None:
    auto_map = config.get("auto_map")
    if not auto_map:
        return
    for reference in _references(auto_map):
        repository, separator, _ = reference.rpartition("--")
        if separator:
            raise ModelError(
                f"{path} takes code from another repository (auto_map: {reference!r}), at no revision that a version "
                f"could record. Copy that code from {repository} into a copy of the model's folder, and leave "
                f'"{repository}--" out of auto_map.'
            )
        if not _is_plain(reference):
            raise ModelError(
                f"{path} takes code from another folder (auto_map: {reference!r}). Move that code beside config.json."
            )
    if not trust_remote_code:
        raise ModelError(
            f"{path} asks for Python code that comes with the model (auto_map: {_shown(auto_map)}). Read it, then set "
            "model.trust_remote_code = true, or choose a model that Transformers knows."
        )


def _references(auto_map: Any) -> list[str]:
    """The classes of an auto_map; a tokenizer's are two, one of them perhaps null."""
    entries = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    flat = [name for entry in entries for name in (entry if isinstance(entry, list) else [entry])]
    return [name for name in flat if isinstance(name, str)]


def _refuse_weights_elsewhere(path: Path) -> None:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{path} has no weight_map. Download the model again.")
    for key, name in weight_map.items():
        if not (_is_plain(name) and name.endswith(".safetensors")):
            raise _weights_elsewhere(path, f"weight_map[{_shown(key)}]", name)


def _wrong(path: Path, key: str, value: Any, expected: str) -> ModelError:
    return ModelError(
        f"{path} says {key} = {_shown(value)}, which is not {expected}. Correct it, or download it again."
    )


def _weights_elsewhere(path: Path, key: str, name: Any) -> ModelError:
    return ModelError(
        f"{path} says {key} = {_shown(name)}, which is not a safetensors file beside it. Download the model again, or "
        "save it with save_pretrained."
    )


def _quantized(path: Path, key: str | None = None) -> ModelError:
    where = f" ({key})" if key else ""
    return ModelError(
        f"{path} says that the weights are quantized{where}, and Tidemill computes with none of those. Set model.path "
        "or model.revision to those before quantization; inference.dtype chooses what they are computed in."
    )


def _is_plain(name: Any) -> bool:
    """Whether it names a file of the folder itself."""
    return isinstance(name, str) and not name.startswith(".") and not {"/", "\\", "\0"} & set(name)


def _tolerantly(path: Path) -> dict[str, Any]:
    """The JSON of a file that nothing here reads, so that it may be broken."""
    try:
        return read_json(path)
    except ModelError:
        return {}


def _shown(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)
