"""A model's folder as sentence-transformers saves it: how the tokens' vectors become one.

Names that releases have changed mean the same here. What is not known by name,
or would need a file that is missing, is refused: nothing about pooling is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from tidemill.checkpoints.files import matching, read_json, refuse_weights
from tidemill.checkpoints.modules import MODULES, SETTINGS, TRANSFORMER_SETTINGS, NamedModule, named_modules
from tidemill.errors import ModelError

KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""A switch a mode, as releases before 5.4 write it, in the order in which several are joined."""
ACTIVATIONS = ("ELU", "GELU", "Identity", "LeakyReLU", "Mish", "ReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Tanh")
"""Of torch.nn, with its defaults."""
_OF_AN_EMBEDDING = "sentence_embedding"


@dataclass(frozen=True)
class Dense:
    """A linear layer and its activation, a class of torch.nn; `folder` has the weights."""

    folder: Path
    num_inputs: int
    num_outputs: int
    has_bias: bool = True
    activation: str = "Tanh"
    is_residual: bool = False
    """Whether its input is added to what it gives, through a second layer where that is of another size."""


@dataclass(frozen=True)
class Normalize:
    """To length one."""


@dataclass(frozen=True)
class SentenceFolder:
    """What is computed after the encoder, and what comes before a text.

    `pooling` has the modes whose vectors are joined, in order. `token_size` is what
    the pooling was saved for, where it says. `prompts` are texts by name.
    """

    pooling: tuple[str, ...]
    steps: tuple[Dense | Normalize, ...] = ()
    token_size: int | None = None
    include_prompt: bool = True
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    default_prompt_name: str | None = None
    truncate_dim: int | None = None


def read_sentence_folder(folder: str | Path) -> SentenceFolder:
    """What modules.json and the files beside it say. Reads no weights.

    Raises:
        ModelError: it names a module that is not known or has no folder, or asks for what is not applied.
    """
    folder = Path(folder)
    modules = named_modules(folder)
    _refuse_unknown(folder / MODULES, modules)
    transformer, pooling, *others = modules
    return SentenceFolder(
        **_transformer(folder, transformer),
        **_pooling(folder, pooling),
        **_settings(folder / SETTINGS),
        steps=tuple(_step(folder, module) for module in others),
    )


