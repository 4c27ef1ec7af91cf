"""Killed at any moment, a training goes on from its last whole checkpoint and ends as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import Process
from tests.trainings import labelled, save_base, write_training
from tidemill.errors import ConfigError
from tidemill.training.given.file import load_training
from tidemill.training.loop.checkpoints import checkpoints, is_whole, newest_whole
from tidemill.training.run import train

EPOCHS = 4
MOMENTS = ("step", "evaluated", "writing", "saved")
"""Within an epoch, after it was evaluated, while a checkpoint is being written, and after it was."""


def train_until(file: Path, folder: Path, home: Path, moment: str | None, count: int) -> None:
    """Train in this process, which is killed at the `count`-th time of a moment; never, if there is none."""
    os.environ["TIDEMILL_HOME"] = str(home)
    from tidemill.training.loop import checkpoints as written
    from tidemill.training.loop import telling

    left = [count]

    def die_at(own: str, call: Any, *, before: bool) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if own == moment and before:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            found = call(*args, **kwargs)
            if own == moment and not before:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return found

        return wrapped

    telling.Telling.on_step_end = die_at("step", telling.Telling.on_step_end, before=True)  # type: ignore[method-assign]
    telling.Telling.on_evaluate = die_at("evaluated", telling.Telling.on_evaluate, before=False)  # type: ignore[method-assign]
    written.publish = die_at("writing", written.publish, before=True)
    written.prune = die_at("saved", written.prune, before=False)
    train(load_training(file), folder)


def outcome(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads((folder / "training.json").read_text()), load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def file(tmp_path_factory, base):
    method = {"type": "full", "epochs": EPOCHS, "learning_rate": 0.001}
    return write_training(tmp_path_factory.mktemp("training"), labelled(60), base, {"method": method})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, file):
    folder = tmp_path_factory.mktemp("undisturbed")
    Process(train_until, file, folder / "model", folder / "home", None, 0).result()
    return outcome(folder / "model")


def killed_and_resumed(tmp_path: Path, file: Path, kills: list[tuple[str, int]]) -> Path:
    for moment, count in kills:
        with pytest.raises(Exception):  # noqa: B017
            Process(train_until, file, tmp_path / "model", tmp_path / "home", moment, count).result()
        assert not (tmp_path / "model").exists()
    Process(train_until, file, tmp_path / "model", tmp_path / "home", None, 0).result()
    return tmp_path / "model"


def assert_alike(found: Path, expected: tuple[dict[str, Any], dict[str, torch.Tensor]]) -> None:
    report, weights = outcome(found)
    assert [epoch["step"] for epoch in report["trials"][0]["history"]] == [
        epoch["step"] for epoch in expected[0]["trials"][0]["history"]
    ]
    assert report["metrics"]["accuracy"] == expected[0]["metrics"]["accuracy"]
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[1][name], rtol=1e-4, atol=1e-5)


def test_a_training_killed_within_an_epoch_and_while_it_wrote_ends_as_an_undisturbed_one(tmp_path, file, undisturbed):
    kills = [("writing", 2), ("step", 2), ("saved", 1)]

    assert_alike(killed_and_resumed(tmp_path, file, kills), undisturbed)


@pytest.mark.soak
def test_a_training_killed_at_ten_random_moments_ends_as_an_undisturbed_one(tmp_path, file, undisturbed):
    chance = random.Random(7)
    for number in range(10):
        moment = MOMENTS[number % len(MOMENTS)]
        most = 3 * EPOCHS - 1 if moment == "step" else EPOCHS
        folder = tmp_path / str(number)
        folder.mkdir()
        assert_alike(killed_and_resumed(folder, file, [(moment, chance.randint(1, most))]), undisturbed)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_load_is_passed_over_for_the_one_before(tmp_path, file, undisturbed, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    with pytest.raises(Exception):  # noqa: B017
        Process(train_until, file, tmp_path / "model", tmp_path / "home", "saved", 3).result()
    folder = tmp_path / ".model.training" / "trial-0"
    newest, before, *_ = checkpoints(folder)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    assert not is_whole(newest)
    assert newest_whole(folder) == (before, [newest])
    lines: list[str] = []
    train(load_training(file), tmp_path / "model", tell=lines.append)

    assert f"{newest.name} does not load, and is passed over." in lines
    assert_alike(tmp_path / "model", undisturbed)


def test_another_training_does_not_go_on_from_a_strangers_checkpoints(tmp_path, file, monkeypatch):
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    work = tmp_path / ".model.training"
    (work / "trial-0").mkdir(parents=True)
    (work / "identity").write_text("another")

    with pytest.raises(ConfigError, match=r"checkpoints of another training.*--restart"):
        train(load_training(file), tmp_path / "model")
    train(load_training(file, ["method.epochs=1"]), tmp_path / "model", restart=True)

    assert (tmp_path / "model" / "config.json").exists()


def test_the_last_and_the_best_checkpoints_are_kept(tmp_path):
    from tidemill.training.loop.checkpoints import prune

    for step in (5, 10, 15, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-abc").mkdir()
    shutil.rmtree(tmp_path / "checkpoint-abc")

    prune(tmp_path, best_step=10)

    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-10"]
