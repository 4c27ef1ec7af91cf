"""Prompts for a server, which has the tokenizer and the chat template: they go there as text, or as messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.encoding.prompts.marked import Marked
from tidemill.encoding.prompts.prompt import NoPrompt, Prompt, texts_of
from tidemill.encoding.tokenizer import Row, in_runs
from tidemill.fingerprints import fingerprint

CHARS_A_TOKEN = BYTES_AN_ID = 4
"""What a token has of most languages' texts, about. So many bytes are put into an id, and there are about as many ids
as the server will count tokens: batches, rates and estimates are by ids."""


class ServedPrompts:
    """A row's `token_ids` are its prompt in JSON, `packed`: a string, or a list of messages.

    `num_tokens` is an estimate, since only the server can count. Threads may share it.
    """

    reads = ("text",)
    num_special_tokens = 0

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self.fingerprint = fingerprint("served prompts", *prompt.facts)

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = lambda num_rows: None) -> pa.Table:
        made = in_runs(rows["text"], lambda run: [self._row(row) for row in run.to_pylist()], on_progress)
        return _table([row for run in made for row in run])

    def _row(self, row: str | None) -> Row:
        if row is None:
            return Row()
        try:
            made = self._prompt.of_row(row)
        except NoPrompt as e:
            return Row(reason=str(e))
        texts: list[str] = []

        def plain(text: Marked) -> str:
            texts.append(text.text)
            return text.text

        sent: Any = texts_of(made, plain)
        num_chars = sum(map(len, texts))
        return Row(packed(orjson.dumps(sent)), -(-num_chars // CHARS_A_TOKEN))


def packed(said: bytes) -> list[int]:
    """JSON as ids; blanks behind it mean nothing."""
    ids: list[int] = np.frombuffer(said + b" " * (-len(said) % BYTES_AN_ID), dtype="<i4").tolist()
    return ids


def unpacked(ids: NDArray[np.integer]) -> bytes:
    """The JSON that was `packed`."""
    return ids.astype("<i4").tobytes()


def _table(rows: Sequence[Row]) -> pa.Table:
    return pa.table(
        {
            "token_ids": pa.array([row.ids for row in rows], pa.list_(pa.int32())),
            "num_tokens": pa.array([row.num_tokens for row in rows], pa.int32()),
            "truncated": pa.array([None if row.ids is None else False for row in rows], pa.bool_()),
            "reason": pa.array([row.reason for row in rows], pa.string()),
        }
    )
