"""Trainings of tiny models on real reviews, each method and task, from the file to a folder that answers."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.commands import tidemill
from tests.pipelines import make_pipeline, query, write_parquet
from tests.tiny_writers import write_words
from tests.token_classifiers import save_token_classifier
from tests.trainings import labelled, save_base, training
from tidemill.checkpoints.learned import learned_texts
from tidemill.errors import ConfigError, CostReached, ModelError, RunFailed, TidemillError
from tidemill.inference.opening import load_preparer, load_runner
from tidemill.planning.versions import declared
from tidemill.training import records
from tidemill.training.examples.splitting import normalised
from tidemill.training.run import train

ROWS = labelled(60)
TEXTS = ROWS["text"].to_pylist()


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = save_base(tmp_path_factory.mktemp("base"))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    return folder


def trained(folder: Path, rows: pa.Table, base: Path, /, **sections: Any) -> dict[str, Any]:
    return train(training(folder, rows, base, **sections), folder / "model")


def predictions(folder: Path, texts: list[str]) -> list[str]:
    """By our engine, as a pipeline's run computes them."""
    pipeline = make_pipeline(folder.parent / "p", "unread", model={"path": str(folder)})
    spec = declared(pipeline)
    rows = pa.table({"text": texts})
    prepared = load_preparer(spec).prepare(rows).append_column("text", rows["text"])
    labels: list[str] = load_runner(spec, pipeline.inference).predict(prepared).columns["label"].to_pylist()
    return labels


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_each_method_gives_a_folder_that_answers_as_its_measures_say(tmp_path, base, method):
    report = trained(tmp_path, ROWS, base, method={"type": method, "epochs": 2})

    folder = tmp_path / "model"
    config = json.loads((folder / "config.json").read_text())
    assert (config["id2label"], config["problem_type"], config["dtype"]) == (
        {"0": "NEGATIVE", "1": "POSITIVE"},
        "single_label_classification",
        "float32",
    )
    said = Counter(zip(predictions(folder, TEXTS), ROWS["label"].to_pylist(), strict=True))
    held_out = Counter({(pair["said"], pair["label"]): pair["rows"] for pair in report["metrics"]["confusion"]})
    assert held_out <= said
    assert report["rows"]["train"] + report["rows"]["held_out"] == 60
    assert set(report["baselines"]) == {"majority", "base"}
    assert not (tmp_path / ".model.training").exists()


def test_a_trained_head_is_in_the_folder_that_lora_leaves(tmp_path, base):
    trained(tmp_path, ROWS, base, method={"type": "lora", "epochs": 2, "learning_rate": 0.01, "calibrate": False})

    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "model"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert not torch.equal(
        before["bert.encoder.layer.0.attention.self.query.weight"],
        after["bert.encoder.layer.0.attention.self.query.weight"],
    )


def test_a_base_stored_in_16_bits_is_trained_in_float32(tmp_path):
    half = save_base(tmp_path / "half")
    transformers.AutoModelForSequenceClassification.from_pretrained(half, dtype=torch.float16).save_pretrained(half)

    trained(tmp_path, ROWS, half, method={"type": "full", "epochs": 1})

    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.slow
def test_new_labels_make_a_new_head_and_are_written_by_name(tmp_path, base):
    opinions = pa.array(["ham" if label == "NEGATIVE" else "spam" for label in ROWS["label"].to_pylist()])
    rows = ROWS.set_column(ROWS.column_names.index("label"), "label", opinions)

    report = trained(tmp_path, rows, base, method={"type": "head", "epochs": 2})

    assert report["notes"] == ["The head is new: it answers ham, spam in place of NEGATIVE, POSITIVE."]
    assert "base" not in report["baselines"]
    assert set(predictions(tmp_path / "model", TEXTS[:8])) <= {"ham", "spam"}


@pytest.mark.slow
def test_several_labels_a_row_and_numbers_are_learned_too(tmp_path, base):
    several = trained(tmp_path / "s", ROWS, base, data={"label": "several"}, method={"class_weights": "balanced"})
    number = trained(tmp_path / "n", ROWS, base, data={"label": "rating"}, method={"type": "head", "epochs": 20})

    configs = [json.loads((tmp_path / name / "model" / "config.json").read_text()) for name in "sn"]
    assert [config["problem_type"] for config in configs] == ["multi_label_classification", "regression"]
    assert [label["label"] for label in several["metrics"]["labels"]] == ["NEGATIVE", "POSITIVE", "strong"]
    assert number["metrics"]["mean_absolute_error"]["value"] < number["baselines"]["majority"]["mean_absolute_error"]
    assert number["temperature"] is None


