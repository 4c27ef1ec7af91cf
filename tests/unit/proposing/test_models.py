"""Which model is proposed: of those that a Hub lists, or the one that is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hub.server import Failure, Faults, HubServer, files_in
from tests.pipelines import MODEL
from tidemill.errors import ConfigError, ModelError
from tidemill.proposing.models import check_model, propose_models

TASK = "text-classification"
CONFIG = json.loads((MODEL / "config.json").read_text())


@pytest.fixture
def empty_hub(hub: HubServer) -> Iterator[HubServer]:
    """A Hub without models: others' would be listed too."""
    before = dict(hub.repos)
    hub.repos.clear()
    yield hub
    hub.repos.clear()
    hub.repos.update(before)


def add(hub: HubServer, repo: str, *, downloads: int = 1, card: str = "", config: Any = None, **facts: Any) -> None:
    made = hub.add_model(repo)
    card = f"---\nlicense: apache-2.0\nlanguage: en\n{card}---\n" if "license" not in card else f"---\n{card}---\n"
    files: dict[str, Any] = {**files_in(MODEL), "README.md": card.encode()}
    made.commit(files | ({"config.json": json.dumps(CONFIG | config).encode()} if config else {}))
    made.info |= {"downloads": downloads, **facts}


def proposed(language: str | None = "en") -> list[str]:
    return [model.path for model in propose_models(TASK, language)]


def test_the_most_downloaded_model_of_the_language_comes_first_and_then_those_of_many(empty_hub):
    add(empty_hub, "org/english", downloads=10)
    add(empty_hub, "org/loved", downloads=90)
    add(empty_hub, "org/german", downloads=99, card="license: mit\nlanguage: [de, fr]\n")
    add(empty_hub, "org/many", downloads=95, card="license: mit\nlanguage: multilingual\n")
    assert proposed("en") == ["org/loved", "org/english", "org/many"]
    assert proposed("de") == ["org/german", "org/many"]
    assert proposed(None) == ["org/german", "org/many", "org/loved", "org/english"]


def test_a_model_is_told_by_size_licence_and_labels(empty_hub):
    add(empty_hub, "org/english")
    (model,) = propose_models(TASK, "en")
    assert (model.license, model.labels, model.is_local) == ("apache-2.0", ("NEGATIVE", "POSITIVE"), False)
    assert model.num_parameters == 1_100_738


@pytest.mark.parametrize(
    "how",
    [
        {"card": "license: cc-by-nc-4.0\nlanguage: en\n"},
        {"card": "tags: [cross-encoder]\n"},
        {"card": "tags: [custom_code]\n"},
        {"gated": True},
        {"config": {"architectures": ["BertForMaskedLM"]}},
        {"config": {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}},
        {"config": {"quantization_config": {"bits": 4}}},
    ],
)
def test_what_does_not_fit_is_not_proposed(empty_hub, how):
    add(empty_hub, "org/fits", downloads=1)
    add(empty_hub, "org/other", downloads=50, **{key: value for key, value in how.items() if key != "gated"})
    empty_hub.repos["models", "org/other"].gated = how.get("gated", False)
    assert proposed() == ["org/fits"]


def test_a_model_that_is_too_large_or_has_no_safetensors_is_not_proposed(empty_hub, monkeypatch):
    add(empty_hub, "org/fits", downloads=1)
    add(empty_hub, "org/large", downloads=50)
    add(empty_hub, "org/pickled", downloads=60)
    empty_hub.repos["models", "org/large"].info["safetensors"] = {"parameters": {"F32": 7e9}, "total": 7_000_000_000}
    empty_hub.repos["models", "org/pickled"].commit({"model.safetensors": None, "pytorch_model.bin": b"x"})
    monkeypatch.setattr("tidemill.proposing.models._has_gpu", lambda: False)
    assert proposed() == ["org/fits"]


def test_where_the_hub_does_not_answer_the_message_says_how_to_name_a_model(empty_hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*--model FOLDER"):
        proposed()


def test_a_hub_that_does_not_answer_soon_is_not_waited_for(empty_hub, monkeypatch):
    monkeypatch.setattr("tidemill.sources.hub.models.PROPOSAL_SECONDS", 0.01)
    empty_hub.faults = Faults(script=[Failure("/api/models", "stall", times=100)])
    with pytest.raises(ConfigError, match=r"did not answer within 0 s\. Give a model: --model FOLDER"):
        proposed()


def test_a_folder_is_asked_nothing_of_the_hub(empty_hub):
    model = check_model(str(MODEL), None)
    assert (model.task, model.labels, model.is_local) == (TASK, ("NEGATIVE", "POSITIVE"), True)
    assert empty_hub.log == []


def test_a_model_of_the_hub_is_checked_by_its_files_and_configuration(empty_hub):
    add(empty_hub, "org/english")
    add(empty_hub, "org/masked", config={"architectures": ["BertForMaskedLM"]})
    empty_hub.add_model("org/empty").commit({"config.json": b"{}"})
    assert check_model("org/english", TASK).labels == ("NEGATIVE", "POSITIVE")
    with pytest.raises(ModelError, match="BertForMaskedLM"):
        check_model("org/masked", None)
    with pytest.raises(ModelError, match="no weights in safetensors"):
        check_model("org/empty", None)
    empty_hub.add_model("org/weights").commit({"model.safetensors": (MODEL / "model.safetensors")})
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_model("org/weights", None)
    with pytest.raises(ModelError, match="does not exist"):
        check_model("org/none", None)


@pytest.mark.parametrize("path", ["./none", "/none", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(empty_hub, path):
    with pytest.raises(ModelError, match="There is no model folder"):
        check_model(path, None)
    assert empty_hub.log == []


def test_a_task_that_is_none_is_refused_by_the_nearest_name():
    with pytest.raises(ConfigError, match="text-classification"):
        check_model(str(MODEL), "text-clasification")
