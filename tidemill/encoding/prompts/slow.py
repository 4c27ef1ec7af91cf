"""Tokenizers that Transformers has in Python alone: Marian's and M2M100's, around a SentencePiece model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tidemill.checkpoints.files import files_read
from tidemill.encoding.prompts.languages import codes
from tidemill.fingerprints import fingerprint
from tidemill.sources.hashes import hash_folder


class Ids(NamedTuple):
    """What an encoding of `tokenizers` is asked for."""

    ids: list[int]
    type_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


class SlowTokenizer:
    """It is asked as a tokenizer of `tokenizers` is. Text that looks like a special token is text.

    Threads may share it; one of them works at a time.
    """

    encode_special_tokens = True

    def __init__(self, whole: Any, folder: str | Path) -> None:
        self._whole = whole
        names = files_read(folder, trust_remote_code=False, weights=False)
        around = self.encode("").ids
        self._identity = fingerprint(type(whole).__name__, hash_folder(folder, names), around)
        control = {*whole.all_special_ids, *codes(whole).values()} - {whole.unk_token_id}
        self.is_control = np.zeros(1 + max(*whole.get_vocab().values(), *control), dtype=bool)
        self.is_control[sorted(control)] = True

    def to_str(self) -> str:
        """What names it: the fast ones' is all that they are."""
        return self._identity

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Ids:
        return self.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch_fast(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[Ids]:
        if not texts:
            return []
        made = self._whole(
            list(texts),
            add_special_tokens=add_special_tokens,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        return [Ids(ids) for ids in made["input_ids"]]
