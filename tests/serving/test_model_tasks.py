"""Each model task answers through /predict as the table does, and takes its options in a request."""

from __future__ import annotations

import functools

import pyarrow as pa
import pytest
import torch
import transformers

from tests.checkpoints import save_checkpoint
from tests.nli import save_nli
from tests.pair_models import save_pair_model
from tests.pipelines import make_pipeline, reviews, run, table_of, write_parquet
from tests.services import serving
from tests.token_classifiers import save_token_classifier

NUM_ROWS = 6
TEXTS = reviews(0, NUM_ROWS)["text"].to_pylist()
LONG = [" ".join(TEXTS[: 1 + row]) * 3 for row in range(NUM_ROWS)]
OTHER_LABELS = {"candidate_labels": ["war", "love"], "hypothesis_template": "This is {}.", "multi_label": True}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """A pipeline of each kind, which ran."""
    folder = tmp_path_factory.mktemp("model-tasks")
    rows = pa.table({"id": range(NUM_ROWS), "text": TEXTS, "other": TEXTS[::-1], "long": LONG})
    write_parquet(folder / "data" / "0.parquet", rows)

    def made(name, task, path, *, text="text", **sections):
        model = {"task": task, "path": str(path), **sections.pop("model", {})}
        dataset = {"text": text, "keep": [], **sections.pop("dataset", {})}
        found = make_pipeline(folder, f"{folder}/data/*", name=name, model=model, dataset=dataset, **sections)
        run(found)
        return found

    labels = {"options": {"candidate_labels": ["comedy", "drama"]}}
    windows = {"long_text": "windows", "overlap": 9}
    return {
        "shots": made("shots", "zero-shot-classification", save_nli(folder / "nli", "bert"), model=labels),
        "names": made("names", "token-classification", save_token_classifier(folder / "names-model", "bert")),
        "pairs": made(
            "pairs", "text-classification", save_pair_model(folder / "pair", "bert", "five labels"),
            dataset={"text_pair": "other"},
        ),
        "windows": made(
            "windows", "text-classification", save_checkpoint(folder / "single", "bert", "five labels"), text="long",
            tokenizer=windows,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def all_served(pipelines):
    with serving(*pipelines.values()) as found:
        yield found


@functools.cache
def opened(task, folder):
    return transformers.pipeline(task, model=folder, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("name", ["shots", "names", "pairs", "windows"])
def test_each_model_task_answers_as_its_table_does(all_served, pipelines, name):
    inputs = {"pairs": [{"text": one, "text_pair": other} for one, other in zip(TEXTS, TEXTS[::-1], strict=True)]}
    table = table_of(pipelines[name])

    found = all_served.predict(inputs.get(name, LONG if name == "windows" else TEXTS), pipeline=name)

    for (_, place), row in table.items():
        answer = found[place]
        assert answer.keys() <= row.keys()
        assert flat(answer) == pytest.approx(flat({column: row[column] for column in answer}), abs=1e-4)
    if name == "windows":
        assert max(answer["num_windows"] for answer in found) > 1


def flat(value, place=""):
    """place -> cell of all that lies in a row; approximately equal numbers can be compared then."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        return {place: value}
    return {at: cell for key, part in parts for at, cell in flat(part, f"{place}.{key}").items()}


def test_a_pair_may_name_its_columns_and_a_lone_text_is_no_pair(all_served):
    named = all_served.predict({"text": "A warm film.", "other": "Dull."}, pipeline="pairs")
    general = all_served.predict({"text": "A warm film.", "text_pair": "Dull."}, pipeline="pairs")
    alone = all_served.client.post("/predict", json={"inputs": "A warm film.", "pipeline": "pairs"})

    assert flat(named) == pytest.approx(flat(general), abs=1e-4)
    assert alone.status_code == 422
    assert "text, other" in alone.json()["error"]


def test_zero_shot_labels_of_a_request_are_scored_as_by_the_pipeline(all_served, pipelines):
    oracle = opened("zero-shot-classification", pipelines["shots"].model.path)

    found = all_served.predict(TEXTS, pipeline="shots", parameters=OTHER_LABELS)

    for text, answer in zip(TEXTS, found, strict=True):
        expected = oracle(text, **OTHER_LABELS)
        assert (answer["label"], answer["score"]) == (
            expected["labels"][0],
            pytest.approx(expected["scores"][0], abs=1e-4),
        )
    assert all_served.predict(TEXTS[0], pipeline="shots")["label"] in ("comedy", "drama")


def test_entities_are_put_together_as_a_request_says(all_served, pipelines):
    oracle = opened("token-classification", pipelines["names"].model.path)

    found = all_served.predict(
        TEXTS, pipeline="names", parameters={"aggregation_strategy": "none", "ignore_labels": ["O"]}
    )

    for text, answer in zip(TEXTS, found, strict=True):
        spans = [(one["entity"], one["start"], one["end"]) for one in answer["entities"]]
        assert spans == [(one["entity"], one["start"], one["end"]) for one in oracle(text, aggregation_strategy="none")]


@pytest.mark.parametrize(
    ("name", "parameters", "place"),
    [
        ("shots", {"candidate_labels": []}, "candidate_labels"),
        ("shots", {"candidate_labels": "war"}, "candidate_labels"),
        ("names", {"aggregation_strategy": "zzsecret"}, "aggregation_strategy"),
        ("pairs", {"candidate_labels": ["war"]}, "parameters.candidate_labels"),
    ],
)
def test_an_option_that_is_wrong_is_refused_by_its_name(all_served, name, parameters, place):
    row = {"text": "a", "text_pair": "b"} if name == "pairs" else "a"

    found = all_served.client.post("/predict", json={"inputs": row, "pipeline": name, "parameters": parameters})

    assert found.status_code == 422
    assert place in found.json()["error"]
