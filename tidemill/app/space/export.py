"""The folder that becomes a Space: the engine itself, the model or its name, exact pins, and the report as it is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tidemill.app.source import Source
from tidemill.config import Pipeline
from tidemill.errors import ConfigError, counted
from tidemill.models.tasks import find_task
from tidemill.planning.versions import VersionSpec, is_local, model_folder, tokenizer_folder

PACKAGES = (
    *("datasets", "duckdb", "fastapi", "filelock", "fsspec", "gradio", "huggingface_hub", "jsonschema", "numpy"),
    *("orjson", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch", "transformers", "xxhash", "zstandard"),
)
"""What a row that is tried needs of all that Tidemill stands on."""
OF_WRITERS = ("ctranslate2", "llguidance")
"""What models that write may need beside."""
LEFT_OUT = ("flows", "tasks", "cli", "api", "proposing", "diagnosis", "upkeep", "__pycache__")
"""Rooms of Tidemill that a Space has no use for."""
ENTRY = '''"""Answers with the model of the table {name}, and shows the report of it. Run it: python app.py"""

from pathlib import Path

from tidemill.app.space.running import launch

launch(Path(__file__).parent)
'''
README = """---
title: "{title}"
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
pinned: false
---

# {title}

Version `{version}` of the table `{name}`: {task} by `{model}`. *Try* takes a row through the same engine and options as
the table, *Report* is the table as it was when this was written.

    pip install -r requirements.txt
    python app.py
"""


@dataclass(frozen=True)
class Exported:
    folder: str
    version: str
    num_files: int
    num_bytes: int
    holds_model: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(pipeline: Pipeline, folder: Path, *, texts: bool = False) -> Exported:
    """Write a Space into a folder that is new or empty.

    A model on the Hub is named at its commit, one of a local folder is copied. The report has kept texts with `texts`.

    Raises:
        ConfigError: the folder holds something, or the model is served elsewhere.
        LakeError: there is no lake, or the pipeline never ran.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and not empty. Give --export a new folder.")
    source = Source(pipeline)
    spec = source.promoted()
    source.close()
    if pipeline.inference.engine == "endpoint":
        raise ConfigError(
            'inference.engine = "endpoint" has the model answer at a server, which a Space would not reach. Export a '
            "pipeline whose model is computed here."
        )
    folder.mkdir(parents=True, exist_ok=True)
    holds_model = _write_model(spec, folder)
    _write_engine(folder)
    _write_texts(pipeline, spec, folder)
    from tidemill.pictures import report_page

    (folder / "report.html").write_text(report_page(pipeline, texts=texts), encoding="utf-8")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Exported(str(folder), spec.version, len(files), sum(path.stat().st_size for path in files), holds_model)


def requirements(spec: VersionSpec, engine: str) -> list[str]:
    """Each package at the version that is installed here; those that only some models need, where they are."""
    more = ["sentencepiece", *(OF_WRITERS if find_task(spec.task).writes else ())]
    more += ["openvino"] if engine == "openvino" else []
    installed = [name for name in more if find_spec(name) is not None]
    return [f"{name}=={version(name).partition('+')[0]}" for name in (*PACKAGES, *installed)]


def _write_model(spec: VersionSpec, folder: Path) -> bool:
    """Copy what lies in local folders; says whether it did."""
    parts = {"model": (spec.model, model_folder), "tokenizer": (spec.tokenizer, tokenizer_folder)}
    found = {name: place(spec) for name, (identity, place) in parts.items() if not identity.startswith("commit:")}
    for name, place in found.items():
        if name == "model" or place != found.get("model"):
            shutil.copytree(place, folder / name)
    return bool(found)


def _write_engine(folder: Path) -> None:
    """Tidemill's own rooms, but for those that run pipelines."""
    own = Path(__file__).parents[2]
    shutil.copytree(own, folder / own.name, ignore=_left_out(own))


def _left_out(own: Path) -> Any:
    def ignored(directory: str, names: Sequence[str]) -> set[str]:
        rooms = set(LEFT_OUT) if Path(directory) == own else {"__pycache__"}
        return {name for name in names if name in rooms}

    return ignored


def _write_texts(pipeline: Pipeline, spec: VersionSpec, folder: Path) -> None:
    told = {
        "name": pipeline.name,
        "title": f"{pipeline.name}: {spec.task}",
        "gradio": version("gradio"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "version": spec.version,
        "task": spec.task,
        "model": Path(spec.model_path).name if is_local(spec.model_path) else spec.model_path,
    }
    (folder / "app.py").write_text(ENTRY.format(**told), encoding="utf-8")
    (folder / "README.md").write_text(README.format(**told), encoding="utf-8")
    (folder / "requirements.txt").write_text(
        "\n".join(requirements(spec, pipeline.inference.engine)) + "\n", encoding="utf-8"
    )
    facts = {"name": pipeline.name, "version": _without_places(spec), "pipeline": _settings(pipeline, spec)}
    (folder / "space.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _without_places(spec: VersionSpec) -> dict[str, Any]:
    """The version, with the Space's own folders for those of this machine."""
    facts = spec.to_json()
    places = {f"{name}_path": name for name in ("model", "tokenizer") if not facts[name].startswith("commit:")}
    return {**facts, **places}


def _settings(pipeline: Pipeline, spec: VersionSpec) -> dict[str, Any]:
    """Of the pipeline file, what a row's answer depends on beside the version; nothing of where its data lies."""
    dataset = {"path": "row.jsonl", "text": list(spec.text), "text_separator": spec.text_separator}
    if spec.text_pair:
        dataset["text_pair"] = list(spec.text_pair)
    inference = pipeline.inference.model_dump(mode="json", exclude_unset=True, exclude={"endpoint"})
    return {"name": pipeline.name, "dataset": dataset, "model": {"task": spec.task}, "inference": inference}


def told(found: dict[str, Any]) -> str:
    model = "with its model" if found["holds_model"] else "its model is fetched from the Hub when it starts"
    return (
        f"{found['folder']}: a Space of version {found['version']}, {counted(found['num_files'], 'file')}, "
        f"{found['num_bytes'] / 2**20:,.1f} MiB, {model}.\nTry it: pip install -r {found['folder']}/requirements.txt, "
        f"then python {found['folder']}/app.py"
    )
