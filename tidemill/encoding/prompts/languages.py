"""Which languages a checkpoint's tokenizer knows, and how it is told which to read and which to write.

An unknown code is an ordinary piece of text to a tokenizer, and the model would write
in some other language: so codes are checked before anything runs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidemill.checkpoints.fast_tokenizer import load_whole
from tidemill.errors import ModelError

_CODE = re.compile(r"[a-z]{2,3}_[A-Za-z]{2,4}")
"""Of mBART and NLLB: `en_XX`, `eng_Latn`."""


def language_ids(folder: str | Path, tgt_lang: str, *, trust_remote_code: bool = False) -> int | None:
    """The token that an answer in a language is forced to begin with; None where the source begins with the language.

    Raises:
        ModelError: the checkpoint knows no languages, or not that one.
    """
    whole = load_whole(folder, trust_remote_code=trust_remote_code)
    if targets(whole):
        target_prefix(whole, tgt_lang)
        return None
    return code_id(whole, tgt_lang, "tgt_lang", folder)


def set_languages(
    whole: Any, folder: str | Path, *, src_lang: str | None, tgt_lang: str | None, translates: bool
) -> None:
    """Tell Transformers' tokenizer which language it reads: its special tokens say so to the model.

    What was saved with it holds if none is given, but not to translate: a tokenizer is always saved with one.

    Raises:
        ModelError: it does not know a language, or knows none, or one has to be given.
    """
    known = codes(whole)
    if known and translates and (src_lang is None or tgt_lang is None):
        raise ModelError(
            f"The model translates between {len(known)} languages. Set model.options.src_lang to the code of the "
            f"texts' and model.options.tgt_lang to that of the translations, such as {_some(list(known))}."
        )
    if tgt_lang is not None and not targets(whole):
        code_id(whole, tgt_lang, "tgt_lang", folder)
    if src_lang is not None:
        code_id(whole, src_lang, "src_lang", folder)
        whole.src_lang = src_lang


def target_prefix(whole: Any, tgt_lang: str | None) -> str:
    """What a Marian model reads before a text: which of its languages it is to write; empty for one that has one.

    Raises:
        ModelError: it has several, and none is chosen, or one that its vocabulary lacks.
    """
    known = targets(whole)
    if not known:
        return ""
    names = [code[2:-2] for code in known]
    if tgt_lang is None:
        raise ModelError(
            f"The model writes {len(known)} languages. Set model.options.tgt_lang to one of its codes, such as "
            f"{_some(names)}."
        )
    if tgt_lang not in names:
        raise _unknown("tgt_lang", tgt_lang, names)
    return f">>{tgt_lang}<< "


def targets(whole: Any) -> list[str]:
    """A Marian tokenizer's tokens of languages to be written, such as `>>fra<<`."""
    return [code for code in getattr(whole, "supported_language_codes", []) if code.startswith(">>")]


def codes(whole: Any) -> Mapping[str, int]:
    """The codes of a tokenizer that tells the model languages by tokens; none of any other."""
    if not isinstance(getattr(type(whole), "src_lang", None), property):
        return {}
    by_code: Mapping[str, int] = getattr(whole, "lang_code_to_id", None) or {
        token: number for number, token in _special(whole) if _CODE.fullmatch(token)
    }
    unknown = whole.unk_token_id
    return {code: number for code, number in by_code.items() if number is not None and number != unknown}


def code_id(whole: Any, code: str, option: str, folder: str | Path) -> int:
    known = codes(whole)
    if not known:
        raise ModelError(
            f'model.options.{option} = "{code}", and the tokenizer in {folder} ({type(whole).__name__}) has no tokens '
            f"for languages. Remove {option}; where the model reads a language's name in the text, set "
            "model.options.prefix."
        )
    if code not in known:
        raise _unknown(option, code, list(known))
    return known[code]


def _special(whole: Any) -> list[tuple[int, str]]:
    return [(number, token.content) for number, token in whole.added_tokens_decoder.items() if token.special]


def _unknown(option: str, code: str, known: Sequence[str]) -> ModelError:
    # A language's own code in another form is nearer than whatever has letters like it.
    same = [other for other in known if other.partition("_")[0] == code.partition("_")[0]]
    near = difflib.get_close_matches(code, same or known, n=1, cutoff=0.4)
    hint = f'Did you mean "{near[0]}"?' if near else f"It knows {_some(known)}."
    return ModelError(f'model.options.{option} = "{code}" is no language of the model. {hint}')


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name}"' for name in sorted(names)[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