def test_a_temperature_is_in_the_last_layers_weights(base):
    """No reader of a folder divides by what its config says."""
    from tidemill.training.tasks.heads import divide, last_layer

    model = transformers.AutoModelForSequenceClassification.from_pretrained(base).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    with torch.inference_mode():
        before = model(ids).logits
        divide(last_layer(model)[1], 2.5)
        torch.testing.assert_close(model(ids).logits * 2.5, before)


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.soak), "head"])
def test_tags_of_words_are_learned_by_each_method(tmp_path, method):
    words = [text.split()[:8] for text in TEXTS]
    tags = [["B-LONG" if len(word) > 6 else "O" for word in row] for row in words]
    rows = pa.table({"text": pa.array(words), "label": pa.array(tags)})
    model = save_token_classifier(tmp_path / "base", "bert")

    report = trained(
        tmp_path,
        rows,
        model,
        task="token-classification",
        method={"type": method, "epochs": 3, "learning_rate": 0.02},
    )

    losses = [epoch["loss"] for epoch in report["trials"][0]["history"]]
    assert losses[-1] < losses[0]
    assert [label["label"] for label in report["metrics"]["labels"]] == ["LONG"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert set(config["id2label"].values()) == {"B-LONG", "I-LONG", "O"}


def save_llama(folder: Path) -> Path:
    write_words(folder)
    config = transformers.LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_llama_learns_by_lora_what_is_to_be_written_behind_a_text(tmp_path):
    model = save_llama(tmp_path / "base")
    rows = ROWS.select(["id", "text", "label"])

    report = trained(
        tmp_path,
        rows,
        model,
        task="text-generation",
        data={"label": "label"},
        method={"type": "lora", "epochs": 5, "learning_rate": 0.05},
    )

    assert report["metrics"]["loss"] < report["baselines"]["base"]["loss"] - 0.05
    assert report["metrics"]["perplexity"] == pytest.approx(math.exp(report["metrics"]["loss"]))
    assert not list((tmp_path / "model").glob("adapter*")), "the matrices are merged"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path, base):
    weights = []
    for name, seed in (("a", 0), ("b", 0)):
        trained(tmp_path / name, ROWS, base, seed=seed)
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors")["classifier.weight"])

    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_loss_that_is_not_finite_stops_before_its_step_and_spoils_no_checkpoint(tmp_path, base):
    with pytest.raises(RunFailed, match=r"is (nan|inf) at step .*that step is not taken.*method.learning_rate"):
        trained(tmp_path, ROWS, poisoned(base, tmp_path / "poisoned"))

    assert not (tmp_path / "model").exists()
    assert not list((tmp_path / ".model.training").rglob("checkpoint-*"))


def poisoned(base: Path, folder: Path) -> Path:
    """A base whose logits overflow."""
    import shutil

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"] * 1e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_losses_that_are_not_finite_are_never_left_out_of_a_mean(tmp_path, base):
    """As Transformers does by default, so that the best model is chosen without them."""
    from tidemill.training.loop.fitting import _arguments
    from tidemill.training.loop.learner import Settings

    class Nothing:
        num_rows, best_by, greater_is_better, arguments = 10, "f1", True, {}
        arguments_class = transformers.TrainingArguments

    settings = Settings.of(training(tmp_path, ROWS, base).method, 0, {})

    assert _arguments(Nothing(), settings, tmp_path, 0).logging_nan_inf_filter is False  # type: ignore[arg-type]


def test_each_combination_of_a_grid_is_a_trial_with_a_row_and_the_best_is_kept(tmp_path, base):
    file = training(
        tmp_path,
        ROWS,
        base,
        method={"type": "head", "epochs": 3},
        grid={"learning_rate": [0.5, 0.001], "batch_size": [8]},
    )

    report = train(file, tmp_path / "model")

    scores = [trial["score"] for trial in report["trials"]]
    assert len(scores) == 2
    assert scores[report["best_trial"]] == max(scores)
    rows = query(file.lake, "SELECT trial, is_best, settings->>'learning_rate' FROM _trainings ORDER BY trial")
    assert rows == [(i, i == report["best_trial"], rate) for i, rate in enumerate(["0.5", "0.001"])]


