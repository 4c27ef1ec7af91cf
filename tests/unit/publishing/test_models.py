"""Models on the Hub: what is read back is the model that lay in the folder, and nothing else of it went there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.pipelines import MODEL
from tests.publications import commits_of, objects_sent, publish_model
from tidemill.errors import InputError, ModelError
from tidemill.publishing.repositories.card import metadata_of

CARD = "---\nlicense: mit\nbase_model: org/base\n---\n\n# A head\n\nTrained on reviews.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "head"
    shutil.copytree(MODEL, folder)
    (folder / "README.md").write_text(CARD)
    return folder


def answers(path: str | Path, **where) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, **where)
    tokenizer = AutoTokenizer.from_pretrained(path, **where)
    with torch.no_grad():
        return model(**tokenizer(["a good film", "a bad one"], return_tensors="pt", padding=True)).logits


def card_of(hub, to: str) -> str:
    return b"".join(hub.repos["models", to].at("main").files["README.md"].pieces(0, 10**6)).decode()


def test_the_model_that_is_read_back_answers_as_the_one_in_the_folder(hub, folder):
    hub.add_model("org/base").commit({"README.md": b"---\nlicense: apache-2.0\n---\n"})
    done = publish_model(folder, "org/head")

    with tempfile.TemporaryDirectory() as cache:
        assert torch.equal(answers("org/head", cache_dir=cache), answers(folder))
    assert (len(commits_of(hub, "models", "org/head")), done.facts["base_licence"]) == (1, "apache-2.0")
    assert metadata_of(card_of(hub, "org/head"))["license"] == "mit"
    assert "Trained on reviews." in card_of(hub, "org/head")


def test_publishing_a_model_twice_sends_nothing_and_changed_weights_are_sent_alone(hub, folder):
    publish_model(folder, "org/again")
    assert publish_model(folder, "org/again").state == "unchanged"
    hub.reset()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data += 1
    model.save_pretrained(folder)

    publish_model(folder, "org/again")

    assert objects_sent(hub) == 1
    assert len(commits_of(hub, "models", "org/again")) == 2


def test_a_card_that_people_edited_keeps_their_words_and_one_that_they_did_not_is_the_folders(hub, folder):
    publish_model(folder, "org/card")
    (folder / "README.md").write_text(CARD.replace("on reviews", "on more reviews"))
    publish_model(folder, "org/card")
    assert "Trained on more reviews." in card_of(hub, "org/card")
    edited = card_of(hub, "org/card").replace("# A head", "# Our head")
    hub.repos["models", "org/card"].commit({"README.md": edited.encode()}, message="by hand")
    (folder / "README.md").write_text(CARD.replace("on reviews", "on all reviews"))
    (folder / "NOTICE").write_text("new")

    publish_model(folder, "org/card")

    assert card_of(hub, "org/card") == edited


def test_a_card_that_was_there_before_stays(hub, folder):
    repo = hub.add_model("org/described")
    repo.private = True
    repo.commit({"README.md": b"# Ours\n\nBy hand.\n"})

    publish_model(folder, "org/described")

    assert "# Ours\n\nBy hand.\n" in card_of(hub, "org/described")
    assert publish_model(folder, "org/described").state == "unchanged"


def test_states_of_training_pickles_hidden_files_and_links_elsewhere_stay_here(hub, folder, tmp_path):
    (tmp_path / "secret.txt").write_text("mine")
    (folder / "elsewhere.txt").symlink_to(tmp_path / "secret.txt")
    for name in (
        "optimizer.pt",
        "checkpoint-3/model.safetensors",
        ".env.json",
        "training_args.bin",
        "trainer_state.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")

    done = publish_model(folder, "org/clean")

    there = set(hub.repos["models", "org/clean"].at("main").files) - {".gitattributes", "tidemill.json"}
    assert there == {path.name for path in MODEL.iterdir() if path.is_file()} | {"README.md"}
    assert done.facts["left_out"] == [
        "checkpoint-3/model.safetensors",
        "optimizer.pt",
        "trainer_state.json",
        "training_args.bin",
    ]


def test_what_is_no_models_folder_is_refused_before_anything_is_sent(hub, folder, tmp_path):
    with pytest.raises(ModelError, match="There is no folder"):
        publish_model(tmp_path / "absent", "org/none")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        publish_model(folder, "org/none")
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="is no JSON"):
        publish_model(folder, "org/none")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        publish_model(folder, "org/none")

    assert ("models", "org/none") not in hub.repos


def test_changed_weights_on_the_hub_are_not_written_over(hub, folder):
    publish_model(folder, "org/touched")
    hub.repos["models", "org/touched"].commit({"model.safetensors": b"other"}, message="by hand")

    with pytest.raises(InputError, match=r"model\.safetensors has another content"):
        publish_model(folder, "org/touched")
