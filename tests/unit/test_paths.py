"""What a path in a pipeline file means, wherever it is read from; and what is never asked of the Hub."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.pipelines import MODEL
from tidemill.config import SETTLED, Pipeline, load_pipeline
from tidemill.errors import ConfigError, DatasetError, InputError, ModelError
from tidemill.flows.wanted import resolve
from tidemill.pipeline_file import lake_to_read, read_file
from tidemill.planning.plan import Plan, make_plan


def write(folder: Path, dataset: str, model: str = str(MODEL), more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "p.toml"
    file.write_text(f'name = "p"\n[dataset]\npath = "{dataset}"\ntext = "text"\n[model]\npath = "{model}"\n{more}')
    return file


def lay(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.csv").write_text("id,text\n1,good\n")
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current folder, in which everything that a pipeline file names is called the same and is something else."""
    folder = tmp_path / "elsewhere"
    lay(folder / "data")
    (folder / "data" / "a.csv").write_text("wrong\n")
    (folder / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def plan_of(pipeline: Pipeline) -> Plan:
    return make_plan(pipeline, None)[0]


@pytest.mark.parametrize("written", ["data", "data/*.csv", "./data/a.csv", "data/../data/a.csv", "../there/data/*"])
def test_a_relative_path_begins_at_the_files_folder_in_any_other(tmp_path, elsewhere, written):
    lay(tmp_path / "there" / "data")
    file = write(tmp_path / "there", written)
    plans = [plan_of(load_pipeline(name)) for name in (file, os.path.relpath(file))]
    assert {plan.files[0].file.path for plan in plans} == {"a.csv"}
    assert len({plan.revision for plan in plans}) == 1
    assert plans[0].files[0].file.url == f"{tmp_path}/there/data/a.csv" or ".." in written


def test_the_lake_and_the_store_begin_there_too_and_their_defaults_do_not(tmp_path, elsewhere, monkeypatch):
    monkeypatch.delenv("TIDEMILL_HOME", raising=False)
    named = '[lake]\ncatalog = "sqlite:in/lake.sqlite"\ndata = "../kept"\n[store]\npath = "store"\n'
    file = write(tmp_path / "there", "data/*.csv", more=named)
    pipeline, seen = load_pipeline(file), lake_to_read(read_file(file))
    assert seen is not None
    assert (pipeline.lake.catalog, pipeline.lake.data) == (seen.catalog, seen.data)
    assert pipeline.lake.catalog == f"sqlite:{tmp_path}/there/in/lake.sqlite"
    assert (pipeline.lake.data, pipeline.store.path) == (f"{tmp_path}/kept", f"{tmp_path}/there/store")
    default = load_pipeline(write(tmp_path / "other", "data/*.csv"))
    assert (default.lake.catalog, default.store.path) == ("sqlite:.tidemill/lake.sqlite", ".tidemill/store")


def test_a_lake_that_was_found_from_the_current_folder_is_not_made_anew_beside_the_file(tmp_path, elsewhere):
    (elsewhere / "lake.sqlite").touch()
    file = write(tmp_path / "there", "data", more='[lake]\ncatalog = "sqlite:lake.sqlite"\n')
    with pytest.raises(ConfigError, match=rf'set lake.catalog = "sqlite:{elsewhere}/lake.sqlite"'):
        load_pipeline(file)
    (tmp_path / "there" / "lake.sqlite").touch()
    assert load_pipeline(file).lake.catalog == f"sqlite:{tmp_path}/there/lake.sqlite"


@pytest.mark.parametrize("override", ["dataset.path=mine/*.csv", "dataset={path='mine/*.csv', text='text'}"])
def test_what_is_typed_begins_at_the_current_folder(tmp_path, elsewhere, override):
    file = write(tmp_path / "there", "data/*.csv", more='[store]\npath = "store"\n')
    pipeline = load_pipeline(file, [override, "lake.catalog=sqlite:lake.sqlite"])
    assert pipeline.dataset.path == f"{elsewhere}/mine/*.csv"
    assert pipeline.lake.catalog == f"sqlite:{elsewhere}/lake.sqlite"
    assert pipeline.store.path == f"{tmp_path}/there/store"


def test_a_pipeline_from_the_shell_itself_begins_at_the_current_folder(tmp_path, elsewhere):
    reading, writing = os.pipe()
    os.write(writing, write(tmp_path / "there", "data/*.csv").read_bytes())
    os.close(writing)
    assert load_pipeline(f"/dev/fd/{reading}").dataset.path == f"{elsewhere}/data/*.csv"


def test_a_file_in_shared_memory_lies_in_a_folder_as_any_other(tmp_path, elsewhere):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        pipeline = load_pipeline(write(Path(folder), "data/*.csv"))
    assert pipeline.dataset.path == f"{folder}/data/*.csv"


def test_one_word_that_is_nothing_here_is_an_id_on_the_hub_and_both_are_said(tmp_path, hub):
    with pytest.raises(DatasetError, match=r"reviews does not exist or is private\. Nothing of that name lies beside"):
        plan_of(load_pipeline(write(tmp_path, "reviews")))
    (tmp_path / "reviews").mkdir()
    assert load_pipeline(tmp_path / "p.toml").dataset.path == f"{tmp_path}/reviews"


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    pipeline = load_pipeline(write(tmp_path / "there", "~/data/*.csv", "~/model", '[store]\npath = "~/store"\n'))
    assert (pipeline.dataset.path, pipeline.model.path) == (f"{tmp_path}/me/data/*.csv", f"{tmp_path}/me/model")
    assert pipeline.store.path == f"{tmp_path}/me/store"


def test_dots_lead_where_the_system_leads_from_a_folder_that_is_a_link(tmp_path):
    lay(tmp_path / "real" / "data")
    file = write(tmp_path / "real" / "pipelines", "../data/*.csv")
    (tmp_path / "link").symlink_to(file.parent)
    assert load_pipeline(tmp_path / "link" / "p.toml").dataset.path == f"{tmp_path}/real/data/*.csv"


@pytest.mark.parametrize("folder", ["a[1]", "b*", "c?d", "[!e]"])
def test_only_what_is_written_is_a_pattern_and_not_what_the_folder_is_called(tmp_path, folder):
    plain, odd = (lay(tmp_path / name / "data") for name in ("plain", folder))
    plans = [plan_of(load_pipeline(write(data.parent, "data/*.csv"))) for data in (plain, odd)]
    assert [plan.files[0].file.url for plan in plans] == [f"{plain}/a.csv", f"{odd}/a.csv"]
    assert [plan.files[0].file.path for plan in plans] == ["a.csv", "a.csv"]
    assert plans[0].revision == plans[1].revision
    whole = load_pipeline(write(odd.parent, "data/a.csv"))
    assert plan_of(whole).files[0].file.path == "a.csv"


LOCAL = ["./x", "/x/y", "~/x", "a/b/c", "a/", "data/x", "x/*", "my data"]


@pytest.mark.parametrize("written", [*LOCAL, "x/y.csv", "reviews.parquet"])
def test_a_dataset_that_is_missing_is_not_looked_for_on_the_hub(tmp_path, hub, written):
    file = write(tmp_path, written)
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError, match=r"There is no file or folder /|matches no files") as refused:
        plan_of(load_pipeline(file))
    assert str(Path(load_pipeline(file).dataset.path)) in str(refused.value)
    assert ("is meant" in str(refused.value)) == (written == "data/x")
    assert "Relative paths in a pipeline file begin at its folder" in str(refused.value)
    assert hub.log == []


