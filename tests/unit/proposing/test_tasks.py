"""Which model task is proposed: the one that a model's configuration fits, with what the user says of it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import save_checkpoint
from tests.embedders import save_embedder, save_encoder
from tests.hub.server import HubServer, files_in
from tests.pipelines import MODEL, reviews, write_parquet
from tests.token_classifiers import save_token_classifier
from tidemill.errors import ConfigError, ModelError
from tidemill.proposing.models import check_model, propose_models
from tidemill.proposing.proposal import check_proposal, propose
from tidemill.proposing.writing import pipeline_file, why_model

CARD = "---\nlicense: apache-2.0\nlanguage: en\ntags: [sentence-transformers]\npipeline_tag: {}\n---\n"


@pytest.fixture
def empty_hub(hub: HubServer) -> Iterator[HubServer]:
    before = dict(hub.repos)
    hub.repos.clear()
    yield hub
    hub.repos.clear()
    hub.repos.update(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "notes.parquet", reviews(0, 20))


def written(source: Path, folder: Path, **asked: Any) -> dict[str, Any]:
    """The pipeline file that is written, as a run reads it."""
    proposal = propose(str(source), name="notes", **{"model": str(folder), "task": None, **asked})
    text = pipeline_file(proposal, source.parent)
    check_proposal(proposal, text)
    return tomllib.loads(text)


def test_a_classifier_is_one_of_texts_though_it_could_rank_or_infer(tmp_path):
    for head in ("two labels", "regression"):
        assert check_model(str(save_checkpoint(tmp_path / head, "bert", head)), None).task == "text-classification"


def test_a_token_classifier_finds_entities(tmp_path, source):
    folder = save_token_classifier(tmp_path / "model", "bert")
    found = check_model(str(folder), None)

    assert (found.task, found.results) == ("token-classification", ("entities", "num_windows"))
    assert "labels: " in why_model(propose(str(source), name="notes", model=str(folder), task=None))
    assert written(source, folder)["model"]["task"] == "token-classification"


def test_a_folder_of_sentence_transformers_gives_vectors_and_has_no_labels(tmp_path, source):
    folder = save_embedder(tmp_path / "model")
    found = check_model(str(folder), None)

    assert (found.task, found.labels) == ("sentence-similarity", ())
    assert why_model(propose(str(source), name="notes", model=str(folder), task=None)) == "gives embedding"
    assert written(source, folder)["model"]["task"] == "sentence-similarity"


def test_a_bare_encoder_is_no_model_of_a_task_until_its_pooling_is_said(tmp_path, source):
    folder = save_encoder(tmp_path / "model", "bert")
    with pytest.raises(ModelError, match=r"is BertModel, and no model task takes it as it is\. .*--task"):
        check_model(str(folder), None)
    with pytest.raises(ModelError, match=r"needs model\.options\.pooling"):
        check_model(str(folder), "feature-extraction")

    for task in ("feature-extraction", None):
        raw = written(source, folder, task=task, options={"pooling": "mean", "truncate_dim": 16, "normalize": True})
        assert raw["model"]["task"] == "feature-extraction"
        assert raw["model"]["options"] == {"pooling": "mean", "truncate_dim": 16, "normalize": True}


def test_labels_of_ones_own_are_said_by_options(tmp_path, source):
    folder = save_checkpoint(tmp_path / "model", "bert", "two labels")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "entailment", "1": "contradiction"}
    (folder / "config.json").write_text(json.dumps(config))
    task, labels = "zero-shot-classification", ["sport", 'a "quoted" one']
    with pytest.raises(ConfigError, match="candidate_labels"):
        check_model(str(folder), task)
    with pytest.raises(ConfigError, match=r"candidate_label is no option.*candidate_labels"):
        check_model(str(folder), task, {"candidate_label": labels})

    raw = written(source, folder, task=task, options={"candidate_labels": labels})

    assert raw["model"]["options"] == {"candidate_labels": labels}


def test_a_column_that_is_called_as_a_result_gets_another_name(tmp_path):
    rows = reviews(0, 20)
    rows = rows.append_column("entities", rows["rating"]).append_column("label", rows["rating"])
    source = write_parquet(tmp_path / "notes.parquet", rows)
    folder = save_token_classifier(tmp_path / "model", "bert")

    kept = written(source, folder)["dataset"]["keep"]

    assert "entities as source_entities" in kept
    assert "label" in kept
    assert "label as true_label" in written(source, MODEL)["dataset"]["keep"]


def test_a_model_of_the_hub_is_proposed_for_the_task_that_is_asked_for(empty_hub, tmp_path):
    """One that was made for something else is proposed for that alone."""
    files = files_in(save_embedder(tmp_path / "embedder"))
    empty_hub.add_model("org/embedder").commit({**files, "README.md": CARD.format("sentence-similarity").encode()})
    ranker = {**files_in(MODEL), "README.md": CARD.format("text-classification").encode()}
    empty_hub.add_model("org/ranker").commit(ranker)

    assert check_model("org/embedder", None).task == "sentence-similarity"
    assert [model.path for model in propose_models("sentence-similarity", "en")] == ["org/embedder"]
    assert list(propose_models("text-classification", "en")) == []
    with pytest.raises(ConfigError, match="candidate_labels"):
        list(propose_models("zero-shot-classification", "en"))
