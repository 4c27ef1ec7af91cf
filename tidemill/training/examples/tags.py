"""What is to be said of each token, of tags of words or of spans of a text.

A word's first token has its tag, and the others go on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tidemill.errors import ConfigError

OUTSIDE = "O"


class Marked(NamedTuple):
    """A text and the stretches of it that have a tag; `begins` is the tag of a stretch's first token."""

    text: str
    stretches: list[tuple[int, int, str, str]]
    """First character, the one behind the last, and the tags of the first token in it and of the others."""


def marked(text: str | Sequence[str], labels: Sequence[Any]) -> Marked:
    """Of a list of words and a list of their tags, or of a text and the spans in it that have a label.

    Raises:
        ConfigError: they do not go together.
    """
    return _of_spans(text, labels) if isinstance(text, str) else _of_words(text, labels)


def _of_words(words: Sequence[str], tags: Sequence[Any]) -> Marked:
    if len(words) != len(tags):
        raise ConfigError(
            f"A row has {len(words)} words and {len(tags)} tags. Give one tag a word in data.label: {OUTSIDE!r} where "
            "there is nothing to say."
        )
    stretches, start = [], 0
    for word, tag in zip(words, map(str, tags), strict=True):
        stretches.append((start, start + len(word), tag, f"I-{tag[2:]}" if tag.startswith("B-") else tag))
        start += len(word) + 1
    return Marked(" ".join(words), stretches)


def _of_spans(text: str, spans: Sequence[Any]) -> Marked:
    stretches = []
    for span in spans:
        if not isinstance(span, Mapping) or not {"start", "end", "label"} <= span.keys():
            raise ConfigError(
                "data.label of a text is a list of spans, objects of start, end and label; of a list of words it is a "
                f"list of tags. A row has {str(span)[:60]!r}."
            )
        if not 0 <= span["start"] < span["end"] <= len(text):
            raise ConfigError(
                f"A row has a span from {span['start']} to {span['end']} in a text of {len(text)} characters. Count "
                "characters from 0, `end` being the one behind the last."
            )
        stretches.append((span["start"], span["end"], f"B-{span['label']}", f"I-{span['label']}"))
    return Marked(text, sorted(stretches))


def tags_of_tokens(row: Marked, offsets: Sequence[tuple[int, int]]) -> list[str | None]:
    """A tag a token, by the characters that it stands for; null of a token that stands for none."""
    tags: list[str | None] = []
    begun: set[int] = set()
    for start, stop in offsets:
        if start == stop:
            tags.append(None)
            continue
        found = next((i for i, (first, last, *_) in enumerate(row.stretches) if start < last and first < stop), None)
        if found is None:
            tags.append(OUTSIDE)
        else:
            _, _, first_tag, later_tag = row.stretches[found]
            tags.append(later_tag if found in begun else first_tag)
            begun.add(found)
    return tags
