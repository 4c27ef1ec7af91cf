"""A model's chat template: messages become one prompt, in which the places of their own texts are known.

Transformers renders it. Rendered once more with placeholders, which is kept for
messages of the same shape, it shows which words are the template's; held against
those, each text is found where the template left it, whole or trimmed.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tidemill.encoding.prompts.marked import Marked
from tidemill.encoding.prompts.prompt import Message, NoPrompt, day_of, texts_of
from tidemill.errors import ModelError, first_line

_MOST_KEPT = 512
_PLACEHOLDER = re.compile("\ue000text(\\d{1,9})\ue001")
_DATED = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_DATES = "dates_of_tidemill"
# Whitespace behind it stays, since the template's first line may begin with some.
_ASKS_DATES = f"{{%- macro strftime_now(format) -%}}{{{{- {_DATES}[format] -}}}}{{%- endmacro +%}}"

_Words = tuple[str, ...]
_Shape = tuple[_Words, tuple[int, ...]]
"""A template's words, and which text stands between each two of them."""


class ChatTemplate:
    """Threads may share it."""

    def __init__(self, tokenizer: Any, source: str, *, date: str | None, thinking: bool) -> None:
        """
        Raises:
            ModelError: it asks for a date, and none is given, or in a way that no date can answer.
        """
        self._tokenizer = tokenizer
        # Templates know it by either name; one that knows none leaves it alone.
        self._variables: dict[str, Any] = {"enable_thinking": thinking, "thinking": thinking}
        if "strftime_now" in source:
            self._variables[_DATES] = _dates(source, date)
            source = _ASKS_DATES + source
        elif date is not None:
            raise ModelError(
                f"model.options.date = \"{date}\" is for chat templates that ask for today's date, and this model's "
                "asks for none. Remove it."
            )
        self._source = source
        self._kept_shape = functools.lru_cache(_MOST_KEPT)(self._shape)

    @classmethod
    def of(cls, tokenizer: Any, folder: str | Path, *, date: str | None, thinking: bool) -> ChatTemplate:
        """
        Raises:
            ModelError: the tokenizer in the folder has none, or it asks for a date that is not given.
        """
        try:
            source: str = tokenizer.get_chat_template()
        except ValueError as e:
            raise ModelError(
                f"model.options.system_prompt and columns of messages need a chat template, and the tokenizer in "
                f"{folder} has none. Set model.path or tokenizer.path to a model that was trained on chats, or leave "
                "system_prompt out and write the whole prompt in model.options.prompt."
            ) from e
        return cls(tokenizer, source, date=date, thinking=thinking)

    def check(self, messages: Sequence[Message]) -> None:
        """
        Raises:
            ModelError: the template refuses messages that every row has.
        """
        try:
            self.rendered(messages)
        except NoPrompt as e:
            raise ModelError(
                f"The chat template cannot be used with model.options.system_prompt: {e}. Leave system_prompt out, and "
                "put what it says into model.options.prompt or the first message."
            ) from e

    def rendered(self, messages: Sequence[Message]) -> Marked:
        """The prompt that asks for the next message of the assistant.

        Raises:
            NoPrompt: the template refuses the messages.
        """
        texts: list[Marked] = []

        def plain(text: Marked) -> str:
            texts.append(text)
            return text.text

        prompt = self._render([texts_of(message, plain) for message in messages])
        shape = self._kept_shape(json.dumps(_with_placeholders(messages)))
        found = None if shape is None else _aligned(shape, texts, prompt)
        return Marked(prompt, None) if found is None else found

    def _render(self, messages: list[Any]) -> str:
        try:
            prompt: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self._source, add_generation_prompt=True, tokenize=False, **self._variables
            )
        except Exception as e:  # A template raises whatever it comes to.
            raise NoPrompt(f"the chat template refuses the messages: {first_line(e)}") from e
        return prompt

    def _shape(self, messages: str) -> _Shape | None:
        """Of messages in JSON with placeholders for their texts; None where the template takes none."""
        try:
            return _shape_of(self._render(json.loads(messages)))
        except NoPrompt:
            return None


def _with_placeholders(messages: Sequence[Message]) -> list[Any]:
    count = 0

    def placeholder(text: Marked) -> str:
        nonlocal count
        count += 1
        return f"\ue000text{count - 1}\ue001"

    return [texts_of(message, placeholder) for message in messages]


def _shape_of(prompt: str) -> _Shape:
    pieces = _PLACEHOLDER.split(prompt)
    return tuple(pieces[::2]), tuple(map(int, pieces[1::2]))


def _aligned(shape: _Shape, texts: Sequence[Marked], prompt: str) -> Marked | None:
    """The prompt with its texts found; None where it is not the template's words with texts between them."""
    words, places = shape
    if max(places, default=0) >= len(texts):
        return None  # A message has what looks like a placeholder beside its content.
    pieces: list[str | Marked] = [words[0]]
    at = len(words[0])
    for place, following in zip(places, words[1:], strict=True):
        found = _found(texts[place], prompt, at, following)
        if found is None:
            return None
        pieces += [found, following]
        at += len(found.text) + len(following)
    joined = Marked.joined(pieces)
    return joined if joined.text == prompt else None


def _found(text: Marked, prompt: str, at: int, following: str) -> Marked | None:
    """As much of the text as stands at a place of the prompt, with a template's words behind it."""
    for start, stop in _cuts(text.text):
        end = at + stop - start
        if prompt.startswith(following, end) and prompt[at:end] == text.text[start:stop]:
            return text.within(start, stop)
    # A template may take another part of a text, whose end is certain if the text has none of the words behind it.
    end = prompt.find(following, at) if following and following not in text.text else -1
    start = text.text.find(prompt[at:end]) if end >= 0 else -1
    return text.within(start, start + end - at) if start >= 0 else None


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    """The text as it is, and without the whitespace at its ends."""
    start, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    yield 0, len(text)
    if start >= stop:
        yield 0, 0
        return
    yield start, stop
    yield start, len(text)
    yield 0, stop


def _dates(source: str, date: str | None) -> dict[str, str]:
    """What a template is told for each way in which it asks for a date."""
    if date is None:
        raise ModelError(
            "The model's chat template asks for today's date, so that tomorrow's prompts would be others. Set "
            f'model.options.date to the date that it is told, such as "{datetime.date.today().isoformat()}".'
        )
    asked = [double or single for double, single in _DATED.findall(source)]
    if len(asked) < source.count("strftime_now("):
        raise ModelError(
            "The model's chat template asks for today's date in a form that it makes as it goes, which "
            "model.options.date cannot answer. Use a copy of the model with a template that names its formats."
        )
    day = day_of(date)
    return {form: day.strftime(form) for form in asked}
