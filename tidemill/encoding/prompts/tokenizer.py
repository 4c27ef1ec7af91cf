"""Rows become the token ids of prompts.

A prompt that is a string is tokenized as Transformers' text-generation pipeline does
it, special tokens included; one that a chat template made, without any beside those
that the template has.

Shapes: N tokens of a prompt, S of its spans that may be shortened.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.checkpoints.fast_tokenizer import FastTokenizer, open_fast
from tidemill.checkpoints.loading import is_panic
from tidemill.config import LongText
from tidemill.encoding.prompts.chat import ChatTemplate
from tidemill.encoding.prompts.controls import ControlTokens, Ids
from tidemill.encoding.prompts.marked import Marked
from tidemill.encoding.prompts.prompt import Message, NoPrompt, Prompt, texts_of
from tidemill.encoding.tokenizer import Row, in_runs, pieces_of, tokens_around
from tidemill.errors import ModelError
from tidemill.fingerprints import fingerprint

if TYPE_CHECKING:
    from tokenizers import Encoding

_COLUMNS = pa.schema(
    [
        ("token_ids", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Made:
    """A row's prompt, by the names that the tokenizer knows, of which there are `num_control` of control tokens.

    `num_unread` counts tokens that are left out already.
    """

    prompt: Marked
    num_control: int
    is_chat: bool
    num_unread: int = 0


class PromptTokenizer:
    """A fast tokenizer of prompts. Threads may share it."""

    reads = ("text",)

    def __init__(self, fast: FastTokenizer, prompt: Prompt, *, folder: str | Path, long_text: LongText) -> None:
        """
        Raises:
            ModelError: a system prompt needs a chat template, and there is none, or it does not take one.
        """
        self.max_length = fast.max_length
        self._prompt, self._folder, self._whole = prompt, folder, fast.whole
        self._quarantine, self._left = long_text == "quarantine", fast.truncation_side == "left"
        self._before, self._after = tokens_around(fast.backend)
        words = [prompt.words, _template_of(fast.whole)] if self._may_be_chat else [prompt.words]
        facts = (fast.backend.to_str(), *words[1:], json.dumps(fast.whole.special_tokens_map, sort_keys=True))
        options = (fast.truncation_side, fast.max_length, long_text)
        self.fingerprint = fingerprint("prompts", *facts, *options, *prompt.facts)
        self._controls = ControlTokens(fast.backend, fast.whole.added_tokens_decoder, words="\n".join(words))
        if prompt.system_prompt is not None:
            self._chat.check([{"role": "system", "content": Marked("a")}, {"role": "user", "content": Marked("b")}])
        elif prompt.template is not None and (prompt.date is not None or prompt.thinking):
            raise ModelError(
                "model.options.date and thinking are told to a chat template, and a prompt of model.options.prompt "
                "goes through none. Set model.options.system_prompt, or remove them."
            )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        prompt: Prompt,
        max_length: int | Literal["auto"] = "auto",
        long_text: LongText = "truncate",
        model_max_length: int | None = None,
        usual_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """The tokenizer of a folder, for prompts of at most `max_length` tokens.

        Raises:
            ModelError: the folder yields no fast tokenizer, or none that fits the model, `max_length` and the prompt.
        """
        if long_text == "windows":
            raise ModelError(
                'tokenizer.long_text = "windows" cuts texts, and what a model writes follows a whole prompt. Set '
                'long_text to "truncate" or "quarantine".'
            )
        fast = open_fast(
            folder,
            max_length=max_length,
            model_max_length=model_max_length,
            usual_length=usual_length,
            trust_remote_code=trust_remote_code,
        )
        return cls(fast, prompt, folder=folder, long_text=long_text)

    @property
    def num_special_tokens(self) -> int:
        return 0 if self._prompt.system_prompt is not None else len(self._before) + len(self._after)

    def prepare(self, rows: pa.Table, *, on_progress: Callable[[int], None] = lambda num_rows: None) -> pa.Table:
        """The prompts' ids, how many a whole prompt has, whether it was shortened, and why a row has none."""
        tables = in_runs(rows["text"], lambda run: self._table(run.to_pylist()), on_progress)
        return pa.concat_tables(tables) if tables else _COLUMNS.empty_table()

    @property
    def _may_be_chat(self) -> bool:
        return self._prompt.system_prompt is not None or self._prompt.template is None

    @functools.cached_property
    def _chat(self) -> ChatTemplate:
        """Asked for when a row is a chat: a column may be of messages, and nobody knows before.

        Raises:
            ModelError: there is none, or it asks for a date that is not given.
        """
        return ChatTemplate.of(self._whole, self._folder, date=self._prompt.date, thinking=self._prompt.thinking)

    def _table(self, rows: Sequence[str | None]) -> pa.Table:
        made = [None if row is None else self._made(row) for row in rows]
        prompts = [each for each in made if isinstance(each, _Made)]
        encoded = self._encoded([each.prompt.text for each in prompts])
        ids = iter(zip(prompts, encoded, self._with_offsets(prompts, encoded), strict=True))
        found = [self._row(*next(ids)) if isinstance(each, _Made) else each or Row() for each in made]
        return pa.table(
            {
                "token_ids": pa.array([row.ids for row in found], pa.list_(pa.int32())),
                "num_tokens": pa.array([row.num_tokens for row in found], pa.int32()),
                "truncated": pa.array(
                    [None if row.ids is None else len(row.ids) < (row.num_tokens or 0) for row in found], pa.bool_()
                ),
                "reason": pa.array([row.reason for row in found], pa.string()),
            }
        )

    def _made(self, row: str) -> _Made | Row:
        num_unread = 0

        def head(text: str) -> str:
            nonlocal num_unread
            pieces = list(pieces_of(text))
            if len(pieces) < 2:
                return text
            # The last piece may be a short one.
            kept, unread = (pieces[-2:], pieces[:-2]) if self._left else (pieces[:1], pieces[1:])
            num_unread += sum(
                len(ids) for piece in unread for ids in self._encoded([piece]) if not isinstance(ids, str)
            )
            return "".join(kept)

        try:
            made = self._prompt.of_row(row, head)
            prompt = made if isinstance(made, Marked) else self._rendered(made)
        except NoPrompt as e:
            return Row(reason=str(e))
        return _Made(*self._controls.encoded_form(prompt), not isinstance(made, Marked), num_unread)

    def _rendered(self, messages: list[Message]) -> Marked:
        """
        Raises:
            NoPrompt: it has none, or a text of the row might become a control token in it.
        """
        self._refuse_roles(messages)
        try:
            prompt = self._chat.rendered(messages)
        except ModelError as e:  # Another row's prompt may be none of messages.
            raise NoPrompt(str(e)) from e
        if not prompt.text:
            raise NoPrompt("the prompt is empty")
        if prompt.spans is None:
            texts: list[str] = []
            texts_of(messages, lambda text: texts.append(text.text))
            token = next(filter(None, map(self._controls.first_in, texts)), None)
            if token is not None:
                raise NoPrompt(
                    f"the text holds the control token {token!r}, and the chat template changes the text, so that "
                    "nobody can tell one from the other"
                )
        return prompt

    def _refuse_roles(self, messages: Sequence[Message]) -> None:
        """What else a message says stands in the template's words, and must make no control token there."""
        for message in messages:
            for text in _strings(message):
                if token := self._controls.first_in(text):
                    raise NoPrompt(f"a message holds the control token {token!r} beside its content")
            role = message["role"]
            if role not in _ROLES and (not _is_word(role) or self._controls.is_within(role)):
                raise NoPrompt(f"a message has the role {role!r}, of which the template may make a control token")

    def _encoded(self, texts: list[str]) -> list[Sequence[int] | str]:
        """The ids of each text, or why it has none: one that fails takes no other with it."""
        try:
            return [each.ids for each in self._controls.backend.encode_batch_fast(texts, add_special_tokens=False)]
        except BaseException as e:
            if not isinstance(e, Exception) and not is_panic(e):
                raise
            if len(texts) == 1:
                return [f"cannot be tokenized: {e}"]
            return [self._encoded([text])[0] for text in texts]

    def _with_offsets(self, prompts: Sequence[_Made], encoded: Sequence[Sequence[int] | str]) -> list[Encoding | None]:
        """Of the prompts that are to be shortened; most are not, and offsets take their time."""
        long = [
            number
            for number, (made, ids) in enumerate(zip(prompts, encoded, strict=True))
            if not isinstance(ids, str) and self._surplus(made, ids) > 0 and not self._quarantine
        ]
        texts = [prompts[number].prompt.text for number in long]
        found: list[Encoding | None] = [None] * len(prompts)
        for number, encoding in zip(
            long, self._controls.backend.encode_batch(texts, add_special_tokens=False), strict=True
        ):
            found[number] = encoding
        return found

    def _around(self, made: _Made) -> tuple[list[int], list[int]]:
        return ([], []) if made.is_chat else (self._before, self._after)

    def _surplus(self, made: _Made, ids: Sequence[int]) -> int:
        """How many tokens a prompt has too many, less those that are left out already."""
        return sum(map(len, self._around(made))) + len(ids) - self.max_length

    def _row(self, made: _Made, ids: Sequence[int] | str, encoding: Encoding | None) -> Row:
        if isinstance(ids, str):
            return Row(reason=ids)
        if self._controls.num_control(ids) != made.num_control:
            return Row(
                reason="the text holds what the tokenizer writes as a control token, and has no other tokens for"
            )
        before, after = self._around(made)
        num_tokens = len(before) + len(ids) + len(after) + made.num_unread
        if not num_tokens:
            return Row(reason="cannot be tokenized: it has no tokens")
        if num_tokens > self.max_length and self._quarantine:
            return Row(num_tokens=num_tokens, reason=self._too_long(num_tokens))
        if encoding is not None:
            kept = _shortened(made.prompt, encoding, self._surplus(made, ids), left=self._left)
            if isinstance(kept, str):
                return Row(num_tokens=num_tokens, reason=f"{self._too_long(num_tokens)}, and {kept}")
            return Row([*before, *self._controls.restored(kept).tolist(), *after], num_tokens)
        return Row([*before, *self._controls.restored(ids).tolist(), *after], num_tokens)

    def _too_long(self, num_tokens: int) -> str:
        return f"{num_tokens} tokens exceed tokenizer.max_length {self.max_length}"


