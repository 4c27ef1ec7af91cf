"""A training that finds no space: one message that names the folder, and a checkpoint from which it goes on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers

from tests.tiny_writers import write_words
from tests.trainings import labelled, training
from tidemill.errors import PlaceUnusable
from tidemill.training.run import train

MB = 2**20


def base_of_two_mb(folder: Path) -> Path:
    write_words(folder)
    config = transformers.BertConfig(
        vocab_size=400,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=64,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@contextmanager
def no_file_over(num_bytes: int) -> Iterator[None]:
    """The limit on a file's size fails a write in its middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("most", [pytest.param(MB, id="weights"), pytest.param(3 * MB, id="optimizer")])
def test_no_space_is_one_message_and_the_same_command_goes_on_once_there_is_some(tmp_path, most):
    file = training(tmp_path, labelled(24), base_of_two_mb(tmp_path / "base"))

    with no_file_over(most), pytest.raises(PlaceUnusable, match=r"File too large|No space left") as refused:
        train(file, tmp_path / "model")

    assert "-o" in str(refused.value)
    assert not (tmp_path / "model").exists()
    assert train(file, tmp_path / "model")["rows"]["train"] > 0
