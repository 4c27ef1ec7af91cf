"""How a model writes: its checkpoint's generation settings under the options of a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tidemill.checkpoints.files import read_json
from tidemill.checkpoints.loading import opening
from tidemill.errors import ModelError
from tidemill.structured import Grammar

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig

GENERATION_CONFIG = "generation_config.json"
USUAL_NEW_TOKENS = 256
"""Where neither an option nor the checkpoint says how many tokens a model may write."""
_LENGTH_OF_NO_MEANING = 20
"""What Transformers took for `max_length` where nobody had set it: such a checkpoint did not mean it."""

_OF_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True)
class Sampling:
    """Draws from what the model finds probable; the seed and the prompt alone decide what is drawn."""

    seed: int = 0
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None


@dataclass(frozen=True)
class Settings:
    """`generation` is complete: its `max_new_tokens` is set, and it samples only where `sampling` is given.

    Without `sampling` each next token is the most probable one, unless `generation` counts several beams. `stop` are
    texts after which no more is written. `end_ids` are the tokens that end an answer.
    """

    generation: GenerationConfig
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling | None = None
    is_encoder_decoder: bool = False
    end_ids: frozenset[int] = frozenset()
    grammar: Grammar | None = None
    trust_remote_code: bool = False
    """Whether code in the tokenizer's folder may run."""

    @classmethod
    def of(
        cls,
        folder: str | Path,
        config: PretrainedConfig,
        *,
        max_new_tokens: int | None = None,
        stop: tuple[str, ...] = (),
        sampling: Sampling | None = None,
        forced_bos_token_id: int | None = None,
        grammar: Grammar | None = None,
    ) -> Self:
        """Of the checkpoint in `folder`, whose generation_config.json holds but for what the arguments say, and for
        sampling, which an argument alone turns on.

        Raises:
            ModelError: the checkpoint's settings cannot be read.
        """
        generation = _generation_of(Path(folder), config)
        most = max_new_tokens or _most_new_tokens(generation, is_encoder_decoder=bool(config.is_encoder_decoder))
        generation.max_new_tokens, generation.max_length = most, None
        for name in _OF_SAMPLING:
            setattr(generation, name, None)
        generation.do_sample = sampling is not None
        if sampling is not None:
            generation.temperature, generation.top_p, generation.top_k = (
                sampling.temperature,
                sampling.top_p,
                sampling.top_k or 0,
            )
        if forced_bos_token_id is not None:
            generation.forced_bos_token_id = forced_bos_token_id
        return cls(
            generation,
            most,
            stop=stop,
            sampling=sampling,
            is_encoder_decoder=bool(config.is_encoder_decoder),
            end_ids=_ids(generation.eos_token_id),
            grammar=grammar,
        )

    def facts(self) -> dict[str, Any]:
        """What is not as Transformers has it by default, for lineage."""
        said = {
            name: value
            for name, value in self.generation.to_diff_dict().items()
            if value is not None and name not in ("transformers_version", "_from_model_config")
        }
        return {
            **said,
            "max_new_tokens": self.max_new_tokens,
            **({"stop": list(self.stop)} if self.stop else {}),
            **({"seed": self.sampling.seed} if self.sampling else {}),
        }


def _generation_of(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    from transformers import GenerationConfig

    with opening(f"How the model in {folder} generates"):
        if (folder / GENERATION_CONFIG).is_file():
            read_json(folder / GENERATION_CONFIG)
            found: GenerationConfig = GenerationConfig.from_pretrained(folder.absolute(), local_files_only=True)
        else:
            found = GenerationConfig.from_model_config(config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        if getattr(found, name, None) is None:
            setattr(found, name, getattr(config.get_text_config(decoder=True), name, None))
    return found


def _most_new_tokens(generation: GenerationConfig, *, is_encoder_decoder: bool) -> int:
    if generation.max_new_tokens:
        return int(generation.max_new_tokens)
    length = generation.max_length
    if is_encoder_decoder and length and length != _LENGTH_OF_NO_MEANING:
        return int(max(1, length - 1))
    return USUAL_NEW_TOKENS


def _ids(value: int | list[int] | None) -> frozenset[int]:
    try:
        return frozenset() if value is None else frozenset([value] if isinstance(value, int) else map(int, value))
    except (TypeError, ValueError) as e:
        raise ModelError(f"{GENERATION_CONFIG} says eos_token_id = {value!r}, which is no token id.") from e
