"""Which columns of a result table are published: key, kept and the model task's; and what each of them means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tidemill.errors import ConfigError
from tidemill.publishing.licences import Origin
from tidemill.values.paths import steps_of

MEANINGS = {
    "label": "the model's best label",
    "score": "its score",
    "scores": "the score of each label",
    "embedding": "the text as a vector",
    "entities": "what the model found in the text, with its place there",
    "generated_text": "what the model wrote",
    "summary_text": "what the model wrote",
    "translation_text": "what the model wrote",
    "finish_reason": "why the model stopped writing",
    "num_prompt_tokens": "tokens that the model read",
    "num_new_tokens": "tokens that the model wrote",
    "num_windows": "in how many windows the text was read",
}


@dataclass(frozen=True)
class Column:
    name: str
    meaning: str
    is_text: bool = False
    """Whether it holds the text that the model read, or may."""


def table_columns(
    kept: Sequence[Mapping[str, str]], keys: Iterable[str], results: Iterable[str], texts: Iterable[str]
) -> list[Column]:
    """Those of a version's table. `texts` are the columns of the dataset that the model reads."""
    named, read = set(keys), {root for text in texts for root in _roots(text)}
    columns = [
        Column(
            column["name"],
            f"{'names the row: ' if column['source'] in named else ''}the dataset's column `{column['source']}`",
            not read.isdisjoint(_roots(column["source"])),
        )
        for column in kept
    ]
    return columns + [Column(name, MEANINGS.get(name, "the model's answer")) for name in results]


def _roots(name: str) -> set[str]:
    """A column's name, which may be a path within another one."""
    steps = steps_of(name)
    return {name, str(steps[0])} if steps else {name}


def query_columns(names: Sequence[str], types: Sequence[Any], known: Sequence[Column]) -> list[Column]:
    """Those of a query. One with a name of the table's is taken for that; others that hold strings may be text."""
    by_name = {column.name: column for column in known}
    return [
        by_name.get(name) or Column(name, "given by the query", "VARCHAR" in str(kind) or "JSON" in str(kind))
        for name, kind in zip(names, types, strict=True)
    ]


def allowed(columns: Sequence[Column], source: Origin, *, with_text: bool | None) -> list[Column]:
    """The columns that are published.

    Raises:
        ConfigError: one holds texts of a source that does not let them be handed on, and nobody said that it may.
    """
    texts = [column.name for column in columns if column.is_text]
    if with_text is False:
        return [column for column in columns if not column.is_text]
    if texts and with_text is None and (why := source.forbids_text):
        raise ConfigError(
            f"The dataset {source.name} {why}, and {', '.join(texts)} {'holds' if len(texts) == 1 else 'hold'} its "
            "texts, or may. Say --without-text to leave that out, or --with-text if you may hand it on."
        )
    return list(columns)


def readable_type(kind: pa.DataType) -> pa.DataType:
    """The type by which `datasets` reads a column: it knows no maps, so they are lists of their entries.

    >>> str(readable_type(pa.map_(pa.string(), pa.float32())))
    'list<item: struct<key: string, value: float>>'
    """
    is_type = pa.types
    if is_type.is_map(kind):
        return pa.list_(pa.struct([("key", readable_type(kind.key_type)), ("value", readable_type(kind.item_type))]))
    if is_type.is_struct(kind):
        return pa.struct([field.with_type(readable_type(field.type)) for field in kind])
    if is_type.is_fixed_size_list(kind):
        return pa.list_(readable_type(kind.value_type), kind.list_size)
    if is_type.is_list(kind):
        return pa.list_(readable_type(kind.value_type))
    return kind
