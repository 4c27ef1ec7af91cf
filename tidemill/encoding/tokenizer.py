"""Texts become token ids once per tokenizer, as Arrow columns that any model with that tokenizer can use.

What a row gets is exactly what `transformers.pipeline` would give the model,
special tokens and truncation included, or what a Transformers tokenizer gives
with `return_overflowing_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.checkpoints.fast_tokenizer import open_fast
from tidemill.checkpoints.loading import is_panic
from tidemill.config import LongText
from tidemill.encoding.windowing import MAX_ROW_TOKENS, Windowing
from tidemill.errors import ModelError
from tidemill.fingerprints import fingerprint
from tidemill.machine import num_cpus

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Made = TypeVar("Made")

# A tokenizer at work takes a few hundred bytes a character, so these two bound memory.
BYTES_AT_WORK = 2**21
PIECE_CHARS = 2**20

# While a run waits for its longest text, which one core tokenizes, the others' cores work.
MOST_RUNS_AT_WORK = 8

# The first that yields a few tokens shows which special tokens surround a text.
PROBES = ("a b c d e f g h", "A C G T A C G T", "1 2 3 4 5 6 7 8")


@dataclass(frozen=True)
class TokenColumns:
    """One value per text, in order.

    `token_ids` is null where the text is null or the row is quarantined, and where
    long texts are read in windows, it is a list of them. `num_tokens` counts before
    truncation, special tokens included, so a row without windows is truncated where
    it exceeds the length of `token_ids`; `reason` says why a row is quarantined. A
    null text has no reason here: whoever left it out knows why.
    """

    token_ids: pa.ListArray
    num_tokens: pa.Int32Array
    reason: pa.StringArray


class Row(NamedTuple):
    """A text's ids and how many it has before truncation, or why it has none; `spans` says where in it they stand."""

    ids: Sequence[int] | NDArray[np.int32] | None = None
    num_tokens: int | None = None
    reason: str | None = None
    spans: Sequence[tuple[int, int]] | NDArray[np.int32] = ()


