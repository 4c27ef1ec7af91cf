"""Tokens become words where the strategy asks for it, and what follows each other in one entity becomes one.

This is `TokenClassificationPipeline` of Transformers with arrays for loops: the
same groups, labels, scores and spans, by each of its strategies.

Shapes: N tokens, U units of one label each (tokens or words), E entities, C labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices
from tidemill.models.tasks.entities.schemes import Scheme

Strategy = Literal["none", "simple", "first", "average", "max"]
OF_WORDS = ("first", "average", "max")
"""Strategies by which all tokens of a word have one label."""


@dataclass(frozen=True)
class Units:
    """Tokens or words, each with its best label and that label's score; `firsts` are their first tokens."""

    firsts: Indices
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """Entities: the index of the name of each, its score, and its tokens from `firsts` to before `stops`."""

    names: Indices
    scores: NDArray[np.float32]
    firsts: Indices
    stops: Indices

    def filtered(self, keep: NDArray[np.bool_]) -> Groups:
        return Groups(self.names[keep], self.scores[keep], self.firsts[keep], self.stops[keep])


def units_of(answers: pa.Array, strategy: Strategy, begins_word: NDArray[np.bool_]) -> Units:
    """`answers` are the best label and its score for each token, or for `average` the scores of all labels.

    `begins_word` counts for strategies of words alone; the first token of a text begins one.
    """
    firsts = np.flatnonzero(begins_word)
    if strategy == "average":
        return _averaged(answers, firsts)
    labels = answers.field("label").to_numpy(zero_copy_only=False).astype(np.int64)
    scores = answers.field("score").to_numpy(zero_copy_only=False)
    if strategy not in OF_WORDS:
        return Units(np.arange(len(labels)), labels, scores)
    deciding = firsts if strategy == "first" else _surest(scores, firsts)
    return Units(firsts, labels[deciding], scores[deciding])


def _averaged(answers: pa.FixedSizeListArray, firsts: Indices) -> Units:
    scores_NC = answers.flatten().to_numpy(zero_copy_only=False).reshape(-1, answers.type.list_size)
    if not len(firsts):
        return Units(firsts, firsts, np.zeros(0, dtype=np.float32))
    counts_U = np.diff(firsts, append=len(scores_NC))
    means_UC = np.add.reduceat(scores_NC, firsts, axis=0) / counts_U[:, None].astype(np.float32)
    labels = means_UC.argmax(axis=1)
    return Units(firsts, labels, means_UC[np.arange(len(labels)), labels])


def _surest(scores: NDArray[np.float32], firsts: Indices) -> Indices:
    """The first of each word's tokens that has its largest score."""
    if not len(firsts):
        return firsts
    word_N = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(scores)))
    largest = np.flatnonzero(scores == np.maximum.reduceat(scores, firsts)[word_N])
    return np.asarray(largest[np.diff(word_N[largest], prepend=-1) != 0])


def group(
    units: Units,
    is_first: NDArray[np.bool_],
    *,
    strategy: Strategy,
    labels: Sequence[str],
    ignored: Collection[str],
) -> tuple[Groups, list[str]]:
    """The entities that are not ignored, and the names that they index. `is_first` says which tokens begin a text."""
    num_tokens = len(is_first)
    if strategy == "none":
        names = list(labels)
        groups = Groups(units.labels, units.scores, units.firsts, units.firsts + 1)
    else:
        scheme = Scheme.of(labels)
        names = scheme.names
        groups = _joined(units, scheme.starts(units.labels, is_first[units.firsts]), num_tokens)
    is_kept = np.array([name not in ignored for name in names], dtype=bool)
    return groups.filtered(is_kept[groups.names]), names


def _joined(units: Units, starts: NDArray[np.bool_], num_tokens: int) -> Groups:
    """The score of several units is their mean."""
    begins = np.flatnonzero(starts)
    if not len(begins):
        return Groups(begins, np.zeros(0, dtype=np.float32), begins, begins)
    counts = np.diff(begins, append=len(starts))
    means = np.add.reduceat(units.scores.astype(np.float64), begins) / counts
    firsts = units.firsts[begins]
    return Groups(units.labels[begins], means.astype(np.float32), firsts, np.append(firsts[1:], num_tokens))
