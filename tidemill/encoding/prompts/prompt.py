"""How a row's columns become a prompt, or the messages of a chat.

A row comes as the JSON of its columns' values, in the order of dataset.text: each a
string, or a list of messages. A template's fields are filled once: braces in a row's
text are text.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tidemill.encoding.prompts.marked import Marked
from tidemill.errors import ConfigError
from tidemill.values.paths import steps_of

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

Message = dict[str, Any]
"""One of a chat: `role` and `content`, whose texts are marked, and whatever else a template reads."""


class NoPrompt(Exception):
    """Why a row has none: it is quarantined with that."""


@dataclass(frozen=True)
class Prompt:
    """How a row's columns become a prompt.

    Raises:
        ConfigError: the template names a column that there is not, or none at all; or the date is none.
    """

    template: str | None = None
    """With fields in braces, which name columns; doubled braces are braces."""
    columns: tuple[str, ...] = ()
    """dataset.text."""
    system_prompt: str | None = None
    """Given: a prompt becomes the user's message behind it, through the chat template."""
    date: str | None = None
    """What a chat template is told that asks for today's, as YYYY-MM-DD."""
    thinking: bool = False
    prefix: str = ""
    """Stands before every prompt, and is none of a row's text."""
    separator: str = "\n"
    """Between the columns where no template says how they follow each other."""
    _pieces: tuple[str | int, ...] = field(init=False, repr=False, compare=False)
    """The template's words, and the numbers of the columns between them."""

    def __post_init__(self) -> None:
        if self.date is not None:
            day_of(self.date)
        made = _pieces(self.template, self.columns) if self.template is not None else _joined(self)
        object.__setattr__(self, "_pieces", (self.prefix, *made) if self.prefix else made)

    @property
    def reads_parts(self) -> bool:
        """Rows come as the JSON of their columns' values, since a column alone may be of messages."""
        return True

    @property
    def facts(self) -> tuple[object, ...]:
        """All that decides what becomes of a row."""
        return self.template, self.columns, self.system_prompt, self.date, self.thinking, self.prefix, self.separator

    @property
    def words(self) -> str:
        """What stands in every prompt, whatever the row."""
        return "\n".join([*(piece for piece in self._pieces if isinstance(piece, str)), self.system_prompt or ""])

    def of_row(self, row: str, head: Callable[[str], str] = lambda text: text) -> Marked | list[Message]:
        """The prompt of a row, or its messages; `head` is of each text what is read.

        Raises:
            NoPrompt: the row has none.
        """
        values = orjson.loads(row)
        if len(values) == 1 and self.template is None and isinstance(values[0], list):
            return self._chat(values[0], head)
        prompt = self._filled(values, head)
        if not prompt.text:
            raise NoPrompt("the prompt is empty")
        if self.system_prompt is None:
            return prompt
        return [self._system, {"role": "user", "content": prompt}]

    @property
    def _system(self) -> Message:
        return {"role": "system", "content": Marked(self.system_prompt or "")}

    def _filled(self, values: Sequence[Any], head: Callable[[str], str]) -> Marked:
        for name, value in zip(self.columns, values, strict=True):
            if value is None:
                raise NoPrompt(f"{name} is null")
            if not isinstance(value, str):
                raise NoPrompt(
                    f"{name} is a list, and stands in a prompt as text: dataset.text can name one of its texts"
                )
        texts = [Marked.of_row(head(value)) for value in values]
        return Marked.joined(piece if isinstance(piece, str) else texts[piece] for piece in self._pieces)

    def _chat(self, values: list[Any], head: Callable[[str], str]) -> list[Message]:
        """A row's messages, behind the system prompt unless they begin with a system message of their own.

        Of a chat that is too long the last message of the user is shortened.
        """
        name = self.columns[0] if self.columns else "messages"
        if not values:
            raise NoPrompt(f"{name} has no messages")
        messages = [_message(value, f"{name}[{place}]", head) for place, value in enumerate(values)]
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
        messages = [m if place == last else _kept_whole(m) for place, m in enumerate(messages)]
        has_system = messages[0]["role"] in ("system", "developer")
        return messages if has_system or self.system_prompt is None else [self._system, *messages]


