from __future__ import annotations

import doctest
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.encoding import batching
from tidemill.encoding.batching import EQUAL_LENGTHS, ONE_ROW, plan_batches, rounded
from tidemill.errors import InputError, SequenceTooLong

lengths = st.lists(st.integers(0, 60), max_size=200)
budgets = st.integers(60, 400)


@given(lengths, budgets)
def test_every_sequence_is_in_exactly_one_batch(lengths, token_budget):
    batches = plan_batches(lengths, token_budget=token_budget)

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@given(lengths, budgets)
def test_the_padded_size_of_a_batch_fits_the_budget(lengths, token_budget):
    for batch in plan_batches(lengths, token_budget=token_budget):
        assert len(batch) * max(lengths[i] for i in batch) <= token_budget


@given(lengths, budgets)
def test_a_batch_is_closed_only_when_the_next_sequence_does_not_fit(lengths, token_budget):
    batches = plan_batches(lengths, token_budget=token_budget)

    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(1, lengths[batch[0]]) > token_budget


@given(lengths, budgets)
def test_longest_come_first_and_equal_lengths_keep_their_order(lengths, token_budget):
    planned = [int(i) for batch in plan_batches(lengths, token_budget=token_budget) for i in batch]

    assert planned == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@given(lengths, budgets)
def test_rows_of_equal_length_are_together_as_far_as_the_budget_goes(lengths, token_budget):
    batches = plan_batches(lengths, token_budget=token_budget, company=EQUAL_LENGTHS)

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len({lengths[i] for i in batch}) == 1 for batch in batches)
    for batch, following in pairwise(batches):
        is_full = (len(batch) + 1) * max(1, lengths[batch[0]]) > token_budget
        assert len(batch) * lengths[batch[0]] <= token_budget
        assert is_full or lengths[following[0]] < lengths[batch[0]]


@given(lengths, budgets)
def test_one_by_one_the_longest_still_come_first(lengths, token_budget):
    batches = plan_batches(lengths, token_budget=token_budget, company=ONE_ROW)

    assert [batch.tolist() for batch in batches] == [
        [i] for i in sorted(range(len(lengths)), key=lambda i: -lengths[i])
    ]


def test_a_sequence_longer_than_the_budget_is_refused_with_both_options_named():
    with pytest.raises(SequenceTooLong) as caught:
        plan_batches([3, 600], token_budget=512)

    assert str(caught.value) == (
        "A sequence of 600 tokens does not fit a token budget of 512. "
        "Raise inference.token_budget to at least 600, or lower tokenizer.max_length to 512."
    )
    assert isinstance(caught.value, InputError)


def test_the_refusal_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(SequenceTooLong(num_tokens=600, token_budget=512)))

    assert (error.num_tokens, error.token_budget) == (600, 512)


def test_the_docstring_example_holds():
    assert doctest.testmod(batching).failed == 0


def test_rounding_adds_less_than_a_32nd_and_leaves_few_different_lengths():
    lengths = np.arange(1, 4_097)

    padded = rounded(lengths)

    assert (padded >= lengths).all()
    assert (padded < lengths * (1 + 1 / 32) + 1e-9).all()
    assert len(np.unique(padded)) <= 32 * 8 + 1
    assert (rounded(padded) == padded).all()
