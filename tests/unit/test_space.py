"""A Space: what is in its folder, and what runs from it alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipelines import MODEL, make_pipeline, query, reviews, run, write_parquet
from tidemill.app.space.export import LEFT_OUT, export
from tidemill.app.space.running import open_space
from tidemill.app.trying import Trying
from tidemill.config import Pipeline
from tidemill.errors import ConfigError

pytest.importorskip("gradio")

ANSWER = """
import json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import tidemill
from tidemill.app.space.running import build, open_space
from tidemill.app.trying import Trying
pipeline, spec = open_space(Path({folder!r}))
print(json.dumps([Trying(pipeline).row(spec, {{"text": text}}).results for text in {texts!r}]))
print(json.dumps({{"from": tidemill.__file__, "prefect": "prefect" in sys.modules}}))
{more}
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("space")
    write_parquet(folder / "data" / "a.parquet", reviews(0, 8))
    made = make_pipeline(folder, f"{folder}/data/*", dataset={"keep": ["domain", "text"]})
    assert run(made).state == "done"
    return made


@pytest.fixture(scope="module")
def space(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "space"
    assert export(pipeline, folder).holds_model
    return folder


def rows_of(pipeline: Pipeline) -> dict[str, tuple[str, float]]:
    found = query(pipeline.lake, "SELECT text, label, score FROM reviews ORDER BY row_number")
    return {text: (label, score) for text, label, score in found}


def check_answers(pipeline: Pipeline, answers: list[dict[str, Any]]) -> None:
    expected = list(rows_of(pipeline).values())
    assert [answer["label"] for answer in answers] == [label for label, _ in expected]
    assert [answer["score"] for answer in answers] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_the_folder_says_what_a_space_on_the_hub_needs_with_exact_pins(space):
    _, front, text = (space / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    assert told["sdk_version"] == pins["gradio"]
    assert told["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (told["sdk"], told["app_file"]) == ("gradio", "app.py")
    assert "python app.py" in text
    assert {"torch", "transformers", "gradio", "pyarrow"} <= pins.keys()
    assert "prefect" not in pins
    assert "ctranslate2" not in pins


def test_the_folder_has_no_rows_no_other_rooms_and_no_place_of_this_machine(space, pipeline):
    rooms = {path.name for path in (space / "tidemill").iterdir()}
    assert not rooms & set(LEFT_OUT)
    assert (space / "tidemill" / "app" / "server" / "app.css").exists()
    assert "row.jsonl" in (space / "space.json").read_text()
    # Lake, store and data lie in one folder.
    places = [str(MODEL), str(Path(pipeline.lake.data).parent)]
    told = {path: path.read_bytes() for path in space.rglob("*") if path.is_file()}
    assert {space / "space.json", space / "app.py", space / "report.html", space / "model" / "config.json"} < set(told)
    assert [(path, place) for path in told for place in places if place.encode() in told[path]] == []
    for text in rows_of(pipeline):
        assert text not in (space / "report.html").read_text()


def test_a_space_answers_as_the_table_does(space, pipeline):
    opened, spec = open_space(space)
    assert spec.model_path == str(space / "model")
    assert [found.version for found in [Trying(opened).row(spec, {"text": "A film."})]] == [spec.version]
    check_answers(pipeline, [Trying(opened).row(spec, {"text": text}).results for text in rows_of(pipeline)])


def test_a_folder_that_holds_something_is_refused(space, pipeline):
    with pytest.raises(ConfigError, match=r"is there and not empty. Give --export a new folder\."):
        export(pipeline, space)


def test_a_row_that_cannot_be_processed_says_why(space):
    opened, spec = open_space(space)
    found = Trying(opened).row(spec, {"text": ""})
    assert (found.results["num_tokens"], found.reason) == (2, None)
    with pytest.raises(ConfigError, match="may have 1,000,000 characters"):
        Trying(opened).row(spec, {"text": "a" * 1_000_001})


@pytest.mark.soak
def test_in_an_environment_of_its_own_requirements_it_starts_and_answers_as_the_table_does(space, pipeline, tmp_path):
    """Torch is taken from this environment, which is what its pin names; all else from the package index."""
    own = tmp_path / "env"
    venv.create(own, with_pip=True)
    python = own / "bin" / "python"
    wanted = [pin for pin in (space / "requirements.txt").read_text().split() if not pin.startswith("torch==")]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted, *torch_needs()], check=True, timeout=1_500)
    [packages] = (own / "lib").glob("python*/site-packages")
    import torch

    for part in ("torch", "torchgen", "functorch", f"torch-{torch.__version__}.dist-info"):
        found = Path(torch.__file__).parents[1] / part
        if found.exists():
            (packages / part).symlink_to(found)
    script = ANSWER.format(folder=str(space), texts=list(rows_of(pipeline)), more="")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    done = subprocess.run(
        [python, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    answers, facts = map(json.loads, done.stdout.strip().splitlines()[-2:])
    check_answers(pipeline, answers)
    assert facts == {"from": str(space / "tidemill" / "__init__.py"), "prefect": False}
    check_started([str(python), "app.py"], space, environment)


def torch_needs() -> list[str]:
    return ["sympy", "networkx", "jinja2", "mpmath"]


@pytest.mark.slow
def test_python_app_py_starts_without_prefect_and_asks_nobody_outside(space):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    check_started([sys.executable, "app.py"], space, environment)


def check_started(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    """It answers on loopback, and has no connection to anywhere else."""
    import httpx
    import psutil

    from tests.apps import free_port
    from tests.processes import wait_until

    port = free_port()
    own = {**environment, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(words, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    outside: set[str] = set()

    def answers() -> bool:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        outside.update(
            each.raddr.ip
            for each in psutil.Process(process.pid).net_connections("inet")
            if each.raddr and each.raddr.ip not in ("127.0.0.1", "::1")
        )
        try:
            return httpx.get(f"http://127.0.0.1:{port}/config").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers)
        config = httpx.get(f"http://127.0.0.1:{port}/config").json()
        assert config["analytics_enabled"] is False
        listening = [
            each.laddr.ip for each in psutil.Process(process.pid).net_connections("inet") if each.status == "LISTEN"
        ]
        assert set(listening) == {"127.0.0.1"}
        assert outside == set()
    finally:
        process.kill()
        process.wait()
