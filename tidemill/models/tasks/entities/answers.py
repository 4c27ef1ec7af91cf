"""What is kept of a model's outputs for each token: its best label, or where a strategy asks for them all scores.

A shard has millions of tokens, and a model up to a hundred labels.

Shapes: B items, T tokens of the longest, N tokens of all, C labels.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidemill.encoding.batching import Indices

BEST = pa.struct([("label", pa.int16()), ("score", pa.float32())])
"""The index of the label, and its probability."""


def best_labels(logits_BTC: NDArray[np.float32], lengths: Indices) -> pa.ListArray:
    """A list of `BEST` for each item, one a token."""
    logits_NC, offsets = _of_tokens(logits_BTC, lengths)
    labels = logits_NC.argmax(axis=1)
    # The probability of the largest logit, whose exponential is 1 when it is subtracted from all.
    sums = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True)).sum(axis=1)
    values = [pa.array(labels.astype(np.int16)), pa.array((1 / sums).astype(np.float32))]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(values, fields=list(BEST)))


def all_scores(logits_BTC: NDArray[np.float32], lengths: Indices) -> pa.ListArray:
    """A list for each item of lists of probabilities, one a token."""
    logits_NC, offsets = _of_tokens(logits_BTC, lengths)
    exponentials_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    scores_NC = (exponentials_NC / exponentials_NC.sum(axis=1, keepdims=True)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(scores_NC.ravel()), scores_NC.shape[1])
    return pa.ListArray.from_arrays(offsets, vectors)


def drift(ours: pa.ListArray, theirs: pa.ListArray, is_shown: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How far scores of tokens differ in each item, in the mean over those that either gives a label that `is_shown`.

    A table shows many scores of a text, each by itself: one token between two labels says little of the others.
    """
    (our_labels, our_scores), (their_labels, their_scores) = _best(ours), _best(theirs)
    if pa.types.is_fixed_size_list(ours.type.value_type):
        differences = np.abs(_vectors(ours) - _vectors(theirs)).max(axis=1)
    else:
        # Where labels differ, no less than what one must have lost that the other has won.
        lost = np.where(our_labels == their_labels, 0, our_scores + their_scores - 1)
        differences = np.maximum(np.abs(our_scores - their_scores), lost)
    counts = is_shown[our_labels] | is_shown[their_labels]
    items = _items(ours)[counts]
    num_shown = np.maximum(np.bincount(items, minlength=len(ours)), 1)
    return np.asarray(np.bincount(items, differences[counts], len(ours)) / num_shown, dtype=np.float32)


def same(ours: pa.ListArray, theirs: pa.ListArray, is_shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all tokens of an item have the same labels, those that are not shown being one."""
    our_labels, their_labels = (np.where(is_shown[labels], labels, -1) for labels, _ in (_best(ours), _best(theirs)))
    return np.asarray(np.bincount(_items(ours)[our_labels != their_labels], minlength=len(ours)) == 0)


def _of_tokens(logits_BTC: NDArray[np.float32], lengths: Indices) -> tuple[NDArray[np.float32], pa.Array]:
    is_token_BT = np.arange(logits_BTC.shape[1]) < lengths[:, None]
    return logits_BTC[is_token_BT], pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _best(answers: pa.ListArray) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    if pa.types.is_fixed_size_list(answers.type.value_type):
        scores_NC = _vectors(answers)
        return scores_NC.argmax(axis=1), scores_NC.max(axis=1)
    best = answers.flatten()
    return best.field("label").to_numpy(zero_copy_only=False), best.field("score").to_numpy(zero_copy_only=False)


def _vectors(answers: pa.ListArray) -> NDArray[np.float32]:
    lists = answers.flatten()
    scores_NC: NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, lists.type.list_size)
    return scores_NC


def _items(answers: pa.ListArray) -> Indices:
    return np.repeat(np.arange(len(answers)), pc.list_value_length(answers).to_numpy(zero_copy_only=False))