def _shortened(prompt: Marked, encoding: Encoding, surplus: int, *, left: bool) -> Ids | str:
    """The prompt's ids without so many of its row's texts, the longest of which lose theirs first; or why not."""
    if prompt.spans is None:
        return "the chat template changes the text, so that nobody can tell what of it is the text's"
    offsets_N2 = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    within = [
        np.flatnonzero((offsets_N2[:, 0] >= span.start) & (offsets_N2[:, 1] <= span.stop))
        for span in prompt.spans
        if span.may_go
    ]
    num_S = np.array([len(tokens) for tokens in within], dtype=np.int64)
    room = int(num_S.sum()) - surplus
    if room < max(1, int((num_S > 0).sum())):
        return f"{len(offsets_N2) - int(num_S.sum())} of them are none of the text that may be shortened"
    gone = [
        _cut(tokens, num_kept, offsets_N2, left=left)
        for tokens, num_kept in zip(within, level(num_S, room).tolist(), strict=True)
    ]
    return np.delete(np.array(encoding.ids, dtype=np.int32), np.concatenate(gone))


def level(num_S: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """How many tokens of each text are kept, so that they fill the room: a longer one loses first.

    >>> level(np.array([9, 2, 5]), 11).tolist()
    [5, 2, 4]
    """
    low, high = 0, int(num_S.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(num_S, middle).sum() <= room else (low, middle - 1)
    kept = np.minimum(num_S, low)
    kept[np.flatnonzero(num_S > low)[: room - int(kept.sum())]] += 1
    return kept


def _cut(tokens: NDArray[np.int64], num_kept: int, offsets_N2: NDArray[np.int64], *, left: bool) -> NDArray[np.int64]:
    """Which of a text's tokens go; of a character that has several, all or none."""
    if num_kept >= len(tokens):
        return tokens[:0]
    if left:
        at = len(tokens) - num_kept
        while at < len(tokens) and offsets_N2[tokens[at], 0] < offsets_N2[tokens[at - 1], 1]:
            at += 1
        return tokens[:at]
    at = num_kept
    while at > 0 and offsets_N2[tokens[at - 1], 1] > offsets_N2[tokens[at], 0]:
        at -= 1
    return tokens[at:]


_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "model"})
"""Those that templates know."""


def _is_word(role: str) -> bool:
    return bool(role) and all(letter.isalnum() or letter in " _-" for letter in role)


def _strings(value: Any) -> list[str]:
    """The texts in a message that are none of its content, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_strings(item))]
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


def _template_of(whole: Any) -> str:
    """The chat template; empty where there is none to choose."""
    try:
        found: str = whole.get_chat_template()
    except ValueError:
        return ""
    return found