@pytest.mark.slow
def test_patience_ends_a_training_that_gets_no_better(tmp_path, base):
    report = trained(tmp_path, ROWS, base, method={"type": "head", "epochs": 40, "patience": 2, "learning_rate": 1e-9})

    assert len(report["trials"][0]["history"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["head", "full"])
def test_a_training_that_lost_its_patience_and_was_stopped_then_trains_no_further(tmp_path, base, method, monkeypatch):
    """Its patience is counted from where it stood, and not from the checkpoint on."""
    from tidemill.training import card

    options = {"type": method, "epochs": 40, "patience": 2, "learning_rate": 1e-9, "batch_size": 32}
    file = training(tmp_path, ROWS, base, method=options)
    with monkeypatch.context() as patched:
        patched.setattr(card, "write_card", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(file, tmp_path / "model")

    report = train(file, tmp_path / "model")

    assert [found["epoch"] for found in report["trials"][0]["history"]] == [1, 2, 3]


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_cost_that_is_allowed_ends_it_and_the_same_command_goes_on(tmp_path, base):
    file = training(tmp_path, ROWS, base, cost={"per_hour": 3600.0, "max_cost": 1e-9})

    with pytest.raises(CostReached, match=r"cost\.max_cost = 1e-09 USD. Raise it"):
        train(file, tmp_path / "model")
    lines: list[str] = []
    train(file.model_copy(update={"cost": type(file.cost)()}), tmp_path / "model", tell=lines.append)

    assert any(line.startswith("going on from checkpoint-") for line in lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base) -> tuple[Path, dict[str, Any]]:
    """A training of a head that is done: its folder, and what was told of it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TIDEMILL_HOME", str(folder / "home"))
        report = trained(folder, ROWS, base, method={"type": "head", "epochs": 1}, cost={"per_hour": 2.0})
    return folder / "model", report


def test_a_training_that_is_done_is_not_done_again_and_another_one_does_not_take_its_folder(finished, base):
    folder, first = finished
    options = {"type": "head", "epochs": 1}

    again = train(training(folder.parent, ROWS, base, method=options), folder)

    assert again["unchanged"]
    assert again["metrics"] == first["metrics"]
    with pytest.raises(ConfigError, match="holds a model of another training"):
        train(training(folder.parent, ROWS, base, method={**options, "epochs": 2}), folder)


@pytest.mark.slow
def test_what_the_encoder_makes_of_a_text_is_computed_once_for_all_trainings(tmp_path, base, monkeypatch):
    from tidemill.training.tasks import features

    options: dict[str, Any] = {"method": {"type": "head", "epochs": 1}}
    trained(tmp_path / "few", ROWS.slice(0, 40), base, **options)
    computed: list[int] = []
    encoder = features._encoder

    def counting(*args: Any, **kwargs: Any) -> Any:
        made = encoder(*args, **kwargs)

        def counted(rows: pa.Table) -> Any:
            computed.append(rows.num_rows)
            return made(rows)

        return counted

    monkeypatch.setattr(features, "_encoder", counting)
    trained(tmp_path / "more", ROWS, base, **options)

    assert computed == [20]


def test_the_texts_that_were_learned_from_are_known_by_their_hash_and_not_in_the_folder(finished, monkeypatch):
    folder, report = finished
    monkeypatch.setenv("TIDEMILL_HOME", str(folder.parent / "home"))

    assert len(learned_texts(records.identity_of(folder))) == report["rows"]["train"]
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        "training.json",
    }


LICENCES = ("licence of the base model: apache-2.0", "licence of the data: not said")


def test_the_card_says_data_base_measures_and_how_to_make_it_again_and_no_folder_of_this_machine(finished):
    folder, _ = finished

    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name:")
    for expected in ("## Data", "held out", "revision", "## Measures", "| accuracy |", "make it again", "USD"):
        assert expected in card
    assert str(folder.parent) not in card
    assert all(f"- {licence}" in card for licence in LICENCES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.slice(0, 0), "gives no rows to learn from"),
        (lambda rows: rows.slice(0, 3), "3 rows .*it takes 8 and 2"),
        (lambda rows: replaced(rows, "label", pa.array(["ham"] * rows.num_rows)), "All rows have one label, 'ham'"),
        (lambda rows: replaced(rows, "label", pa.nulls(rows.num_rows, pa.string())), "have a null in text, label"),
        (lambda rows: replaced(rows, "text", pa.array(range(rows.num_rows))), "'text' has type int64, not string"),
        (lambda rows: rows.drop_columns(["label"]), "no column 'label'"),
        (
            lambda rows: replaced(rows, "label", pa.array(["POSITIVE", "NEUTRAL"] * (rows.num_rows // 2))),
            'the base has no NEUTRAL.*base.head = "new"',
        ),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused_with_the_way_out(tmp_path, base, change, message):
    with pytest.raises(TidemillError, match=message) as refused:
        trained(tmp_path, change(ROWS), base)

    assert refused.value.exit_code == 2
    assert not (tmp_path / "model").exists()


def replaced(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)


def test_a_base_without_a_tokenizer_is_refused(tmp_path):
    bare = save_base(tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()

    with pytest.raises(ModelError, match=r"no tokenizer files .*put them there") as refused:
        trained(tmp_path, ROWS, bare)
    with pytest.raises(ModelError, match=r"Check base\.path\. Relative paths in a training file"):
        trained(tmp_path, ROWS, tmp_path / "nowhere")

    assert "tokenizer.path" not in str(refused.value)


@pytest.mark.slow
def test_rows_without_a_label_are_left_out_and_counted_and_contradictions_are_told(tmp_path, base):
    labels = ROWS["label"].to_pylist()
    rows = replaced(ROWS, "label", pa.array([None, None, *labels[2:]]))
    other = "POSITIVE" if labels[5] == "NEGATIVE" else "NEGATIVE"
    rows = pa.concat_tables([rows, replaced(rows.slice(5, 1), "label", pa.array([other]))])

    report = trained(tmp_path, rows, base, method={"type": "head", "epochs": 1})

    assert (report["rows"]["null"], report["rows"]["contradictions"]["texts"]) == (2, 1)
    assert [row["id"] for row in report["rows"]["contradictions"]["rows"][0]] == 2 * [rows["id"][5].as_py()]


@pytest.mark.soak
def test_a_circle_of_run_train_backfill_compare_and_promote(tmp_path, base):
    """By the command line: the rows that the new model learned from are left out of the comparison."""
    home, data = tmp_path / "home", tmp_path / "data" / "rows.parquet"
    write_parquet(data, ROWS)
    pipeline = tmp_path / "reviews.toml"
    pipeline.write_text(
        f'name = "reviews"\n[dataset]\npath = "{data}"\ntext = "text"\nkey = ["id"]\nkeep = ["label as said", "text"]\n'
        f'[model]\npath = "{base}"\n[inference]\nengine = "torch"\ndtype = "float32"\ntoken_budget = 1024\n'
        f'[lake]\ncatalog = "sqlite:{tmp_path}/lake.sqlite"\ndata = "{tmp_path}/lake"\n'
    )
    ask = f'data = {{ sql = "SELECT id, text, said AS label FROM reviews", lakes = "{pipeline}", key = ["id"] }}\n'
    file = tmp_path / "train.toml"
    file.write_text(
        f'name = "better"\n{ask}base = {{ pipeline = "{pipeline}" }}\nmethod = {{ type = "head", epochs = 2 }}\n'
        f'[lake]\ncatalog = "sqlite:{tmp_path}/lake.sqlite"\ndata = "{tmp_path}/lake"\n'
    )

    def command(*words: Any) -> str:
        done = tidemill(*words, home=home)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("run", pipeline, "--direct")
    report = json.loads(command("train", file, "-o", tmp_path / "better", "--json"))
    command("backfill", pipeline, "--model-path", tmp_path / "better", "--yes", "--direct")
    versions = [status["version"] for status in json.loads(command("status", pipeline, "--json"))["versions"]]
    (new,) = [version for version in versions if version != versions[0]]
    truth = "SELECT id, said AS label FROM reviews"
    compared = json.loads(command("compare", pipeline, "promoted", new, "--truth", truth, "--json"))["truth"]
    promoted = command("promote", pipeline, new, "--truth", "said")

    assert compared["accuracy"].keys() == set(versions)
    assert (compared["rows"], compared["learned"]) == (report["rows"]["held_out"], report["rows"]["train"])
    assert compared["accuracy"][new] == pytest.approx(report["metrics"]["accuracy"]["value"])
    assert 0 < compared["p_value"] <= 1
    assert compared["difference"]["low"] <= compared["difference"]["value"] <= compared["difference"]["high"]
    assert "its model is of the training better: accuracy" in promoted
    assert "McNemar p" in promoted


@pytest.mark.slow
def test_words_that_are_one_text_to_the_split_are_one_to_the_measures(tmp_path, base):
    shouted = replaced(ROWS, "text", pa.array([text.upper() for text in TEXTS]))

    report = trained(tmp_path, pa.concat_tables([ROWS, shouted]), base, method={"type": "head", "epochs": 1})

    assert report["rows"]["duplicates"] == len(TEXTS) * 2 - len({normalised(text) for text in TEXTS})
    assert report["rows"]["duplicates_dropped"] == 0
