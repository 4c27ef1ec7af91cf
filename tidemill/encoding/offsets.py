"""Tokens with their places in the text, for tasks whose answers point into it.

Offsets count code points of the text as it was given, as Transformers' do, so
`text[start:end]` in Python and `substring(text, start + 1, "end" - start)` in SQL are the token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices
from tidemill.encoding.tokenizer import Row, TextTokenizer, in_runs
from tidemill.encoding.windowing import MAX_ROW_TOKENS, Windowing
from tidemill.fingerprints import fingerprint

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class OffsetTokenizer(TextTokenizer):
    """A `TextTokenizer` that also says where its tokens stand.

    Windows are in the text's order, whichever side truncation would keep: together they are all of it.
    """

    def __init__(self, backend: Tokenizer, **options: Any) -> None:
        super().__init__(backend, **options)
        self.fingerprint = fingerprint("offsets", self.fingerprint)

    @property
    def backend(self) -> Tokenizer:
        return self._backend

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = lambda num_rows: None) -> pa.Table:
        """The columns of `TokenColumns`, and for each row lists of int32.

        `starts` and `ends` are the offsets of the text's tokens, special ones left out, cut as the text is cut. The
        row's tokens are, of each of its items, `counts` tokens from place `firsts` on.
        """
        tables = in_runs(rows["text"], lambda run: self._table(self._encode_run(run)), on_progress)
        return pa.concat_tables(tables or [self._table([])])

    def _resolve_windowing(self, overlap: int | Literal["auto"]) -> Windowing:
        return dataclasses.replace(super()._resolve_windowing(overlap), from_the_end=False)

    def _encodings(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        encodings: list[Encoding] = self._backend.encode_batch(texts, add_special_tokens=add_special_tokens)
        return encodings

    def _encoded(self, encoding: Encoding) -> Row:
        row = super()._encoded(encoding)
        if row.ids is None:
            return row
        spans = encoding.offsets
        return row._replace(spans=self._kept(spans[len(self._prefix) : len(spans) - len(self._suffix)]))

    def _encode_long(self, text: str) -> Row:
        kept: list[NDArray[np.int32]] = []
        num_tokens = self.num_special_tokens
        for start, encoding in self._by_piece(text):
            num_tokens += len(encoding)
            # Ids beside spans, so that what is cut is cut from both.
            kept.append(np.column_stack([encoding.ids, _pairs(encoding.offsets) + start]).astype(np.int32))
            if self._windowing is None:
                kept = [self._kept(np.concatenate(kept))]
            elif self._windowing.num_window_tokens(num_tokens) > MAX_ROW_TOKENS:
                kept.clear()
        if reason := self._refusal(num_tokens):
            return Row(num_tokens=num_tokens, reason=reason)
        tokens = np.concatenate(kept)
        ids = np.concatenate([self._prefix, tokens[:, 0], self._suffix]).astype(np.int32)
        return Row(ids, num_tokens, spans=tokens[:, 1:])

    def _kept(self, tokens: Any) -> Any:
        """What truncation leaves of a text's tokens, or of one value each."""
        if self._windowing is not None:
            return tokens
        return tokens[-self._room :] if self._left else tokens[: self._room]

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        columns = self._columns(list(rows))
        is_null = [row.ids is None for row in rows]
        counts_R = np.array([len(row.spans) for row in rows], dtype=np.int64)
        spans_N2 = _pairs(list(chain.from_iterable(row.spans for row in rows)))
        firsts, counts, num_items_R = self._items(counts_R)
        return pa.table(
            {
                "token_ids": columns.token_ids,
                "num_tokens": columns.num_tokens,
                "reason": columns.reason,
                "starts": _lists(spans_N2[:, 0], counts_R, is_null),
                "ends": _lists(spans_N2[:, 1], counts_R, is_null),
                "firsts": _lists(firsts, num_items_R, is_null),
                "counts": _lists(counts, num_items_R, is_null),
            }
        )

    def _items(self, num_text_R: Indices) -> tuple[Indices, Indices, Indices]:
        if self._windowing is not None:
            return self._windowing.decided(num_text_R)
        return np.full(len(num_text_R), len(self._prefix)), num_text_R, np.ones(len(num_text_R), dtype=np.int64)


def _pairs(spans: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    # Many times faster than an array of tuples.
    flat = np.fromiter(chain.from_iterable(spans), dtype=np.int32, count=2 * len(spans))
    return flat.reshape(-1, 2)


def _lists(values: NDArray[np.integer], counts: Indices, is_null: Sequence[bool]) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    mask = pa.array(is_null, pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32)), mask=mask)
