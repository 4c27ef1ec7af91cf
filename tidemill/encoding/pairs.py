"""Two texts become one item: truncated as Transformers truncates a pair, and put together as the tokenizer does it.

Shapes: P pairs, 2 texts of each, D distinct texts, K parts of a pair: what stands before the first text, that text,
what stands between the two, the second, and what stands after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.checkpoints.fast_tokenizer import FastTokenizer, open_fast
from tidemill.config import LongText
from tidemill.encoding.batching import Indices
from tidemill.encoding.tokenizer import TextTokenizer, TokenColumns
from tidemill.errors import ModelError
from tidemill.fingerprints import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PairTruncation = Literal["longest_first", "only_first", "only_second"]
"""Which text of a pair is cut where both are too long together, by Transformers' names."""

FIRST, SECOND = 0, 1

# Pairs of so many tokens are put together at a time: this bounds memory, which is eight times theirs meanwhile.
TOKENS_AT_ONCE = 2**20

# The first that yields a few tokens of each text shows what stands around and between the two.
_FEW = 2
_PROBES = (("a b c d", "e f g h"), ("A C G T A C", "T G C A T G"), ("1 2 3 4", "5 6 7 8"))


class PairTokenizer:
    """A fast tokenizer of two texts a row, with truncation settled. Threads may share it."""

    reads = ("text", "text_pair")

    def __init__(
        self,
        fast: FastTokenizer,
        *,
        long_text: LongText = "truncate",
        truncation: PairTruncation = "longest_first",
        with_types: bool | None = None,
    ) -> None:
        """`with_types` says whether the model takes type ids, and None that it takes what the tokenizer makes.

        Where the tokenizer makes none, all are 0, as they are to a model that is given none.
        """
        self.max_length = fast.max_length
        self._frame = _Frame.of(fast.backend)
        self._has_types = fast.makes_types if with_types is None else with_types
        if not fast.makes_types:
            self._frame = self._frame.without_types()
        self._left = fast.truncation_side == "left"
        self._quarantine = long_text == "quarantine"
        self._truncation = truncation
        if self._room < 1:
            raise ModelError(
                f"tokenizer.max_length = {self.max_length} leaves no room for two texts beside the tokenizer's special "
                f"tokens. Raise it to at least {self.num_special_tokens + 1}."
            )
        backend = (fast.backend.to_str(), fast.backend.encode_special_tokens, fast.truncation_side)
        types = fast.makes_types and self._has_types, self._has_types
        self.fingerprint = fingerprint("pairs", *backend, *types, self.max_length, long_text, truncation)
        # No item has more of a text than it has tokens itself: of a giant text no more is held in memory.
        self._texts = TextTokenizer(
            fast.backend,
            max_length=self.max_length,
            long_text="truncate",
            truncation_side=fast.truncation_side,
            special_tokens=False,
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        max_length: int | Literal["auto"] = "auto",
        long_text: LongText = "truncate",
        truncation: PairTruncation = "longest_first",
        model_max_length: int | None = None,
        usual_length: int | None = None,
        trust_remote_code: bool = False,
        with_types: bool | None = None,
    ) -> PairTokenizer:
        """As `TextTokenizer.load`; pairs are not read in windows.

        Raises:
            ModelError: the folder yields no fast tokenizer, or `max_length` fits neither it nor the model.
        """
        fast = open_fast(
            folder,
            max_length=max_length,
            model_max_length=model_max_length,
            usual_length=usual_length,
            trust_remote_code=trust_remote_code,
        )
        return cls(fast, long_text=long_text, truncation=truncation, with_types=with_types)

    @property
    def num_special_tokens(self) -> int:
        """How many tokens of every pair are none of its texts."""
        return self._frame.num_special_tokens

    @property
    def _room(self) -> int:
        return self.max_length - self.num_special_tokens

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = lambda num_rows: None) -> pa.Table:
        """As `encode`, of the columns `text` and `text_pair`."""
        return self.encode(rows["text"], rows["text_pair"], on_progress=on_progress)

    def encode(
        self,
        first: pa.Array | pa.ChunkedArray,
        second: pa.Array | pa.ChunkedArray,
        *,
        on_progress: Callable[[int], None] = lambda num_rows: None,
    ) -> pa.Table:
        """One row a pair, in order: `token_ids`, `type_ids` where there are some, `num_tokens` and `reason`.

        Texts are strings, or strings by dictionary. One that is there many times,
        such as a query beside each of its documents, is tokenized once. An empty
        text is a text; a pair in which one is null has neither tokens nor a reason.
        `num_tokens` is the pair's before truncation. `on_progress` is told how many
        pairs are through, about.
        """
        columns = [_by_dictionary(first), _by_dictionary(second)]
        num_texts = sum(len(column.dictionary) for column in columns)
        num_done, texts = 0, []
        for column in columns:
            tell = _told_in_pairs(on_progress, num_done, num_texts, num_pairs=len(column))
            texts.append(_Texts(self._texts.encode(column.dictionary, on_progress=tell), column.indices))
            num_done += len(column.dictionary)
        on_progress(len(columns[FIRST]))
        return self._columns(texts)

    def _columns(self, texts: Sequence[_Texts]) -> pa.Table:
        is_pair = texts[FIRST].is_present & texts[SECOND].is_present
        lengths_P2 = np.stack([of.num_tokens for of in texts], axis=1)
        num_tokens = lengths_P2.sum(axis=1) + self.num_special_tokens
        kept_P2 = self._kept(lengths_P2)
        is_over = num_tokens > self.max_length
        is_refused = is_pair & ((is_over & (self._quarantine | (kept_P2.min(axis=1) < 0))) | (num_tokens == 0))
        reasons = dict(chain(*(of.failures(which) for of, which in zip(texts, ("first", "second"), strict=True))))
        for pair in np.flatnonzero(is_refused).tolist():
            reasons[pair] = self._refusal(int(num_tokens[pair]), lengths_P2[pair].tolist())
        has_tokens = is_pair & ~is_refused
        columns = self._put_together(texts, np.where(has_tokens[:, None], kept_P2, 0), has_tokens)
        columns["num_tokens"] = pa.array(num_tokens.astype(np.int32), mask=~is_pair)
        columns["reason"] = pa.array([reasons.get(pair) for pair in range(len(is_pair))], pa.string())
        return pa.table(columns)

    def _kept(self, lengths_P2: Indices) -> Indices:
        """How many tokens of each text truncation keeps; -1 where it would have to keep fewer than it may."""
        over_P = lengths_P2.sum(axis=1) - self._room
        if self._truncation == "longest_first":
            shorter_P1 = np.minimum(lengths_P2.min(axis=1), self._room // 2)[:, None]
            is_longer_P = lengths_P2[:, FIRST] > lengths_P2[:, SECOND]
            kept_P2 = np.where(np.stack([is_longer_P, ~is_longer_P], axis=1), self._room - shorter_P1, shorter_P1)
        else:
            cut = FIRST if self._truncation == "only_first" else SECOND
            kept_P2, left_P = lengths_P2.copy(), lengths_P2[:, cut] - over_P
            # As in Transformers, the text that is cut keeps a token at least.
            kept_P2[:, cut] = np.where(left_P > 0, left_P, -1)
        return np.where(over_P[:, None] > 0, kept_P2, lengths_P2)

    def _refusal(self, num_tokens: int, lengths: Sequence[int]) -> str:
        if num_tokens == 0:
            return "cannot be tokenized: it has no tokens"
        if self._quarantine:
            return f"{num_tokens} tokens exceed tokenizer.max_length {self.max_length}"
        whole, cut = ("second", "first") if self._truncation == "only_first" else ("first", "second")
        num_whole = lengths[SECOND if whole == "second" else FIRST]
        return (
            f"the {whole} text has {num_whole} tokens, which leaves no room for the {cut} in tokenizer.max_length "
            f"{self.max_length}"
        )

    def _put_together(
        self, texts: Sequence[_Texts], kept_P2: Indices, has_tokens: NDArray[np.bool_]
    ) -> dict[str, pa.Array | pa.ChunkedArray]:
        """Each pair's ids and types, as slices of those of all special tokens and texts, one after the other."""
        frame = self._frame
        starts_PK, lengths_PK = np.zeros((2, len(has_tokens), 5), dtype=np.int64)
        starts_PK[:, [0, 2, 4]] = np.cumsum([0, *map(len, frame.ids[:2])])
        lengths_PK[:, [0, 2, 4]] = np.where(has_tokens[:, None], [len(part) for part in frame.ids], 0)
        ids, types = [*frame.ids], [*frame.types]
        for of, part, kept_P, type_ in zip(texts, (1, 3), kept_P2.T, frame.text_types, strict=True):
            starts_PK[:, part] = sum(map(len, ids)) + of.starts(kept_P, from_the_end=self._left)
            lengths_PK[:, part] = kept_P
            ids.append(of.ids)
            types.append(np.full(len(of.ids), type_, dtype=np.int8))
        columns = {"token_ids": (np.concatenate(ids), pa.list_(pa.int32()))}
        if self._has_types:
            columns["type_ids"] = (np.concatenate(types), pa.list_(pa.int8()))
        blocks = list(_blocks(lengths_PK.sum(axis=1)))
        return {
            name: pa.chunked_array(
                [_slices(values, starts_PK[block], lengths_PK[block], has_tokens[block]) for block in blocks], list_type
            )
            for name, (values, list_type) in columns.items()
        }


@dataclass(frozen=True)
class _Frame:
    """What a tokenizer puts before, between and after two texts, the types of these tokens, and of the texts' own."""

    ids: tuple[NDArray[np.int32], ...]
    types: tuple[NDArray[np.int8], ...]
    text_types: tuple[int, int]

    @classmethod
    def of(cls, backend: Tokenizer) -> _Frame:
        """
        Raises:
            ModelError: it puts texts together in a way that is not this one.
        """
        for first, second in _PROBES:
            encoding = backend.encode(first, second)
            places = [[i for i, of in enumerate(encoding.sequence_ids) if of == text] for text in (FIRST, SECOND)]
            if min(map(len, places)) < _FEW:
                continue
            (start, *_, stop), (start_second, *_, stop_second) = places
            parts = [slice(start), slice(stop + 1, start_second), slice(stop_second + 1, None)]
            frame = cls(
                tuple(np.array(encoding.ids[part], dtype=np.int32) for part in parts),
                tuple(np.array(encoding.type_ids[part], dtype=np.int8) for part in parts),
                (encoding.type_ids[start], encoding.type_ids[start_second]),
            )
            if all(frame._puts_together(backend, *pair) for pair in ((second, first), (first, ""), ("", second))):
                return frame
        raise ModelError(
            "The tokenizer puts two texts together in a way of its own, or knows neither letters nor digits, and "
            "Tidemill cannot truncate for it. Set tokenizer.path to another tokenizer of the same vocabulary."
        )

    @property
    def num_special_tokens(self) -> int:
        return sum(map(len, self.ids))

    def without_types(self) -> _Frame:
        """All of them 0, as a model has it that is given none."""
        return replace(self, types=tuple(np.zeros_like(part) for part in self.types), text_types=(0, 0))

    def _puts_together(self, backend: Tokenizer, first: str, second: str) -> bool:
        """Whether the tokenizer makes of two texts what this makes of them."""
        texts = [backend.encode(text, add_special_tokens=False).ids for text in (first, second)]
        types = [[type_] * len(ids) for type_, ids in zip(self.text_types, texts, strict=True)]
        encoding = backend.encode(first, second)
        return (_around(self.ids, texts), _around(self.types, types)) == (encoding.ids, encoding.type_ids)


class _Texts:
    """The first texts of all pairs, or the second ones: tokens of the distinct ones, and which of them each pair has.

    `num_tokens` is 0 where the text is null or could not be tokenized, and then `is_present` is false.
    """

    def __init__(self, tokens: TokenColumns, indices: pa.Array) -> None:
        self.ids: NDArray[np.int32] = tokens.token_ids.values.to_numpy(zero_copy_only=False)
        self._offsets_D = tokens.token_ids.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        self._reason_D = tokens.reason
        # A pair without the text has the index after those of all texts.
        self._text_P = indices.fill_null(len(tokens.reason)).to_numpy(zero_copy_only=False)
        is_present_D = tokens.num_tokens.is_valid().to_numpy(zero_copy_only=False)
        num_tokens_D = tokens.num_tokens.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        self.is_present = np.append(is_present_D, False)[self._text_P]
        self.num_tokens = np.append(num_tokens_D, 0)[self._text_P]
        self._is_present_D = is_present_D

    def starts(self, kept_P: Indices, *, from_the_end: bool) -> Indices:
        """Where in `ids` what is kept of each pair's text begins."""
        if from_the_end:
            stops: Indices = np.append(self._offsets_D[1:], 0)[self._text_P]
            return stops - kept_P
        # The last offset is that of a pair without the text.
        starts: Indices = self._offsets_D[self._text_P]
        return starts

    def failures(self, which: str) -> Iterator[tuple[int, str]]:
        """Pairs whose text, which is called so, could not be tokenized, and why."""
        has_failed_D = ~self._is_present_D & self._reason_D.is_valid().to_numpy(zero_copy_only=False)
        for pair in np.flatnonzero(np.append(has_failed_D, False)[self._text_P]).tolist():
            yield pair, f"the {which} text {self._reason_D[int(self._text_P[pair])]}"


def _by_dictionary(texts: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """Each distinct text once, and for each row which one it has."""
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    return texts if isinstance(texts, pa.Array) else pa.concat_arrays(texts.chunks)


def _told_in_pairs(
    on_progress: Callable[[int], None], num_before: int, num_texts: int, *, num_pairs: int
) -> Callable[[int], None]:
    """Tells of texts, after some that are done, as of pairs."""
    return lambda num_done: on_progress(num_pairs * (num_before + num_done) // max(1, num_texts))


def _around(specials: Sequence[NDArray[Any]], texts: Sequence[list[int]]) -> list[int]:
    before, between, after = (part.tolist() for part in specials)
    return [*before, *texts[FIRST], *between, *texts[SECOND], *after]


def _blocks(lengths: Indices) -> Iterator[slice]:
    """Consecutive pairs of about `TOKENS_AT_ONCE` together."""
    cuts = np.flatnonzero(np.diff((np.cumsum(lengths) - lengths) // TOKENS_AT_ONCE)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(lengths)], strict=True):
        yield slice(start, stop)


def _slices(
    values: NDArray[Any], starts_PK: Indices, lengths_PK: Indices, has_tokens: NDArray[np.bool_]
) -> pa.ListArray:
    """A list a pair: `lengths` values from each of its `starts` on, one slice after the other; null for the others."""
    lengths = lengths_PK.ravel()
    offsets = np.zeros(len(lengths_PK) + 1, dtype=np.int32)
    np.cumsum(lengths_PK.sum(axis=1), out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(starts_PK.ravel() - (np.cumsum(lengths) - lengths), lengths)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[places]), mask=pa.array(~has_tokens))
