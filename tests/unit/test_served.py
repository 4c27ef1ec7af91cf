"""A pipeline whose model is behind a server: its name is all that is known of it here, and the Hub is not asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import Asked, ChatServer, Fails
from tests.commands import write_toml
from tests.pipelines import MODEL, make_pipeline
from tidemill.config import Pipeline, load_pipeline, with_overrides
from tidemill.diagnosis import pipeline as checks
from tidemill.diagnosis.server import server as server_check
from tidemill.errors import ConfigError
from tidemill.inference.opening import inference_of, load_runner
from tidemill.masking import shown_override
from tidemill.planning import versions
from tidemill.planning.versions import VersionSpec

KEY = "sk-very-secret-0123456789"


def served(path: str = "org/name", /, base_url: str = "http://127.0.0.1:9/v1", **sections: Any) -> Pipeline:
    raw: dict[str, Any] = {
        "name": "tones",
        "dataset": {"path": "rows/*.parquet", "text": "text"},
        "model": {"task": "text-generation", "path": path},
        "inference": {"engine": "endpoint", "endpoint": {"base_url": base_url}},
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section}
    return Pipeline.model_validate(raw)


def pipeline_file(folder: Path, name: str) -> Path:
    file = folder / "tones.toml"
    file.write_text(
        f"""
        name = "tones"
        dataset = {{ path = "rows.parquet", text = "text" }}
        model = {{ task = "text-generation", path = "{name}" }}
        inference = {{ engine = "endpoint", endpoint = {{ base_url = "http://127.0.0.1:9" }} }}
        """
    )
    return file


@pytest.mark.parametrize("name", ["org/name", "qwen3:8b", "gpt-4o", "/models/llama.gguf", "./llama.gguf", "~/a b"])
def test_a_served_models_name_stays_as_it_is_written(tmp_path, monkeypatch, name):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    pipeline = load_pipeline(pipeline_file(tmp_path, name))
    assert pipeline.model.path == name
    assert with_overrides(pipeline, ["name=others"]).model.path == name
    assert with_overrides(pipeline, [f"model.path={name}2"]).model.path == f"{name}2"
    assert served(name).model.path == name


@pytest.mark.parametrize("in_this_order", [True, False])
def test_overrides_may_turn_a_local_models_file_into_a_served_ones(tmp_path, in_this_order):
    file = write_toml(tmp_path, "rows.parquet")
    overrides = ["model.path=qwen3:8b", "inference.engine=endpoint", "inference.dtype=auto"]
    overrides += ["inference.token_budget=auto", "inference.endpoint.base_url=http://127.0.0.1:9"]
    pipeline = load_pipeline(file, overrides if in_this_order else overrides[::-1])
    assert pipeline.model.path == "qwen3:8b"


def test_the_version_is_of_the_name_and_not_of_the_address():
    spec = versions.declared(served())
    assert (spec.model, spec.tokenizer, spec.model_path) == ("served:org/name", "served:org/name", "org/name")
    assert VersionSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    elsewhere = served(inference={"endpoint": {"base_url": "https://host/v1", "api_key": "$KEY", "concurrency": 3}})
    assert versions.declared(elsewhere).version == spec.version
    assert versions.declared(served("org/other")).version != spec.version
    assert versions.declared(served(model={"options": {"stop": ["."]}})).version != spec.version


def test_no_folder_is_looked_for():
    spec = versions.declared(served())
    assert versions.configuration_folder(spec) is None
    assert versions.relocated(spec, served("org/other")) == spec
    assert versions.recognized(spec, [replace(spec, model=f"commit:{'0' * 40}"), spec]) == spec
    assert versions.result_schema(spec).names == ["text", "finish_reason", "num_prompt_tokens", "num_new_tokens"]
    assert not checks.needs_hub(served(dataset={"path": __file__}))


def test_a_task_that_no_server_does_is_refused():
    with pytest.raises(ConfigError, match=r'model\.task = "text-classification" has none'):
        versions.declared(served(model={"task": "text-classification"}))


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("model", {"revision": "v2"}),
        ("model", {"subfolder": "int8"}),
        ("model", {"pad_token_id": 0}),
        ("tokenizer", {"max_length": 100}),
        ("tokenizer", {"long_text": "quarantine"}),
        ("inference", {"dtype": "int8"}),
        ("inference", {"device": "cpu"}),
        ("inference", {"token_budget": 100}),
    ],
)
def test_options_of_models_that_are_computed_here_are_refused(tmp_path, section, options):
    (name, value), file = next(iter(options.items())), pipeline_file(tmp_path, "tiny")
    with pytest.raises(ConfigError, match=rf"{section}\.{name} counts for models that are computed here"):
        load_pipeline(file, {f"{section}.{name}": value})


def test_a_pipeline_that_is_written_out_with_its_defaults_is_read_again():
    raw = served().model_dump(mode="json")
    assert Pipeline.model_validate(raw) == served()


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "http://", f"https://ann:{KEY}@host/v1"])
def test_an_address_that_is_none_or_holds_a_password_is_refused(tmp_path, address):
    with pytest.raises(ConfigError, match=r"inference\.endpoint\.base_url") as told:
        load_pipeline(pipeline_file(tmp_path, "tiny"), {"inference.endpoint.base_url": address})
    assert KEY not in str(told.value)


def test_a_pipeline_whose_server_is_not_named_is_refused(tmp_path):
    file = write_toml(tmp_path, "rows.parquet")
    with pytest.raises(ConfigError, match="does not say which"):
        load_pipeline(file, ["inference.engine=endpoint"])


def test_a_key_in_the_file_is_refused_and_not_shown(tmp_path):
    with pytest.raises(ConfigError, match="names no variable of the environment") as told:
        load_pipeline(pipeline_file(tmp_path, "tiny"), [f"inference.endpoint.api_key={KEY}"])
    assert KEY not in str(told.value)
    assert KEY not in shown_override(f"inference.endpoint.api_key={KEY}")
    assert "$KEY" in repr(served(inference={"endpoint": {"api_key": "$KEY"}}))


def test_a_served_version_is_asked_for_also_when_the_file_names_another_engine(tmp_path):
    with ChatServer(models=("tiny",)) as server:
        spec = versions.declared(served("tiny"))
        here = make_pipeline(tmp_path, "rows", inference={"endpoint": {"base_url": server.url}})
        assert load_runner(spec, here.inference).resolved["served"]["id"] == "tiny"


def test_a_local_version_is_computed_here_also_when_the_file_names_a_server(tmp_path):
    spec = versions.declared(make_pipeline(tmp_path, "rows"))
    assert spec.model.startswith("sha256:")
    assert inference_of(spec, served(str(MODEL)).inference).engine == "auto"


def test_doctor_lets_the_server_write_a_token():
    with ChatServer(models=("tiny",)) as server:
        (found,) = server_check(served("tiny", server.url))
        assert found.state == "works"
        assert "serves tiny" in found.said
        assert server.asked[-1].body["max_tokens"] == 1


def test_doctor_takes_a_server_that_knows_messages_alone():
    def no_prompts(asked: Asked) -> Fails | None:
        return Fails(400, message="no such thing") if asked.path == "/v1/completions" else None

    with ChatServer(models=("tiny",), fails=no_prompts) as server:
        assert server_check(served("tiny", server.url))[0].state == "works"


def test_doctor_tells_of_a_server_without_the_model():
    with ChatServer(models=("tiny", "other")) as server:
        (found,) = server_check(served("small", server.url))
        assert (found.state, found.needed) == ("fails", True)
        assert "The model `small` does not exist" in found.said


def test_a_pipeline_with_a_server_has_a_check_of_it(tmp_path):
    assert [check.name for check in checks.checks(served())] == ["dataset", "model", "lake", "server"]
    assert [check.name for check in checks.checks(make_pipeline(tmp_path, "rows"))] == ["dataset", "model", "lake"]
