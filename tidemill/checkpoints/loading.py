"""A model folder in Transformers' format: what opens it, and what is wrong when it does not open.

This is the one boundary to Transformers' loaders: whatever they raise leaves
here as a ModelError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidemill.checkpoints.files import MODEL_FILES, first_names, matching, refuse_unapplied, refuse_weights
from tidemill.checkpoints.modules import module_files
from tidemill.errors import ModelError
from tidemill.sources.hashes import stamp

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

# Torch reads it once, when it is imported. Its threads spin while they wait for each other: on a machine with other
# work, the tokenizer of the next shard included, that cost up to nine tenths of the speed; sleeping costs a tenth.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

NO_TOKEN = -1

# Their first tokens have position pad_token_id + 1, so that many positions are never used.
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}


def folder_state(folder: str | Path) -> tuple[object, ...]:
    """What differs if the folder's files do, those of the modules that it names included, without reading weights."""
    names = set(matching(folder, MODEL_FILES))
    with suppress(ModelError):  # Who reads the modules says what is wrong with them.
        names |= set(module_files(folder))
    return (str(folder), *((name, stamp(Path(folder) / name)) for name in sorted(names)))


def bytes_in_float32(folder: Path) -> int:
    """What the weights in safetensors take in memory in float32, where config.json may say that they have 16 bits."""
    num_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    dtype = None
    with suppress(OSError, ValueError, RecursionError, AttributeError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        dtype = config.get("dtype") or config.get("torch_dtype")
    return 2 * num_bytes if dtype in ("bfloat16", "float16") else num_bytes


def load_config(
    folder: str | Path, *, trust_remote_code: bool = False, pad_token_id: int | None = None
) -> PretrainedConfig:
    """The model's configuration; reads no weights and, unless trusted, runs no code of the model's.

    `pad_token_id` counts in place of the configuration's own.

    Raises:
        ModelError: no config.json, one that is broken or of an unknown architecture, or files that ask for what is
            not applied.
    """
    refuse_unapplied(Path(folder), trust_remote_code=trust_remote_code)
    if not (Path(folder) / "config.json").is_file():
        raise ModelError(
            f"There is no config.json in {folder}. Set model.path to a Hub model id or to the folder of a model "
            "in Transformers' format."
        )
    from transformers import AutoConfig

    with opening(f"The model's configuration in {folder}"):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            Path(folder).absolute(), trust_remote_code=trust_remote_code, local_files_only=True
        )
        if config._attn_implementation not in (None, "eager", "sdpa"):
            # The same function from a package that may be installed or not: Transformers then takes PyTorch's.
            config._attn_implementation = None
        config.return_dict = True
    if pad_token_id is not None:
        _give_padding(config.get_text_config(), pad_token_id)
    return config


def padding_of(config: PretrainedConfig) -> int | None:
    """The token that the model takes for padding; None where its configuration names none of its vocabulary."""
    text = config.get_text_config()
    named, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    is_known = isinstance(named, int) and named >= 0 and (not isinstance(size, int) or named < size)
    return named if is_known else None


def _give_padding(text: Any, pad_token_id: int) -> None:
    size = getattr(text, "vocab_size", None)
    if isinstance(size, int) and pad_token_id >= size:
        raise ModelError(
            f"model.pad_token_id = {pad_token_id} is outside of the model's vocabulary of {size}. Set it to the id of "
            "the tokenizer's padding token."
        )
    text.pad_token_id = pad_token_id


def load_weights(
    auto_class: str,
    folder: str | Path,
    *,
    dtype: torch.dtype,
    trust_remote_code: bool,
    pad_token_id: int | None = None,
    unread: tuple[str, ...] = (),
) -> Any:
    """A module in eval mode on the CPU, every weight of which comes from the folder's safetensors files.

    Weights whose names begin with one of `unread` may be missing, since nobody reads what they compute.

    Raises:
        ModelError: the weights are missing, pickled, of another shape, or do not cover the model.
    """
    refuse_weights(matching(folder, ["*"]), str(folder))
    config = load_config(folder, trust_remote_code=trust_remote_code, pad_token_id=pad_token_id)
    import transformers

    # dtype is always given: left out, Transformers takes the one that the checkpoint was saved in.
    with opening(f"The model in {folder}"):
        model, info = getattr(transformers, auto_class).from_pretrained(
            Path(folder).absolute(),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    if absent := sorted(name for name in info["missing_keys"] if not name.startswith(unread)):
        raise ModelError(
            f"The weights in {folder} lack {first_names(absent)} of {type(model).__name__}, which would stay random. "
            "Choose a model that was fine-tuned for model.task."
        )
    model.config.use_cache = False  # of keys and values for generating, which nothing here does
    if padding_of(model.config) is None:
        # Without one Transformers takes a text's last token, and refuses several texts at once. By one that no text has
        # it takes the last token too.
        model.config.get_text_config().pad_token_id = NO_TOKEN
    return model.eval()


def max_positions(config: PretrainedConfig) -> int | None:
    """Most tokens of one sequence, special tokens included, that the model has positions for; None if it has no bound.

    Raises:
        ModelError: it has no position for any token.
    """
    return None if _knows_distances_alone(config.get_text_config()) else usual_length(config)


def _knows_distances_alone(text: Any) -> bool:
    """Whether a token's place is told by its distance to others: the stated number then is what it was trained with."""
    if text.model_type in ("deberta", "deberta-v2"):
        return bool(text.relative_attention) and not text.position_biased_input
    return text.model_type == "esm" and getattr(text, "position_embedding_type", None) == "rotary"


def usual_length(config: PretrainedConfig) -> int | None:
    """The tokens of one sequence, special ones included, that the configuration states; None if it states none.

    Raises:
        ModelError: it has no position for any token.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if text.model_type not in _POSITIONS_AFTER_PADDING:
        return positions
    padding = 1 if text.pad_token_id is None else text.pad_token_id
    if padding + 1 >= positions:
        raise ModelError(
            f"The model's config.json says max_position_embeddings = {positions} and pad_token_id = {padding}, and "
            f"{text.model_type} models count positions from there: none is left. Correct it there."
        )
    return positions - padding - 1


@contextmanager
def opening(what: str) -> Iterator[None]:
    """Transformers at work: silent, and any error of its a ModelError about `what`."""
    with silence():
        try:
            yield
        except ModelError:
            raise
        # Its loaders raise whatever their parts raise, bare Exception and ImportError included.
        except BaseException as e:
            if not isinstance(e, Exception) and not is_panic(e):
                raise
            raise ModelError(f"{what} cannot be loaded: {_meaning(e)}") from e


def is_panic(error: BaseException) -> bool:
    """Whether it comes out of Rust code that gave up: that is not an Exception, and its class cannot be imported."""
    return type(error).__name__ == "PanicException"


def _meaning(error: BaseException) -> str:
    if "`ignore_mismatched_sizes`" in str(error):
        return "its weights are of other shapes than config.json says. Download the model again."
    if isinstance(error, KeyError):
        return f"{error} is missing."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


@contextmanager
def silence() -> Iterator[None]:
    """Transformers says on standard error what only its developers can act on.

    What it imports for some architectures raises the level of the root logger, which is everybody's: that is undone.
    """
    from transformers.utils import logging

    root = getLogger()
    level, verbosity, bars = root.level, logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        root.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