def day_of(date: str) -> datetime.datetime:
    """
    Raises:
        ConfigError: it is no date.
    """
    try:
        return datetime.datetime.fromisoformat(date)
    except ValueError as e:
        raise ConfigError(f'model.options.date = "{date}" is no date. Write one as "2026-01-31".') from e


def _message(value: Any, place: str, head: Callable[[str], str]) -> Message:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise NoPrompt(f"{place} is no message: it has no role")
    given = {key: item for key, item in value.items() if item is not None}
    content = given.get("content")
    if isinstance(content, str):
        return {**given, "content": Marked.of_row(head(content))}
    if isinstance(content, list) and all(isinstance(block, dict) for block in content):
        return {**given, "content": [_block(block, head) for block in content]}
    if content is None and len(given) > 1:  # as of an assistant that calls a tool
        return given
    raise NoPrompt(f"{place} has no content")


def _block(block: Mapping[str, Any], head: Callable[[str], str]) -> dict[str, Any]:
    """A part of a message; its text is the row's."""
    given = {key: item for key, item in block.items() if item is not None}
    return {**given, "text": Marked.of_row(head(given["text"]))} if isinstance(given.get("text"), str) else given


def _kept_whole(message: Message) -> Message:
    whole: Message = texts_of(message, Marked.kept_whole)
    return whole


def texts_of(value: Any, made: Callable[[Marked], Any]) -> Any:
    """A message, or a list of them, with `made` of each marked text in it."""
    if isinstance(value, Marked):
        return made(value)
    if isinstance(value, dict):
        return {key: texts_of(item, made) for key, item in value.items()}
    return [texts_of(item, made) for item in value] if isinstance(value, list) else value


def _joined(prompt: Prompt) -> tuple[str | int, ...]:
    places = range(max(1, len(prompt.columns)))
    return tuple(piece for place in places for piece in ((prompt.separator, place) if place else (place,)))


def _pieces(template: str, columns: Sequence[str]) -> tuple[str | int, ...]:
    pieces: list[str | int] = []
    at = 0
    for found in _FIELD.finditer(template):
        pieces.append(template[at : found.start()])
        pieces.append(_piece(found, columns))
        at = found.end()
    pieces.append(template[at:])
    if not any(isinstance(piece, int) for piece in pieces):
        raise ConfigError(
            f"model.options.prompt = {_shown(template)} has no field, so every row would have the same prompt. Name a "
            f"column of dataset.text in it, as {{{_last_name(columns[0]) if columns else 'text'}}}."
        )
    return tuple(piece for piece in pieces if piece != "")


def _piece(found: re.Match[str], columns: Sequence[str]) -> str | int:
    if found[0] in ("{{", "}}"):
        return found[0][0]
    if found[1] is None:
        raise ConfigError(
            f"model.options.prompt has a single {found[0]!r} at character {found.start()}. Braces enclose the name of "
            f"a column; write {2 * found[0]} for the character itself."
        )
    return _column(found[1], columns)


def _column(name: str, columns: Sequence[str]) -> int:
    """Which column a field means: by its name, or by the last of a path within nested columns."""
    if name in columns:
        return columns.index(name)
    last_names = [_last_name(column) for column in columns]
    if last_names.count(name) == 1:
        return last_names.index(name)
    if name in last_names:
        meant = " and ".join(column for column, last in zip(columns, last_names, strict=True) if last == name)
        raise ConfigError(f"model.options.prompt has {{{name}}}, which is the end of {meant}. Write the whole path.")
    known = [*dict.fromkeys([*columns, *last_names])]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {{{near[0]}}}?" if near else f"It has: {', '.join(columns) or 'none'}."
    raise ConfigError(
        f"model.options.prompt has {{{_shown(name)[1:-1]}}}, and dataset.text has no such column. {hint} Name every "
        "column of the prompt in dataset.text, and write {{ and }} for braces."
    )


def _last_name(column: str) -> str:
    steps = steps_of(column) or (column,)
    return next((step for step in reversed(steps) if isinstance(step, str)), column)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
