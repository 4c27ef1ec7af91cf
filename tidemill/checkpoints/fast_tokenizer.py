"""A tokenizer of a model's folder, opened: what Transformers would make up or change without a word is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tidemill.checkpoints.files import read_json, refuse_unapplied_tokenizer
from tidemill.checkpoints.loading import opening
from tidemill.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "merges.txt", "tekken.json")

# A tokenizer saved without a length says 10**30.
_NO_LENGTH = 10**9


class FastTokenizer(NamedTuple):
    """A tokenizer of Transformers without truncation and padding, and what it and the model say of its use."""

    backend: Tokenizer
    max_length: int
    truncation_side: str
    makes_types: bool
    """Whether it gives its model token type ids."""
    unknown_id: int | None = None
    """The token of what the vocabulary lacks, where Transformers knows one."""
    whole: Any = None
    """Transformers' own tokenizer around it."""


def open_fast(
    folder: str | Path,
    *,
    max_length: int | Literal["auto"] = "auto",
    model_max_length: int | None = None,
    usual_length: int | None = None,
    trust_remote_code: bool = False,
) -> FastTokenizer:
    """The tokenizer of a folder in Transformers' format.

    `model_max_length` is the most tokens that the model takes, where there is a bound (`loading.max_positions`);
    `usual_length` is what "auto" comes to where there is none. Truncation and padding that were saved inside
    tokenizer.json do not count: Transformers overrides them too.

    Raises:
        ModelError: the folder yields no fast tokenizer, or `max_length` does not fit the model.
    """
    tokenizer = _load_fast(folder, trust_remote_code=trust_remote_code)
    require_files(Path(folder))
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return described(tokenizer, backend, max_length, model_max_length, usual_length)


def described(
    tokenizer: Any,
    backend: Tokenizer,
    max_length: int | Literal["auto"],
    model_max_length: int | None,
    usual_length: int | None,
) -> FastTokenizer:
    """A tokenizer with what Transformers knows of it.

    Raises:
        ModelError: `max_length` does not fit the model.
    """
    return FastTokenizer(
        backend,
        _resolve_max_length(max_length, _stated_length(tokenizer), model_max_length, usual_length),
        tokenizer.truncation_side,
        "token_type_ids" in tokenizer.model_input_names,
        tokenizer.unk_token_id,
        tokenizer,
    )


def require_files(folder: Path) -> None:
    """Transformers makes up an empty vocabulary where there is none, and every word would be unknown."""
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise ModelError(
            f"There are no tokenizer files ({', '.join(TOKENIZER_FILES)}) in {folder}. Download the model again, or "
            "set tokenizer.path to a folder or Hub id that has them."
        )


def _load_fast(folder: str | Path, *, trust_remote_code: bool) -> Any:
    tokenizer = load_whole(folder, trust_remote_code=trust_remote_code)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"The tokenizer in {folder} ({type(tokenizer).__name__}) has no fast version. Set tokenizer.path to a "
            "model with the same vocabulary and a tokenizer.json."
        )
    return tokenizer


def load_whole(folder: str | Path, *, trust_remote_code: bool) -> Any:
    """Transformers' own tokenizer of a folder, fast or not.

    Raises:
        ModelError: there is none, or it is not what its files say.
    """
    refuse_unapplied_tokenizer(Path(folder), trust_remote_code=trust_remote_code)
    with opening(f"The tokenizer in {folder}"), warnings.catch_warnings():
        # It is for a normalizer that Marian's tokenizer has and never asks.
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        from transformers import AutoTokenizer

        _refuse_unknown_class(Path(folder))
        # Absolute, since some relative paths mean models that Transformers treats in a way of their own; and never by
        # mistral-common, which may be installed or not.
        return AutoTokenizer.from_pretrained(
            Path(folder).absolute(),
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            mistral_format=False,
        )


def _refuse_unknown_class(folder: Path) -> None:
    """Transformers takes a general class in place of one that it does not know, and says nothing."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    config = folder / "tokenizer_config.json"
    facts = read_json(config) if config.is_file() else {}
    name = facts.get("tokenizer_class")
    if name is None or "auto_map" in facts:
        return
    base = str(name).removesuffix("Fast")
    if tokenizer_class_from_name(base) is None and tokenizer_class_from_name(f"{base}Fast") is None:
        raise ModelError(
            f"{config} says tokenizer_class = {name!r}, which Transformers does not know and no code comes with. If "
            'tokenizer.json is the whole tokenizer, set it to "PreTrainedTokenizerFast" in a copy of the model and set '
            "tokenizer.path to that; else set tokenizer.path to another tokenizer of the same vocabulary."
        )


def _stated_length(tokenizer: Any) -> int:
    try:
        return int(tokenizer.model_max_length)
    except (TypeError, ValueError, OverflowError):  # NaN and infinity are numbers to JSON
        return _NO_LENGTH


def _resolve_max_length(
    declared: int | Literal["auto"], tokenizer_length: int, model_length: int | None, usual_length: int | None
) -> int:
    stated = (tokenizer_length, model_length, usual_length)
    limits = [length for length in stated if length is not None and length < _NO_LENGTH]
    if declared == "auto":
        if not limits:
            raise ModelError(
                "Neither the tokenizer nor the model says how many tokens it takes. Set tokenizer.max_length."
            )
        return min(limits)
    refuse_longer(declared, model_length)
    return declared


def refuse_longer(declared: int | Literal["auto"], model_length: int | None) -> None:
    """
    Raises:
        ModelError: `tokenizer.max_length` as it is declared is more than the model takes.
    """
    if declared != "auto" and model_length is not None and declared > model_length:
        raise ModelError(
            f"tokenizer.max_length = {declared} is more than the {model_length} tokens that the model takes. "
            f'Lower it to {model_length}, or leave it at "auto".'
        )
