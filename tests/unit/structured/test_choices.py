"""Choices: whatever a model prefers, what it writes is one of them, by whatever kind of tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from tests.tiny_tokenizers import ALL, END, bytes_of_words, pieces, pieces_and_bytes
from tidemill.errors import ModelError
from tidemill.structured import check_choices
from tidemill.structured.choices import ChoiceMatcher, ChoiceMatchers

CHOICES = ["yes", "no", "no idea", "maybe"]
UNUSED = 7
"""Logits of the model behind the tokenizer's vocabulary."""


def opened(tokenizer, choices=CHOICES):
    return ChoiceMatchers.of(
        choices,
        tokenizer,
        end_ids=[tokenizer.token_to_id(END)],
        num_logits=tokenizer.get_vocab_size() + UNUSED,
    )


def written(matchers, scores) -> list[int]:
    """What is likeliest at each step, of what is allowed."""
    matcher = matchers.new()
    ids: list[int] = []
    while not matcher.is_finished:
        ids.append(int(np.where(matcher.allowed(), scores(ids), -np.inf).argmax()))
        matcher.accept(ids[-1])
    return ids


def read(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True).removeprefix(" ")


def leaves(matcher: ChoiceMatcher, ids: Sequence[int] = ()) -> Iterator[tuple[int, ...]]:
    if matcher.is_finished:
        yield tuple(ids)
        return
    for token_id in np.flatnonzero(matcher.allowed()).tolist():
        after = matcher.copy()
        after.accept(token_id)
        yield from leaves(after, (*ids, token_id))


@pytest.mark.parametrize("kind", ALL)
def test_every_way_through_the_masks_writes_a_choice_and_each_choice_has_one(kind):
    tokenizer = ALL[kind]()

    found = [read(tokenizer, ids) for ids in leaves(opened(tokenizer).new())]

    assert set(found) == set(CHOICES)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("wanted", CHOICES)
@pytest.mark.parametrize("behind", ["", "answer:", "answer\n"])
def test_the_choice_whose_tokens_score_best_as_a_whole_is_written(kind, wanted, behind):
    """The scores are those of a model that would write it as its tokenizer does behind a prompt."""
    tokenizer = ALL[kind]()
    prompt = tokenizer.encode(behind, add_special_tokens=False).ids
    text = f"{behind} {wanted}" if behind.endswith(":") else behind + wanted
    target = [*tokenizer.encode(text, add_special_tokens=False).ids[len(prompt) :], tokenizer.token_to_id(END)]
    matchers = opened(tokenizer)

    def scores(ids):
        of_V = np.zeros(matchers.num_logits)
        if list(ids) == target[: len(ids)] and len(ids) < len(target):
            of_V[target[len(ids)]] = 1.0
        return of_V

    assert read(tokenizer, written(matchers, scores)) == wanted


def test_where_one_choice_begins_another_the_end_token_decides():
    tokenizer = bytes_of_words()
    end, matcher = tokenizer.token_to_id(END), opened(tokenizer).new()
    for token_id in tokenizer.encode("no", add_special_tokens=False).ids:
        assert not matcher.allowed()[end]
        matcher.accept(token_id)

    assert matcher.allowed()[end]
    assert not matcher.is_finished
    matcher.accept(end)
    assert matcher.is_finished


def test_a_choice_that_cannot_go_on_needs_no_end_token():
    tokenizer = pieces_and_bytes()
    matcher = opened(tokenizer).new()
    for token_id in tokenizer.encode("yes", add_special_tokens=False).ids:
        matcher.accept(token_id)

    assert matcher.is_finished
    assert np.flatnonzero(matcher.allowed()).tolist() == [tokenizer.token_to_id(END)]


@pytest.mark.parametrize("kind", ["pieces and bytes", "pieces"])
def test_pieces_begin_a_choice_with_and_without_their_blank_and_never_with_two(kind):
    tokenizer = ALL[kind]()

    spelled = {
        "".join(str(tokenizer.id_to_token(token_id)) for token_id in ids)
        for ids in leaves(opened(tokenizer, ["yes", "maybe"]).new())
    }

    assert any(text.startswith("▁") for text in spelled)
    assert any(not text.startswith("▁") for text in spelled)
    assert not any(text.startswith("▁▁") for text in spelled)


def test_a_mask_covers_logits_that_no_token_has():
    tokenizer = pieces_and_bytes()
    matchers = opened(tokenizer)
    matcher, draw = matchers.new(), random.Random(0)
    while not matcher.is_finished:
        mask_V = matcher.allowed()
        assert mask_V.shape == (tokenizer.get_vocab_size() + UNUSED,)
        assert not mask_V[-UNUSED:].any()
        matcher.accept(draw.choice(np.flatnonzero(mask_V).tolist()))


def test_a_copy_goes_its_own_way():
    tokenizer = pieces_and_bytes()
    matcher = opened(tokenizer).new()
    other = matcher.copy()
    other.accept(other.allowed_ids[0])

    assert len(matcher.allowed_ids) > len(other.allowed_ids)


def test_a_choice_that_the_tokenizer_cannot_write_is_refused_by_name():
    with pytest.raises(ModelError, match="cannot write 'größer'"):
        opened(pieces(), ["yes", "größer"])


def test_no_choice_is_written_by_a_token_that_ends_an_answer():
    tokenizer = pieces_and_bytes()
    way, *_ = leaves(opened(tokenizer, ["yes"]).new())
    size = tokenizer.get_vocab_size()

    matchers = ChoiceMatchers.of(["yes"], tokenizer, end_ids=[way[0]], num_logits=size)

    assert not any(way[0] in ids for ids in leaves(matchers.new()))


def test_a_choice_that_loses_its_case_is_refused():
    with pytest.raises(ModelError, match="what it writes for that reads 'yes'"):
        opened(ALL["words"](), ["Yes"])


def test_a_choice_that_reads_as_a_control_token_is_refused():
    with pytest.raises(ModelError, match="cannot write '</s>'"):
        opened(pieces_and_bytes(), ["yes", END])


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ([], "is empty"),
        (["yes", ""], "holds an empty choice"),
        (["yes", " \n"], "holds an empty choice"),
        (["yes", "no", "yes"], "holds 'yes' more than once"),
        (["yes", " yes"], "holds 'yes' more than once"),
        (["yes", "no "], "holds 'no ', which begins or ends with a blank"),
    ],
)
def test_choices_that_answers_could_not_be_told_by_are_refused(choices, why):
    with pytest.raises(ValueError, match=why):
        check_choices(choices)
