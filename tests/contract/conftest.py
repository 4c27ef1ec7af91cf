from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import ARCHITECTURES, HEADS, save_checkpoint

CHECKPOINTS = {
    "text-classification": [
        *(("bert", head) for head in HEADS),
        *((architecture, "five labels") for architecture in ARCHITECTURES if architecture != "bert"),
    ]
}
"""For each model task, the architectures and heads that its models come in."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "checkpoint" in metafunc.fixturenames:
        cases = [(task, *model) for task, models in CHECKPOINTS.items() for model in models]
        metafunc.parametrize("checkpoint", cases, ids=", ".join, indirect=True, scope="session")


@pytest.fixture(scope="session")
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model task's name and a checkpoint on disk for it."""
    task, architecture, head = request.param
    return task, save_checkpoint(tmp_path_factory.mktemp(architecture), architecture, head)
