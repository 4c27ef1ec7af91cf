"""Each architecture is answered as `transformers.pipeline` does, whatever else is in a batch, or refused."""

from __future__ import annotations

import pytest

from tests.architectures import NAMES, asked, documented

QUICK = ("big_bird", "deberta-v2", "mistral4", "reformer")
"""One of each kind: an encoder with a decoder, sparse attention that a short text ends, one whose answers depend on
padding, one that knows distances alone, experts, hashed attention."""


@pytest.mark.parametrize("name", QUICK)
def test_an_architecture_is_answered_as_the_pipeline_does(tmp_path, name):
    verdict = asked(name, tmp_path)

    assert verdict.outcome == "right", verdict


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_every_architecture_comes_to_what_the_page_says_and_none_is_wrong(tmp_path, name):
    verdict = asked(name, tmp_path)

    assert verdict.outcome != "wrong", verdict
    assert verdict.outcome == documented().get(name, verdict.outcome), verdict
