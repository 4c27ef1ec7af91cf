"""What the folder of a cross-encoder says beside the model: what is done to its output, and how long a pair may be.

sentence-transformers writes it into files of its own, which count only where a
modules.json lies beside them, and wrote it into config.json before it had those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.checkpoints.files import read_json
from tidemill.checkpoints.modules import MODULES, SETTINGS, TRANSFORMER_SETTINGS, named_modules
from tidemill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

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
        _refuse_other_modules(folder)
        settings, of_transformer = _read(folder, SETTINGS), _read(folder, *TRANSFORMER_SETTINGS)
        _refuse_other_settings(folder, settings, of_transformer)
    return CrossEncoder(_activation(config, settings), of_transformer.get("max_seq_length"))


def _read(folder: Path, *names: str) -> dict[str, Any]:
    """The first of these files that is there; nothing where none is."""
    return next((read_json(folder / name) for name in names if (folder / name).is_file()), {})


def _refuse_other_modules(folder: Path) -> None:
    kinds = [module.kind for module in named_modules(folder)]
    if kinds != ["Transformer"]:
        raise ModelError(
            f"{folder / MODULES} names the modules {', '.join(kinds)}, and Tidemill computes a cross-encoder that is a "
            "Transformer alone. Choose one that is."
        )


def _refuse_other_settings(folder: Path, settings: Mapping[str, Any], of_transformer: Mapping[str, Any]) -> None:
    """Of what sentence-transformers would read or compute otherwise."""
    length = of_transformer.get("max_seq_length")
    asked = [
        ("model_type", settings.get("model_type", "CrossEncoder"), "CrossEncoder"),
        ("default_prompt_name", settings.get("default_prompt_name"), None),
        ("do_lower_case", of_transformer.get("do_lower_case") or None, None),
        ("transformer_task", of_transformer.get("transformer_task", _TASK), _TASK),
        ("max_seq_length", length, length if isinstance(length, int) and length > 0 else None),
    ]
    for key, value, applied in asked:
        if value != applied:
            raise ModelError(
                f"The files of sentence-transformers in {folder} say {key} = {value!r}, which Tidemill would not do. "
                "Choose a model without it, or use a copy without that key if it is to be computed so."
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