def _refuse_unknown(path: Path, modules: list[NamedModule]) -> None:
    if unknown := [module.kind for module in modules if module.kind not in KNOWN]:
        raise ModelError(
            f"{path} names a module {unknown[0]}, and Tidemill knows those of sentence-transformers that are called "
            f"{', '.join(KNOWN)}. Choose a model that is made of these."
        )
    kinds = [module.kind for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize"}:
        raise ModelError(
            f"{path} names the modules {', '.join(kinds)}, and Tidemill computes a Transformer, then a Pooling, then "
            "any of Dense and Normalize. Choose a model that is made so."
        )


def _transformer(folder: Path, module: NamedModule) -> dict[str, Any]:
    if module.path:
        raise ModelError(
            f"{folder / MODULES} says that the Transformer lies in {module.path}, and Tidemill reads it right beside "
            f"{MODULES}. Save the model with SentenceTransformer(...).save_pretrained, which puts it there."
        )
    path = next((folder / name for name in TRANSFORMER_SETTINGS if (folder / name).is_file()), None)
    facts = {} if path is None else read_json(path)
    if path is not None:
        _refuse_settings(path, facts)
    length = facts.get("max_seq_length")
    if length is not None and not _is_count(length):
        raise _wrong(path, "max_seq_length", length, "a number of tokens, or null")
    return {"max_length": length, "lower_case": _flag(path, facts, "do_lower_case", default=False)}


def _refuse_settings(path: Path, facts: Mapping[str, Any]) -> None:
    """Of what sentence-transformers would do otherwise; options that are left at their defaults are no matter."""
    if facts.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise _unapplied(path, "transformer_task", facts["transformer_task"])
    if facts.get("module_output_name", "token_embeddings") != "token_embeddings":
        raise _unapplied(path, "module_output_name", facts["module_output_name"])
    modalities = facts.get("modality_config")
    if modalities is not None and not _reads_texts(modalities):
        raise _unapplied(path, "modality_config", modalities)
    for name in ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"):
        if any(key != "trust_remote_code" for key in facts.get(name) or {}):
            raise _unapplied(path, name, facts[name])
    for name in ("processing_kwargs", "query_length", "document_length", "query_expansion", "tokenizer_name_or_path"):
        if facts.get(name):
            raise _unapplied(path, name, facts[name])


def _reads_texts(modalities: Any) -> bool:
    text = modalities.get("text") if isinstance(modalities, dict) else None
    return (
        isinstance(text, dict)
        and text.get("method") == "forward"
        and text.get("method_output_name") == "last_hidden_state"
    )


def _pooling(folder: Path, module: NamedModule) -> dict[str, Any]:
    path = _config(folder, module)
    facts = read_json(path)
    size = facts.get("embedding_dimension", facts.get("word_embedding_dimension"))
    if size is not None and not _is_count(size):
        raise _wrong(path, "embedding_dimension", size, "a number of dimensions")
    return {
        "pooling": _modes(path, facts),
        "token_size": size,
        "include_prompt": _flag(path, facts, "include_prompt", default=True),
    }


def _modes(path: Path, facts: Mapping[str, Any]) -> tuple[str, ...]:
    if "pooling_mode" in facts:
        named = facts["pooling_mode"]
        modes = [named] if isinstance(named, str) else named
    else:
        modes = [mode for switch, mode in _OLD_MODES.items() if facts.get(switch) is True]
    if not isinstance(modes, list) or not modes or not all(mode in POOLING_MODES for mode in modes):
        said = facts.get("pooling_mode", "none")
        raise ModelError(
            f"{path} names no pooling that is known (pooling_mode: {said}). Known: {', '.join(POOLING_MODES)}. "
            "Correct it there, or download the model again."
        )
    return tuple(modes)


def _step(folder: Path, module: NamedModule) -> Dense | Normalize:
    if module.kind == "Normalize":
        path = folder / module.path / "config.json"
        if module.path and path.is_file():
            _refuse_of_tokens(path, read_json(path))
        return Normalize()
    path = _config(folder, module)
    facts = read_json(path)
    _refuse_of_tokens(path, facts)
    refuse_weights(matching(path.parent, ["*"]), str(path.parent))
    num_inputs, num_outputs = facts.get("in_features"), facts.get("out_features")
    if not _is_count(num_inputs) or not _is_count(num_outputs):
        raise _wrong(path, "in_features, out_features", (num_inputs, num_outputs), "two numbers of dimensions")
    return Dense(
        path.parent,
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        has_bias=_flag(path, facts, "bias", default=True),
        activation=_activation(path, facts),
        is_residual=_flag(path, facts, "use_residual", default=False),
    )


def _activation(path: Path, facts: Mapping[str, Any]) -> str:
    named = facts.get("activation_function", "torch.nn.Tanh")
    module, _, name = str(named).rpartition(".")
    if not f"{module}.".startswith("torch.nn.") or name not in ACTIVATIONS:
        raise _wrong(path, "activation_function", named, f"one of torch.nn's {', '.join(ACTIVATIONS)}")
    return name


def _refuse_of_tokens(path: Path, facts: Mapping[str, Any]) -> None:
    for name in ("module_input_name", "module_output_name"):
        if facts.get(name) not in (None, _OF_AN_EMBEDDING):
            raise _unapplied(path, name, facts[name])


def _settings(path: Path) -> dict[str, Any]:
    facts = read_json(path) if path.is_file() else {}
    if (kind := facts.get("model_type") or "SentenceTransformer") != "SentenceTransformer":
        raise ModelError(
            f"{path} says model_type = {kind!r}, which gives no one vector a text. Choose a SentenceTransformer."
        )
    prompts = facts.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise _wrong(path, "prompts", prompts, "texts by name")
    default, length = facts.get("default_prompt_name"), facts.get("truncate_dim")
    if default is not None and default not in prompts:
        raise _wrong(path, "default_prompt_name", default, f"one of its prompts ({', '.join(prompts) or 'none'})")
    if length is not None and not _is_count(length):
        raise _wrong(path, "truncate_dim", length, "a number of dimensions, or null")
    known = {name: text for name, text in prompts.items() if text is not None}
    return {"prompts": MappingProxyType(known), "default_prompt_name": default, "truncate_dim": length}


def _config(folder: Path, module: NamedModule) -> Path:
    path = folder / module.path / "config.json"
    if not module.path or not path.is_file():
        raise ModelError(
            f"{folder / MODULES} names a {module.kind} in the folder {module.path!r}, and its config.json is not "
            "there. Download the model again, that folder included."
        )
    return path


def _flag(path: Path | None, facts: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = default if facts.get(name) is None else facts[name]
    if not isinstance(value, bool):
        raise _wrong(path, name, value, "true or false")
    return value


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wrong(path: Path | None, key: str, value: Any, expected: str) -> ModelError:
    return ModelError(f"{path} says {key} = {value!r:.80}, which is not {expected}. Correct it, or download it again.")


def _unapplied(path: Path, key: str, value: Any) -> ModelError:
    return ModelError(
        f"{path} says {key} = {value!r:.80}, which Tidemill would not do. Choose a model without it, or compute it "
        "with sentence-transformers."
    )
