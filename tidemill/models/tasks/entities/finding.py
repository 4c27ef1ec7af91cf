"""The entities of rows, from what a model says of their tokens: the whole way."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from tidemill.models.tasks.entities.grouping import OF_WORDS, Strategy, group, units_of
from tidemill.models.tasks.entities.tokens import Tokens, one_array
from tidemill.models.tasks.entities.words import Vocabulary

ENTITY = pa.struct(
    [
        ("entity", pa.string()),
        ("score", pa.float32()),
        ("word", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)


def find_entities(
    answers: pa.ListArray,
    prepared: pa.Table,
    vocabulary: Vocabulary,
    *,
    strategy: Strategy,
    labels: Sequence[str],
    ignored: Collection[str],
) -> pa.ListArray:
    """A list of `ENTITY` for each row, in the order of the text; null where a row has no answer.

    `answers` and `prepared` are as for `Tokens.of`, the texts with them in the column `text`.
    """
    tokens, texts = Tokens.of(answers, prepared), one_array(prepared["text"])
    begins_word = vocabulary.begin_words(tokens, texts) if strategy in OF_WORDS else tokens.are_first
    units = units_of(tokens.answers, strategy, begins_word)
    groups, names = group(units, tokens.are_first, strategy=strategy, labels=labels, ignored=ignored)
    words = (
        vocabulary.spelled(tokens, texts, groups.firsts)
        if strategy == "none"
        else vocabulary.written(tokens, texts, groups.firsts, groups.stops)
    )
    entities = pa.StructArray.from_arrays(
        [
            pa.array(names, pa.string()).take(pa.array(groups.names)),
            pa.array(groups.scores),
            pa.array(words, pa.string()),
            pa.array(tokens.starts[groups.firsts]),
            pa.array(tokens.ends[groups.stops - 1]),
        ],
        fields=list(ENTITY),
    )
    num_of_row = np.bincount(tokens.rows[groups.firsts], minlength=len(answers))
    offsets = pa.array(np.concatenate([[0], np.cumsum(num_of_row)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, entities, mask=answers.is_null())
