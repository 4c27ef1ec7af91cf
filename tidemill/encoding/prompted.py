"""A text is tokenized behind a prompt, or in lower case, as some models of embeddings were trained.

A prompt is one text with what follows it, as sentence-transformers has it. Read in
windows, a text has the prompt's tokens before each.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.encoding.tokenizer import PROBES, TextTokenizer, TokenColumns
from tidemill.fingerprints import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class PromptedTokenizer(TextTokenizer):
    """`prompt` comes before every text; `lower_case` is of both, before the tokenizer's own normalizing."""

    def __init__(self, backend: Tokenizer, *, prompt: str = "", lower_case: bool = False, **options: Any) -> None:
        if lower_case:
            _lower(backend)
        self._prompt = prompt
        self._lead = _lead(backend, prompt) if prompt else []
        self._prompt_ids = backend.encode(prompt).ids if prompt else []
        super().__init__(backend, **options)
        if prompt:
            self.fingerprint = fingerprint(self.fingerprint, prompt)

    @property
    def num_special_tokens(self) -> int:
        """The prompt's too, which are none of the text."""
        return len(self._prefix) + len(self._lead) + len(self._suffix)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens before the text's own, special ones included, as sentence-transformers counts them."""
        return len(self._prompt_ids) - min(1, len(self._suffix)) if self._prompt else 0

    def encode(
        self, texts: pa.Array | pa.ChunkedArray, *, on_progress: Callable[[int], None] = lambda num_rows: None
    ) -> TokenColumns:
        if self._prompt:
            texts = pc.binary_join_element_wise(pa.scalar(self._prompt, texts.type), texts, pa.scalar("", texts.type))
        return super().encode(texts, on_progress=on_progress)

    @property
    def _window_prefix(self) -> list[int]:
        return [*self._prefix, *self._lead]


def _lead(backend: Tokenizer, prompt: str) -> list[int]:
    """The tokens that the prompt has before whatever text."""
    found = [backend.encode(prompt + probe, add_special_tokens=False).ids for probe in PROBES]
    shared = takewhile(lambda at: len(set(at)) == 1, zip(*found, strict=False))
    return [at[0] for at in shared]


def _lower(backend: Tokenizer) -> None:
    """Before its own normalizer, unless that is one which lowers."""
    from tokenizers.normalizers import Lowercase, Sequence

    own = backend.normalizer
    parts: Any = own if isinstance(own, Sequence) else [] if own is None else [own]
    steps = list(parts)
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])
