"""A model folder in Transformers' format: what opens it, and what is wrong when it does not open.

This is the one boundary to Transformers' loaders: whatever they raise leaves
here as a ModelError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

# Torch reads it once, when it is imported. Its threads spin while they wait for each other: on a machine with other
# work, the tokenizer of the next shard included, that cost up to nine tenths of the speed; sleeping costs a tenth.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Their first tokens have position pad_token_id + 1, so that many positions are never used.
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def folder_state(folder: str | Path) -> tuple[object, ...]:
    """What differs if the folder's files do, without reading them."""
    stats = [(path.name, path.stat()) for path in sorted(Path(folder).glob("*"))]
    return (str(folder), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def load_config(folder: str | Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The model's configuration; reads no weights and, unless trusted, runs no code of the model's.

    Raises:
        ModelError: no config.json, or one that is broken, of an unknown architecture, or in need of remote code.
    """
    raw = _read_config(Path(folder))
    if "auto_map" in raw and not trust_remote_code and not _is_known(raw.get("model_type")):
        raise ModelError(
            f"The model in {folder} comes with its own Python code. Read it, then set model.trust_remote_code = true, "
            "or choose a model that Transformers knows."
        )
    from transformers import AutoConfig

    with opening(f"The model's configuration in {folder}"):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    return config


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as e:
        raise ModelError(
            f"There is no config.json in {folder}. Set model.path to a Hub model id or to the folder of a model "
            "in Transformers' format."
        ) from e
    except (OSError, ValueError) as e:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {e}. Download the model again.") from e
    if not isinstance(raw, dict):
        raise ModelError(f"{folder / 'config.json'} holds no JSON object. Download the model again.")
    return raw


def _is_known(model_type: object) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def load_weights(auto_class: str, folder: str | Path, *, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """A module in eval mode on the CPU, every weight of which comes from the folder's safetensors files.

    Raises:
        ModelError: the weights are missing, pickled, of another shape, or do not cover the model.
    """
    _require_safetensors(Path(folder))
    import transformers

    # dtype is always given: left out, Transformers takes the one that the checkpoint was saved in.
    with opening(f"The model in {folder}"):
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise ModelError(
            f"The weights in {folder} lack {_some(absent)} of {type(model).__name__}, which would stay random. "
            "Choose a model that was fine-tuned for model.task."
        )
    model.config.use_cache = False  # of keys and values for generating, which nothing here does
    return model.eval()


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        raise ModelError(
            f"The weights in {folder} are pickled ({_some(pickled)}), and unpickling runs code. Set model.revision to "
            "one with model.safetensors (on the Hub often refs/pr/N, opened by its conversion bot), or convert the "
            "model where you trust it: load it with Transformers and save it with save_pretrained."
        )
    raise ModelError(f"There are no weights (*.safetensors) in {folder}. Download the model again.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def max_positions(config: PretrainedConfig) -> int | None:
    """Most tokens of one sequence, special tokens included, by the model's positions; None if it states no bound."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if text.model_type in _POSITIONS_AFTER_PADDING:
        return positions - (1 if text.pad_token_id is None else text.pad_token_id) - 1
    return positions


@contextmanager
def opening(what: str) -> Iterator[None]:
    """Transformers at work: silent, and any error of its a ModelError about `what`."""
    with _silence():
        try:
            yield
        # Its loaders raise whatever their parts raise, bare Exception and ImportError included.
        except Exception as e:
            raise ModelError(f"{what} cannot be loaded: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _silence() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
