"""Rows without padding, on the CPU: what attention means there is written out, the GPU's kernels are not tested."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import transformers

from tests.checkpoints import TINY_SENTIMENT
from tests.unit.test_encoders import by_sequence, model_of
from tidemill.engines import encoders, packed
from tidemill.engines.packed import PackedEncoder

CPU = torch.device("cpu")


def rewritten(model):
    encoder = encoders.rewrite(model)
    assert encoder is not None
    return encoder.to(torch.bfloat16)


@pytest.fixture
def encoder():
    model = transformers.AutoModelForSequenceClassification.from_pretrained(TINY_SENTIMENT, dtype=torch.float32)
    return rewritten(model.eval())


def all_see_all(q, k, v, query_starts, key_starts, most_queries, most_keys, *, scale):
    """Attention that forgets where rows end."""
    ends = [0, len(q)], [0, len(k)]
    return by_sequence(q, k, v, *ends, len(q), len(k), scale=scale)


def answer(forward):
    with torch.inference_mode():
        return forward(torch.arange(7, 20), torch.tensor([0, 9, 13], dtype=torch.int32), longest=9)


def compiled_when_called(monkeypatch, compiled):
    """Compile at the first call; `compiled` takes what is compiled, and gives what torch.compile would."""
    monkeypatch.setattr(packed, "WORTH_COMPILING", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(torch, "compile", lambda forward, *, dynamic: compiled(forward))


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_answers_as_with_padding_is_used(family):
    forward = PackedEncoder(rewritten(model_of(family)), CPU, by_sequence)

    assert answer(forward).shape == (2, 3)


def test_attention_over_the_ends_of_rows_is_found_out(encoder):
    with pytest.raises(ArithmeticError, match="other answers"):
        PackedEncoder(encoder, CPU, all_see_all)


def test_it_is_compiled_once_that_is_worth_it(encoder, monkeypatch):
    compilations = []

    def compiled(forward):
        compilations.append(forward)
        return forward

    compiled_when_called(monkeypatch, compiled)
    forward = PackedEncoder(encoder, CPU, by_sequence)
    assert not forward.is_compiled

    first, second = answer(forward), answer(forward)

    assert (forward.is_compiled, len(compilations)) == (True, 1)
    assert torch.equal(first, second)


def raises(*_, **__):
    raise RuntimeError("no such shape")


def wrong(ids_N, starts, *, longest):
    return torch.ones(len(starts) - 1, 2)


@pytest.mark.parametrize("compiled", [raises, wrong])
def test_what_does_not_compile_runs_as_it_is(encoder, monkeypatch, compiled):
    expected = answer(PackedEncoder(encoder, CPU, by_sequence))
    compiled_when_called(monkeypatch, lambda _: compiled)
    forward = PackedEncoder(encoder, CPU, by_sequence)

    assert torch.equal(answer(forward), expected)
    assert not forward.is_compiled


def test_a_shape_that_makes_the_compiler_fail_later_costs_no_row(encoder, monkeypatch):
    expected = answer(PackedEncoder(encoder, CPU, by_sequence))
    compiled_when_called(
        monkeypatch,
        lambda plain: (
            lambda ids_N, starts, *, longest: raises() if longest == 9 else plain(ids_N, starts, longest=longest)
        ),
    )
    forward = PackedEncoder(encoder, CPU, by_sequence)

    assert torch.equal(answer(forward), expected)


def test_memory_that_ends_in_what_was_compiled_is_said(encoder, monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiled_when_called(monkeypatch, lambda _: out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        answer(PackedEncoder(encoder, CPU, by_sequence))
