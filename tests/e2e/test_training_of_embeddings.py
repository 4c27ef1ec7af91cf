"""Trainings of tiny sentence embedders on real reviews: their batches, their methods, and the folder that is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from tests.embedders import save_embedder
from tests.trainings import labelled, training
from tests.variants import variants
from tidemill.errors import CostReached
from tidemill.training.run import train

TEXTS = labelled(60)["text"].to_pylist()
REVERSED = pa.table({"text": TEXTS, "other": [" ".join(reversed(text.split())) for text in TEXTS]})
OF_PAIRS: dict[str, Any] = {"task": "sentence-similarity", "data": {"text_pair": "other"}}


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))


def trained(folder: Path, rows: pa.Table, base: Path, /, **sections: Any) -> dict[str, Any]:
    return train(training(folder, rows, base, **{**OF_PAIRS, **sections}), folder / "model")


@pytest.mark.parametrize("negative", [False, True], ids=["pairs", "triplets"])
def test_texts_never_meet_their_own_second_text_of_another_row_in_a_batch(tmp_path, negative):
    """It would count as a wrong answer to the very same question."""
    from tidemill.training.examples.lesson import make_lesson
    from tidemill.training.examples.reading import read_examples
    from tidemill.training.given.base import find_base
    from tidemill.training.loop.fitting import _arguments
    from tidemill.training.loop.learner import Settings
    from tidemill.training.tasks.embeddings import EmbeddingLearner

    model = save_embedder(tmp_path / "base")
    rows = pa.table({"text": TEXTS, "other": [f"answer {i % 6}" for i in range(len(TEXTS))], "unlike": TEXTS[::-1]})
    data = {"text_pair": "other", **({"negative": "unlike"} if negative else {})}
    file = training(tmp_path, rows, model, task="sentence-similarity", data=data)
    found = find_base(file)
    lesson, _ = make_lesson(file, found, read_examples(file), tmp_path, drop_duplicates=False, tell=print)
    learner = EmbeddingLearner(lesson)
    learner.begin(0)
    settings = Settings.of(file.method, 0, {"batch_size": 6})

    trainer = learner.trainer(_arguments(learner, settings, tmp_path / "work", 0))
    batches = list(trainer.get_train_dataloader().batch_sampler)

    assert trainer.train_dataset.column_names == ["anchor", "positive", *(["negative"] if negative else [])]
    assert batches
    for batch in batches:
        answers = [(lesson.train.pairs or [])[row] for row in batch]
        assert len(answers) == len(set(answers))


def test_embeddings_are_learned_by_pairs_and_read_back_as_they_are(tmp_path):
    model = save_embedder(tmp_path / "base")

    report = trained(tmp_path, REVERSED, model, method={"epochs": 1})

    assert 0 <= report["baselines"]["base"]["accuracy"] <= 1
    assert {"accuracy", "mean_reciprocal_rank"} <= report["metrics"].keys()
    assert (tmp_path / "model" / "modules.json").exists()


@pytest.mark.slow
def test_embeddings_learned_by_lora_lie_in_a_plain_folder_with_their_dense_layer(tmp_path):
    model = save_embedder(tmp_path / "base", then=("Dense", "Normalize"))

    report = trained(tmp_path, REVERSED, model, method={"type": "lora", "epochs": 3, "learning_rate": 0.02})

    folder = tmp_path / "model"
    weights = [[load_file(part / "model.safetensors") for part in (at, at / "2_Dense")] for at in (model, folder)]
    for before, after in zip(*weights, strict=True):
        assert before.keys() == after.keys()
        assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(*(encoder["embeddings.word_embeddings.weight"] for encoder, _ in weights)), "no linear layer"
    assert not list(folder.rglob("adapter*")), "the matrices are merged"
    losses = [found["loss"] for found in report["trials"][0]["history"]]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", variants(["full", "lora"], ["full"]))
def test_embeddings_go_on_from_a_checkpoint_as_if_nothing_had_stopped_them(tmp_path, method):
    model = save_embedder(tmp_path / "base", then=("Dense", "Normalize"))
    sections: dict[str, Any] = {"method": {"type": method, "epochs": 2, "learning_rate": 0.01}, **OF_PAIRS}
    trained(tmp_path / "undisturbed", REVERSED, model, **sections)
    file = training(tmp_path / "stopped", REVERSED, model, cost={"per_hour": 3600.0, "max_cost": 1e-9}, **sections)

    with pytest.raises(CostReached):
        train(file, tmp_path / "stopped" / "model")
    train(file.model_copy(update={"cost": type(file.cost)()}), tmp_path / "stopped" / "model")

    for part in ("model.safetensors", "2_Dense/model.safetensors"):
        one, other = (load_file(tmp_path / name / "model" / part) for name in ("undisturbed", "stopped"))
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