class TextTokenizer:
    """A fast tokenizer with truncation settled. Threads may share it."""

    reads = ("text",)
    unknown_id: int | None = None
    """The token of what the vocabulary lacks, where Transformers knows one."""

    def __init__(
        self,
        backend: Tokenizer,
        *,
        max_length: int,
        long_text: LongText,
        truncation_side: str,
        overlap: int | Literal["auto"] = "auto",
        special_tokens: bool = True,
    ) -> None:
        """Without `special_tokens` a sequence is its text's tokens alone."""
        self.max_length = max_length
        self._backend = backend
        self._quarantine = long_text == "quarantine"
        self._left = truncation_side == "left"
        self._adds_special_tokens = special_tokens
        self._prefix, self._suffix = tokens_around(backend) if special_tokens else ([], [])
        if self._room < 1:
            raise ModelError(
                f"tokenizer.max_length = {max_length} leaves no room for text beside the tokenizer's special tokens. "
                f"Raise it to at least {max_length - self._room + 1}."
            )
        self._windowing = self._resolve_windowing(overlap) if long_text == "windows" else None
        facts = (backend.to_str(), backend.encode_special_tokens, truncation_side, max_length, long_text)
        self.fingerprint = fingerprint(*facts, *([self._windowing.overlap] if self._windowing else []))

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
        **own: Any,
    ) -> Self:
        """As `open_fast`; `overlap` counts for windows only. `own` goes to the constructor of a class that takes more.

        Raises:
            ModelError: the folder yields no fast tokenizer, `max_length` does not fit the model, or `overlap` does
                not fit `max_length`.
        """
        fast = open_fast(
            folder,
            max_length=max_length,
            model_max_length=model_max_length,
            usual_length=usual_length,
            trust_remote_code=trust_remote_code,
        )
        made = cls(
            fast.backend,
            max_length=fast.max_length,
            long_text=long_text,
            truncation_side=fast.truncation_side,
            overlap=overlap,
            **own,
        )
        made.unknown_id = fast.unknown_id
        return made

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = lambda num_rows: None) -> pa.Table:
        """`encode` of the column `text`, as a table of its three columns."""
        columns = self.encode(rows["text"], on_progress=on_progress)
        return pa.table({"token_ids": columns.token_ids, "num_tokens": columns.num_tokens, "reason": columns.reason})

    @property
    def num_special_tokens(self) -> int:
        """How many tokens of every sequence are none of its text."""
        return len(self._prefix) + len(self._suffix)

    @property
    def _room(self) -> int:
        return self.max_length - len(self._prefix) - len(self._suffix)

    def _resolve_windowing(self, overlap: int | Literal["auto"]) -> Windowing:
        prefix = self._window_prefix
        room = self.max_length - len(prefix) - len(self._suffix)
        if room < 1:
            raise ModelError(
                f"tokenizer.max_length = {self.max_length} leaves a window no room for text beside the {len(prefix)} "
                f"tokens that it begins with. Raise it to at least {self.max_length - room + 1}."
            )
        if overlap == "auto":
            overlap = room // 8
        if overlap >= room:
            raise ModelError(
                f"tokenizer.overlap = {overlap} leaves a window nothing new to read: with tokenizer.max_length = "
                f"{self.max_length} it has room for {room} tokens of text. Lower overlap to at most {room - 1}, or "
                "raise max_length."
            )
        return Windowing(prefix, self._suffix, room=room, overlap=overlap, from_the_end=self._left)

    @property
    def _window_prefix(self) -> list[int]:
        """What every window begins with."""
        return self._prefix

    def encode(
        self, texts: pa.Array | pa.ChunkedArray, *, on_progress: Callable[[int], None] = lambda num_rows: None
    ) -> TokenColumns:
        """Tokenize a string column. A text that fails gets a reason and takes no other row with it.

        `on_progress` is told how many rows are through, after every run of texts.

        A text of more than `PIECE_CHARS` is tokenized in pieces cut at whitespace,
        so its `num_tokens` is the sum over pieces: off by a token or so a cut.
        """
        batches = in_runs(texts, lambda run: self._columns(self._encode_run(run)), on_progress) or [self._columns([])]
        return TokenColumns(
            token_ids=pa.concat_arrays([batch.token_ids for batch in batches]),
            num_tokens=pa.concat_arrays([batch.num_tokens for batch in batches]),
            reason=pa.concat_arrays([batch.reason for batch in batches]),
        )

    def _encode_run(self, texts: pa.StringArray) -> list[Row]:
        try:
            return self._encode_batch(texts.to_pylist())
        except BaseException as e:
            if not _concerns_a_text(e):
                raise
            return [self._encode_alone(text) for text in texts]

    def _encode_alone(self, text: pa.StringScalar) -> Row:
        try:
            return self._encode_batch([text.as_py()])[0]
        except BaseException as e:
            if not _concerns_a_text(e):
                raise
            return Row(reason=f"cannot be tokenized: {e}")

    def _encode_batch(self, texts: list[str | None]) -> list[Row]:
        short = [text for text in texts if text is not None and len(text) <= PIECE_CHARS]
        encodings = iter(self._encodings(short, add_special_tokens=self._adds_special_tokens))
        rows = []
        for text in texts:
            if text is None:
                rows.append(Row())
            elif len(text) <= PIECE_CHARS:
                rows.append(self._encoded(next(encodings)))
            else:
                rows.append(self._encode_long(text))
        return rows

    def _encodings(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        encodings: list[Encoding] = self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return encodings

    def _encoded(self, encoding: Encoding) -> Row:
        ids = encoding.ids
        return self._row(ids, len(ids))

    def _encode_long(self, text: str) -> Row:
        if self._windowing is not None:
            return self._encode_whole(text, self._windowing)
        kept: list[int] = []
        num_tokens = len(self._prefix) + len(self._suffix)
        for _, encoding in self._by_piece(text):
            ids = encoding.ids
            num_tokens += len(ids)
            kept = (kept + ids)[-self._room :] if self._left else kept + ids[: self._room - len(kept)]
        return self._row([*self._prefix, *kept, *self._suffix], num_tokens)

    def _encode_whole(self, text: str, windowing: Windowing) -> Row:
        """All ids, in which windows are cut; those of a text that is too long even for that are only counted."""
        kept = [np.array(self._prefix, dtype=np.int32)]
        num_tokens = len(self._prefix) + len(self._suffix)
        for _, encoding in self._by_piece(text):
            num_tokens += len(encoding)
            kept.append(np.array(encoding.ids, dtype=np.int32))
            if windowing.num_window_tokens(num_tokens) > MAX_ROW_TOKENS:
                kept.clear()
        if reason := self._refusal(num_tokens):
            return Row(num_tokens=num_tokens, reason=reason)
        return Row(np.concatenate([*kept, np.array(self._suffix, dtype=np.int32)]), num_tokens)

    def _by_piece(self, text: str) -> Iterator[tuple[int, Encoding]]:
        """Where in the text each piece begins, and its tokens."""
        start = 0
        for piece in pieces_of(text):
            yield start, self._encodings([piece], add_special_tokens=False)[0]
            start += len(piece)

    def _row(self, ids: list[int], num_tokens: int) -> Row:
        if reason := self._refusal(num_tokens):
            return Row(num_tokens=num_tokens, reason=reason)
        return Row(self._truncate(ids) if self._windowing is None else ids, num_tokens)

    def _refusal(self, num_tokens: int) -> str | None:
        """Why a row of so many tokens is quarantined, if it is."""
        if num_tokens == 0:
            return "cannot be tokenized: it has no tokens"
        if num_tokens <= self.max_length:
            return None
        if self._quarantine:
            return f"{num_tokens} tokens exceed tokenizer.max_length {self.max_length}"
        if self._windowing and (in_windows := self._windowing.num_window_tokens(num_tokens)) > MAX_ROW_TOKENS:
            return f"{num_tokens} tokens are {in_windows} in windows, more than the {MAX_ROW_TOKENS} of one row"
        return None

    def _truncate(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.max_length:
            return ids
        if self._left:
            return self._prefix + ids[len(ids) - self.max_length + len(self._prefix) :]
        return ids[: self.max_length - len(self._suffix)] + self._suffix

    def _columns(self, rows: list[Row]) -> TokenColumns:
        token_ids = _id_lists(rows)
        return TokenColumns(
            token_ids=token_ids if self._windowing is None else self._windowing.cut(token_ids),
            num_tokens=pa.array([row.num_tokens for row in rows], pa.int32()),
            reason=pa.array([row.reason for row in rows], pa.string()),
        )


def in_runs(
    texts: pa.Array | pa.ChunkedArray, make: Callable[[pa.StringArray], Made], on_progress: Callable[[int], None]
) -> list[Made]:
    """What is made of runs of texts, in order, a few at a time."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    # At least two: one run's ids become Arrow under the GIL while the next is in the tokenizer, which frees it.
    num_at_work = max(2, min(num_cpus() // 2, MOST_RUNS_AT_WORK))
    runs = [run for chunk in chunks for run in _cut_by_bytes(chunk, BYTES_AT_WORK // num_at_work)]
    # A service tokenizes a few texts at a time, for which threads would cost more than the texts.
    if len(runs) < 2:
        return _told(runs, map(make, runs), on_progress)
    with ThreadPoolExecutor(max_workers=num_at_work) as pool:
        return _told(runs, pool.map(make, runs), on_progress)


def _told(runs: Sequence[pa.StringArray], making: Iterable[Made], on_progress: Callable[[int], None]) -> list[Made]:
    made, num_rows = [], 0
    for run, batch in zip(runs, making, strict=True):
        made.append(batch)
        num_rows += len(run)
        on_progress(num_rows)
    return made


def tokens_around(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after every text, so that truncation needs no second tokenization."""
    for probe in PROBES:
        text_ids = backend.encode(probe, add_special_tokens=False).ids
        encoding = backend.encode(probe)
        num_special = len(encoding.ids) - len(text_ids)
        for start in range(num_special + 1):
            if len(text_ids) > 3 and encoding.ids[start : start + len(text_ids)] == text_ids:
                # Such ids are a second input to the model, which token shards do not hold.
                if any(encoding.type_ids):
                    raise ModelError("The tokenizer marks texts with token type ids, which Tidemill does not pass on.")
                return encoding.ids[:start], encoding.ids[start + len(text_ids) :]
    raise ModelError(
        "The tokenizer adds special tokens inside texts, or knows neither letters nor digits, and Tidemill cannot "
        "truncate for it. Set tokenizer.path to another tokenizer of the same vocabulary."
    )


def _concerns_a_text(error: BaseException) -> bool:
    return isinstance(error, Exception) or is_panic(error)


def _cut_by_bytes(texts: pa.Array, run_bytes: int) -> Iterator[pa.StringArray]:
    """Consecutive runs of texts of about `run_bytes` together; a text alone may be more."""
    sizes = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes, dtype=np.int64)
    cuts = np.flatnonzero(np.diff((ends - sizes) // run_bytes)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(texts)], strict=True):
        yield texts.slice(start, stop - start)


def pieces_of(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        stop = start + PIECE_CHARS
        if stop < len(text):
            stop = _last_space(text, start, stop)
        yield text[start:stop]
        start = stop


def _last_space(text: str, start: int, stop: int) -> int:
    """Where the last word of text[start:stop] begins, or `stop` where it is all one word."""
    for i in range(stop, start, -1):
        if text[i].isspace():
            return i
    return stop


def _id_lists(rows: list[Row]) -> pa.ListArray:
    id_lists = [[] if row.ids is None else row.ids for row in rows]
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(ids) for ids in id_lists], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(id_lists), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values), mask=pa.array([row.ids is None for row in rows], pa.bool_())
    )
