"""A tokenizer whose code lies in its folder serves grammars and stop strings too, where that code may run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.writers import CPU
from tests.writers_in_form import save_writer
from tidemill.inference.runner import ModelRunner

CODE = "from transformers import PreTrainedTokenizerFast\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    save_writer(folder, "GPT2")
    (folder / "own.py").write_text(CODE)
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text())
    said |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    path.write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("options", [{"stop": ["a"]}, {"choices": ["yes", "no"]}], ids=["stop strings", "choices"])
def test_code_of_the_tokenizers_own_runs_wherever_the_tokenizer_is_opened(folder, options):
    opened = ModelRunner.load(
        folder, task="text-generation", task_options=options, inference=CPU, trust_remote_code=True
    )
    assert opened.resolved["engine"] == "torch"
