"""What the folder of a cross-encoder says beside the model: what is done to its output, and how long a pair may be.

sentence-transformers writes it into files of its own, which count only where a
modules.json lies beside them, and wrote it into config.json before it had those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.checkpoints.files import read_json
from tidemill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
IDENTITY, SIGMOID = "Identity", "Sigmoid"
ACTIVATIONS = (IDENTITY, SIGMOID)
"""What may be done to a model's output: classes of torch.nn."""
_TASK = "sequence-classification"
_OLD_KEY = "sbert_ce_default_activation_function"


@dataclass(frozen=True)
class CrossEncoder:
    """`activation` is one of `ACTIVATIONS`; `max_length` the tokens that a pair is cut to, where the folder says so."""

    activation: str = SIGMOID
    max_length: int | None = None


def read_cross_encoder(config: PretrainedConfig) -> CrossEncoder:
    """Of a configuration and the files beside it.

    Raises:
        ModelError: they ask for what is not applied.
    """
    folder = Path(config.name_or_path)
    settings: Mapping[str, Any] = {}
    of_transformer: Mapping[str, Any] = {}
    if config.name_or_path and (folder / MODULES).is_file():
        _refuse_other_modules(folder / MODULES)
        settings, of_transformer = _read(folder / SETTINGS), _read(folder / TRANSFORMER_SETTINGS)
        _refuse_other_settings(folder, settings, of_transformer)
    return CrossEncoder(_activation(config, settings), of_transformer.get("max_seq_length"))


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _refuse_other_modules(path: Path) -> None:
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as e:
        raise ModelError(f"{path} is no list of modules with their types. Download the model again.") from e
    if kinds != ["Transformer"]:
        raise ModelError(
            f"{path} names the modules {', '.join(kinds)}, and Tidemill computes a cross-encoder that is a Transformer "
            "alone. Choose one that is."
        )


def _refuse_other_settings(folder: Path, settings: Mapping[str, Any], of_transformer: Mapping[str, Any]) -> None:
    """Of what sentence-transformers would read or compute otherwise."""
    asked = [
        (SETTINGS, "model_type", settings.get("model_type", "CrossEncoder"), "CrossEncoder"),
        (SETTINGS, "default_prompt_name", settings.get("default_prompt_name"), None),
        (TRANSFORMER_SETTINGS, "do_lower_case", of_transformer.get("do_lower_case") or None, None),
        (TRANSFORMER_SETTINGS, "transformer_task", of_transformer.get("transformer_task", _TASK), _TASK),
    ]
    for name, key, value, applied in asked:
        if value != applied:
            raise ModelError(
                f"{folder / name} says {key} = {value!r}, which Tidemill would not do. Choose a model without it, or "
                "use a copy without that key if it is to be computed so."
            )


def _activation(config: PretrainedConfig, settings: Mapping[str, Any]) -> str:
    """By the first of the places in which sentence-transformers looks for it."""
    of_config = getattr(config, "sentence_transformers", None) or {}
    said = {
        f"{SETTINGS} says activation_fn": settings.get("activation_fn"),
        "config.json says sentence_transformers.activation_fn": of_config.get("activation_fn"),
        f"config.json says {_OLD_KEY}": getattr(config, _OLD_KEY, None),
    }
    where, name = next(((where, name) for where, name in said.items() if name is not None), ("", f"torch.nn.{SIGMOID}"))
    module, _, kind = str(name).rpartition(".")
    if not f"{module}.".startswith("torch.nn.") or kind not in ACTIVATIONS:
        raise ModelError(
            f"The model's {where} = {name!r}, and Tidemill knows torch.nn's {' and '.join(ACTIVATIONS)}. Choose "
            "another model, or correct that in a copy."
        )
    return kind
