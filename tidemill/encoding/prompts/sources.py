"""Texts of which a decoder writes something: what stands before them, and in which language they are.

A source has the ids that Transformers' tokenizer gives it, special tokens included,
but that text which looks like a special token is text.

Shapes: N tokens of all sequences, S sequences, R rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.checkpoints.fast_tokenizer import described, load_whole, require_files
from tidemill.config import LongText
from tidemill.encoding.prompted import PromptedTokenizer
from tidemill.encoding.prompts.controls import ControlTokens, Ids
from tidemill.encoding.prompts.languages import set_languages, target_prefix
from tidemill.encoding.prompts.marked import Marked
from tidemill.encoding.prompts.slow import SlowTokenizer
from tidemill.encoding.tokenizer import TokenColumns
from tidemill.encoding.windowing import are_windows

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class SourceTokenizer(PromptedTokenizer):
    """`prompt` stands before every text, and before every window of one. Threads may share it."""

    def __init__(
        self, backend: Tokenizer, *, rename: Ids | None, is_control: NDArray[np.bool_], **options: Any
    ) -> None:
        """`rename` says for each of the backend's ids what the model knows it by, None that it knows it by that."""
        super().__init__(backend, **options)
        self._rename, self._is_control = rename, is_control
        self._num_control = int(is_control[self._prefix + self._lead + self._suffix].sum())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        max_length: int | Literal["auto"] = "auto",
        long_text: LongText = "truncate",
        overlap: int | Literal["auto"] = "auto",
        model_max_length: int | None = None,
        usual_length: int | None = None,
        trust_remote_code: bool = False,
        prefix: str = "",
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        translates: bool = False,
        **own: Any,
    ) -> Self:
        """The tokenizer of a folder, fast or not. Windows of a source share nothing unless `overlap` says so.

        Raises:
            ModelError: the folder yields none, a length does not fit, or it does not know a language.
        """
        whole = load_whole(folder, trust_remote_code=trust_remote_code)
        require_files(Path(folder))
        set_languages(whole, folder, src_lang=src_lang, tgt_lang=tgt_lang, translates=translates)
        prefix = target_prefix(whole, tgt_lang) + prefix
        lengths = (max_length, model_max_length, usual_length)
        known = _known(whole, prefix) if getattr(whole, "is_fast", False) else _known_by_slow(whole, folder, prefix)
        fast = described(whole, known.pop("backend"), *lengths)
        return cls(
            fast.backend,
            max_length=fast.max_length,
            long_text=long_text,
            truncation_side=fast.truncation_side,
            overlap=0 if overlap == "auto" else overlap,
            **known,
            **own,
        )

    def encode(
        self, texts: pa.Array | pa.ChunkedArray, *, on_progress: Callable[[int], None] = lambda num_rows: None
    ) -> TokenColumns:
        columns = super().encode(texts, on_progress=on_progress)
        is_empty_R = np.asarray(pc.fill_null(pc.equal(pc.binary_length(texts), 0), False))
        is_forged_R = _any_of_row(columns.token_ids, self._is_forged(_sequences(columns.token_ids)))
        reasons = np.array(columns.reason.to_pylist(), dtype=object)
        reasons[is_forged_R] = (
            "the text holds what the tokenizer writes as a control token, and has no other tokens for"
        )
        reasons[is_empty_R] = "the text is empty"
        return TokenColumns(
            token_ids=self._renamed(columns.token_ids, is_empty_R | is_forged_R),
            num_tokens=columns.num_tokens,
            reason=pa.array(reasons.tolist(), pa.string()),
        )

    def _is_forged(self, sequences: pa.ListArray) -> NDArray[np.bool_]:
        """Whether each sequence has more control tokens than those that stand around every text."""
        is_control_N = self._is_control[sequences.values.to_numpy()]
        totals = np.concatenate([[0], np.cumsum(is_control_N)])
        offsets = sequences.offsets.to_numpy()
        is_forged: NDArray[np.bool_] = totals[offsets[1:]] - totals[offsets[:-1]] > self._num_control
        return is_forged

    def _renamed(self, token_ids: pa.ListArray, is_left_out_R: NDArray[np.bool_]) -> pa.ListArray:
        """The ids that the model knows; null for rows that are left out."""
        inner = _sequences(token_ids)
        values = inner.values if self._rename is None else pa.array(self._rename[inner.values.to_numpy()])
        is_null_R = pa.array(is_left_out_R | np.asarray(token_ids.is_null()))
        if inner is token_ids:
            return pa.ListArray.from_arrays(token_ids.offsets, values, mask=is_null_R)
        windows = pa.ListArray.from_arrays(inner.offsets, values)
        return pa.ListArray.from_arrays(token_ids.offsets, windows, mask=is_null_R)

    def _truncate(self, ids: list[int]) -> list[int]:
        if not self._left or len(ids) <= self.max_length:
            return super()._truncate(ids)
        before = [*self._prefix, *self._lead]
        return before + ids[len(ids) - self.max_length + len(before) :]


def _known(whole: Any, prefix: str) -> dict[str, Any]:
    """What a fast tokenizer is made of."""
    backend = whole.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    controls = ControlTokens(backend, whole.added_tokens_decoder, words=prefix)
    return {
        "backend": controls.backend,
        "prompt": controls.encoded_form(Marked(prefix))[0].text,
        "rename": controls.rename,
        "is_control": controls.is_control,
    }


def _known_by_slow(whole: Any, folder: str | Path, prefix: str) -> dict[str, Any]:
    slow = SlowTokenizer(whole, folder)
    # The one thing that it lacks of a fast tokenizer is Rust.
    return {"backend": cast("Any", slow), "prompt": prefix, "rename": None, "is_control": slow.is_control}


def _sequences(token_ids: pa.ListArray) -> pa.ListArray:
    """What the model is given: the rows, or all their windows."""
    return token_ids.values if are_windows(token_ids) else token_ids


def _any_of_row(token_ids: pa.ListArray, is_S: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether it is so of any sequence of each row."""
    if not are_windows(token_ids):
        return is_S
    totals = np.concatenate([[0], np.cumsum(is_S)])
    offsets = token_ids.offsets.to_numpy()
    is_R: NDArray[np.bool_] = totals[offsets[1:]] > totals[offsets[:-1]]
    return is_R
