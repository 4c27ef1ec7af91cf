"""Which of a model's settings CTranslate2 holds to the token, and by which of its options.

A setting that is not named here is not held: what a later checkpoint or a later
Transformers brings along is refused before it is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tidemill.engines.probing.conversion import CannotConvert
from tidemill.engines.writing.generation.settings import Settings

if TYPE_CHECKING:
    from transformers import GenerationConfig

HELD = {
    *("max_new_tokens", "max_length", "min_new_tokens", "min_length"),
    *("num_beams", "early_stopping", "length_penalty", "renormalize_logits"),
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
    *("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id", "eos_token_id"),
}
CHANGE_NOTHING = {
    *("bos_token_id", "pad_token_id", "use_cache", "cache_implementation", "cache_config", "do_sample"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("transformers_version", "_from_model_config", "is_assistant", "disable_compile"),
}
NEUTRAL: dict[str, Any] = {
    "encoder_repetition_penalty": 1,
    "guidance_scale": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
}
"""Settings that do nothing at this value; the others do nothing at 0, false or none."""

OF_PROMPTS = {
    "num_beams": 1,
    "min_length": 0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}

NEW_TOKENS = 32
"""Of each answer of the probe, and a few more than the settings forbid to end before."""
MORE_THAN_FORBIDDEN = 16


def ctranslate2_options(settings: Settings) -> dict[str, Any]:
    """What CTranslate2 is to be told, so that it writes as `settings` say: its `translate_batch` of an encoder-decoder,
    its `generate_batch` of a decoder.

    Token ids are named by their digits, as in `conversion`.

    Raises:
        CannotConvert: CTranslate2 would write otherwise; by the setting's name.
    """
    for why in _unheld(settings):
        raise CannotConvert(why)
    generation, least = settings.generation, min(least_new_tokens(settings), settings.max_new_tokens)
    both = {
        "beam_size": generation.num_beams or 1,
        "suppress_sequences": [[str(id_) for id_ in ids] for ids in _suppressed(settings)] or None,
        "end_token": sorted(settings.end_ids),
        "return_end_token": True,
    }
    if not settings.is_encoder_decoder:
        return {
            **both,
            "include_prompt_in_result": False,
            "max_length": settings.max_new_tokens,
            "min_length": least,
        }
    return {
        **both,
        "length_penalty": 1.0 if generation.length_penalty is None else float(generation.length_penalty),
        "repetition_penalty": float(generation.repetition_penalty or 1),
        "no_repeat_ngram_size": generation.no_repeat_ngram_size or 0,
        "max_input_length": 0,
        "max_decoding_length": settings.max_new_tokens,
        "min_decoding_length": least,
    }


def least_new_tokens(settings: Settings) -> int:
    """How many tokens come before the first that may end an answer.

    `min_length` counts the decoder's start too, and without an encoder the prompt, of which every row has its own.
    """
    generation = settings.generation
    return max(generation.min_new_tokens or 0, (generation.min_length or 0) - 1, 0)


def probed_settings(settings: Settings) -> Settings:
    """The same but for a lower limit, at which most answers of the probe end."""
    most = min(settings.max_new_tokens, max(NEW_TOKENS, least_new_tokens(settings) + MORE_THAN_FORBIDDEN))
    generation = deepcopy(settings.generation)
    generation.max_new_tokens = most
    return replace(settings, generation=generation, max_new_tokens=most)


def _suppressed(settings: Settings) -> list[list[int]]:
    """Sequences that are never completed. Transformers lets an end token be, whoever forbids it as a word."""
    generation = settings.generation
    words = [ids for ids in generation.bad_words_ids or () if not (len(ids) == 1 and ids[0] in settings.end_ids)]
    return [*map(list, words), *([id_] for id_ in generation.suppress_tokens or ())]


def _unheld(settings: Settings) -> Iterator[str]:
    generation = settings.generation
    if settings.sampling is not None:
        yield "do_sample = true draws by a seed for each row, and CTranslate2 draws all rows by one"
    if settings.stop:
        yield "it knows no stop strings, and model.options.stop names some"
    if settings.grammar is not None:
        yield "it follows no grammar, and model.options asks for answers of one form"
    for name, value in generation.to_diff_dict().items():
        if name not in HELD | CHANGE_NOTHING and value not in (None, False, 0, NEUTRAL.get(name)):
            yield f"it has no {name}, and the checkpoint's generation_config.json says {name} = {value!r}"
    if not settings.end_ids:
        yield "the checkpoint names no eos_token_id, by which an answer ends"
    yield from _unheld_of_encoder_decoders(settings) if settings.is_encoder_decoder else _unheld_of_decoders(settings)


def _unheld_of_encoder_decoders(settings: Settings) -> Iterator[str]:
    generation = settings.generation
    if not isinstance(generation.decoder_start_token_id, int):
        yield f"decoder_start_token_id = {generation.decoder_start_token_id!r} is not one token id"
    if isinstance(generation.forced_eos_token_id, list):
        yield f"forced_eos_token_id = {generation.forced_eos_token_id} is not one token id"
    if generation.decoder_start_token_id in settings.end_ids and _counts_the_start(generation):
        yield "its penalties of repetitions leave out the decoder's first token, which here ends an answer too"
    if (generation.num_beams or 1) > 1:
        yield from _unheld_by_beams(settings)


def _unheld_of_decoders(settings: Settings) -> Iterator[str]:
    """What counts the prompt's tokens too, which CTranslate2 leaves out."""
    generation = settings.generation
    for name, nothing in OF_PROMPTS.items():
        if (value := getattr(generation, name)) not in (None, nothing):
            yield f"of a decoder it does not hold {name}, and the checkpoint's generation_config.json says {value!r}"
    if any(len(ids) > 1 for ids in _suppressed(settings)):
        yield "of a decoder it does not hold bad_words_ids of several tokens, which a prompt may begin"


def _counts_the_start(generation: GenerationConfig) -> bool:
    return (generation.repetition_penalty or 1) != 1 or generation.no_repeat_ngram_size == 1


def _unheld_by_beams(settings: Settings) -> Iterator[str]:
    """Where its beams differ from those of Transformers, by the code of both."""
    generation = settings.generation
    beams = f"num_beams = {generation.num_beams}"
    if len(settings.end_ids) > 1:
        yield f"its beams know one end of an answer, and with {beams} the checkpoint names {len(settings.end_ids)}"
    if generation.early_stopping is not True:
        yield (
            f"its beams end with the first num_beams answers, and those of {beams} with early_stopping = "
            f"{generation.early_stopping!r} go on"
        )
    if generation.forced_bos_token_id is not None or generation.forced_eos_token_id is not None:
        yield f"forced tokens count otherwise in its beams, and the checkpoint has some, with {beams}"
    if (generation.repetition_penalty or 1) != 1:
        yield f"its repetition_penalty acts before probabilities are made, and with {beams} it has to act on them"
    forbids = _suppressed(settings) or generation.no_repeat_ngram_size or least_new_tokens(settings)
    if forbids and not generation.renormalize_logits:
        yield f"what is forbidden counts otherwise in its beams, and the checkpoint forbids some, with {beams}"