@pytest.mark.parametrize("written", LOCAL)
def test_a_model_that_is_missing_is_not_either(tmp_path, hub, written):
    lay(tmp_path / "data")
    with pytest.raises(ModelError, match="There is no model folder /"):
        plan_of(load_pipeline(write(tmp_path, "data", written)))
    assert hub.log == []


def test_where_a_path_could_be_either_both_are_named_with_the_way_to_each(tmp_path, hub):
    (tmp_path / "data").mkdir()
    file = write(tmp_path, "data/x", "data/model")
    with pytest.raises(ModelError, match=rf'{tmp_path}/data/model.* on the Hub is meant.*"hf://data/model"'):
        plan_of(load_pipeline(file))
    with pytest.raises(DatasetError, match=rf'{tmp_path}/data/x.* on the Hub is meant.*"hf://datasets/data/x"'):
        plan_of(load_pipeline(file, [f"model.path={MODEL}"]))


@pytest.mark.parametrize("written", ["org/model", "org/model-v1.5", "bert-base", "hf://org/model"])
def test_an_id_on_the_hub_stays_one_whatever_lies_in_the_current_folder(tmp_path, elsewhere, written):
    file = write(tmp_path / "there", "someone/reviews_2.0", written)
    pipeline = load_pipeline(file)
    assert (pipeline.dataset.path, pipeline.model.path) == ("someone/reviews_2.0", written.removeprefix("hf://"))
    deployed = resolve(pipeline)
    assert Pipeline.model_validate(deployed.model_dump(mode="json"), context=SETTLED) == deployed
    assert deployed.model.path == pipeline.model.path


def test_an_id_on_the_hub_is_chosen_beside_a_folder_of_its_name_by_its_address(tmp_path):
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert load_pipeline(write(tmp_path, "d", "org/model")).model.path == f"{tmp_path}/org/model"
    assert load_pipeline(write(tmp_path, "d", "hf://org/model")).model.path == "org/model"


def test_a_local_archive_behind_an_address_begins_there_too(tmp_path, elsewhere):
    pipeline = load_pipeline(write(tmp_path / "there", "zip://*.csv::all.zip"))
    assert pipeline.dataset.path == f"zip://*.csv::{tmp_path}/there/all.zip"


def test_a_pipeline_that_is_made_in_python_begins_at_the_current_folder(elsewhere):
    raw = {"name": "p", "dataset": {"path": "data", "text": "t"}, "model": {"path": "org/model"}}
    pipeline = Pipeline.model_validate(raw)
    assert (pipeline.dataset.path, pipeline.model.path) == (f"{elsewhere}/data", f"{elsewhere}/org/model")


def test_a_folder_without_a_model_says_so(tmp_path):
    lay(tmp_path / "data")
    with pytest.raises(InputError, match=rf"There is no config.json in {tmp_path}/data"):
        plan_of(load_pipeline(write(tmp_path, "data", "data")))
