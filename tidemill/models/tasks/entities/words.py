"""Which tokens make a word, and how the tokens of an entity are written.

Shapes: N tokens, E entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.checkpoints.fast_tokenizer import open_fast
from tidemill.encoding.batching import Indices
from tidemill.models.tasks.entities.tokens import Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE = ord(" ")
_NO_CHARACTER = "\ufffd"


class Vocabulary:
    """A tokenizer's tokens as they are written. `unknown_id` stands for what it has no token of."""

    def __init__(self, backend: Tokenizer, *, unknown_id: int | None) -> None:
        by_token = backend.get_vocab(with_added_tokens=True)
        self.tokens = [""] * (max(by_token.values(), default=-1) + 1)
        for token, i in by_token.items():
            self.tokens[i] = token
        self.unknown_id = unknown_id
        self._lengths = np.array([len(token) for token in self.tokens], dtype=np.int32)
        self._marks_subwords = bool(getattr(backend.model, "continuing_subword_prefix", None))
        self._decoder = backend.decoder

    @classmethod
    def load(cls, folder: str | Path, *, trust_remote_code: bool = False) -> Vocabulary:
        """
        Raises:
            ModelError: the folder yields no fast tokenizer.
        """
        # Its length does not count here.
        fast = open_fast(folder, max_length=1, trust_remote_code=trust_remote_code)
        return cls(fast.backend, unknown_id=fast.unknown_id)

    def begin_words(self, tokens: Tokens, texts: pa.Array) -> NDArray[np.bool_]:
        """Whether a word begins with each token, as Transformers has it; `texts` are the rows' own.

        Where the tokenizer marks what goes on with a word (WordPiece), such a token is longer than what it stands
        for. Elsewhere a word begins behind a space, U+0020, and behind nothing else.
        """
        if self._marks_subwords:
            goes_on = self._lengths[tokens.ids] != tokens.ends - tokens.starts
        else:
            goes_on = ~_touch_a_space(tokens, texts)
        return np.asarray(~goes_on | self._is_unknown(tokens.ids) | tokens.are_first)

    def written(self, tokens: Tokens, texts: pa.Array, firsts: Indices, stops: Indices) -> list[str]:
        """The tokens of each entity, decoded together; what is unknown as it is in the text."""
        known: dict[bytes, str] = {}
        of_rows, written = _Texts(texts), []
        for first, stop in zip(firsts.tolist(), stops.tolist(), strict=True):
            ids = tokens.ids[first:stop]
            word = known.get(ids.tobytes())
            if word is None:
                word = self._decoded(self._spelled(tokens, of_rows, range(first, stop)))
                if _NO_CHARACTER in word:
                    word = _with_whole_letters(word, of_rows.span(tokens, first, stop - 1))
                elif not self._is_unknown(ids).any():
                    known[ids.tobytes()] = word
            written.append(word)
        return written

    def spelled(self, tokens: Tokens, texts: pa.Array, places: Indices) -> list[str]:
        """Each of these tokens as the vocabulary writes it; one that is unknown as it is in the text."""
        return self._spelled(tokens, _Texts(texts), places.tolist())

    def _spelled(self, tokens: Tokens, texts: _Texts, places: Sequence[int]) -> list[str]:
        return [
            texts.span(tokens, place, place) if i == self.unknown_id else self.tokens[i]
            for place, i in zip(places, tokens.ids[places].tolist(), strict=True)
        ]

    def _is_unknown(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        return np.asarray(ids == (-1 if self.unknown_id is None else self.unknown_id))

    def _decoded(self, tokens: list[str]) -> str:
        return " ".join(tokens) if self._decoder is None else str(self._decoder.decode(tokens))


class _Texts:
    """Texts of rows, asked for in the rows' order: each becomes Python's once, however large it is."""

    def __init__(self, texts: pa.Array) -> None:
        self._texts, self._row, self._text = texts, -1, ""

    def span(self, tokens: Tokens, first: int, last: int) -> str:
        """From where one token begins to where another ends."""
        if self._row != (row := int(tokens.rows[first])):
            self._row, self._text = row, self._texts[row].as_py()
        return self._text[tokens.starts[first] : tokens.ends[last]]


def _with_whole_letters(word: str, span: str) -> str:
    """The span of the text where the word has bytes of letters whose others are tokens of another entity."""
    return span if word.count(_NO_CHARACTER) > span.count(_NO_CHARACTER) else word


def _touch_a_space(tokens: Tokens, texts: pa.Array) -> NDArray[np.bool_]:
    """Whether each token begins with a space, or right behind one; the first character of a text is behind one."""
    lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    characters = np.frombuffer("".join(text or "" for text in texts.to_pylist()).encode("utf-32-le"), dtype=np.uint32)
    # One more of none at both ends, so that every place has a neighbour.
    is_space = np.pad(characters == _SPACE, 1)
    places = (np.cumsum(lengths) - lengths)[tokens.rows] + tokens.starts + 1
    is_within = tokens.starts < lengths[tokens.rows]
    return np.asarray((tokens.starts == 0) | is_space[places - 1] | (is_space[places] & is_within))
