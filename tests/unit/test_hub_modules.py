"""Of a model on the Hub the folders that its modules.json names are part, and no others."""

from __future__ import annotations

from tests.embedders import save_embedder
from tests.hub.server import files_in
from tidemill.sources import hub as boundary

PATTERNS = ("config.json", "*.safetensors")


def commit_embedder(hub, tmp_path):
    folder = save_embedder(tmp_path / "model", then=("Dense", "Normalize"))
    files = {**files_in(folder), "onnx/model.onnx": b"x", "onnx/config.json": b"{}"}
    return hub.add_model("org/embedder").commit(files)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_lies_in_named_folders_is_fetched_into_the_models_own(hub, tmp_path):
    sha = commit_embedder(hub, tmp_path)

    top = boundary.model_snapshot("org/embedder", sha, "", ("*.json", "*.safetensors"))
    assert [name for name in names_in(top) if "/" in name] == []
    boundary.fetch_within("org/embedder", sha, "", ["1_Pooling", "2_Dense", "3_Normalize"], PATTERNS)

    within = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    assert [name for name in names_in(top) if "/" in name] == within


def test_contents_have_the_files_of_named_folders_by_their_path(hub, tmp_path):
    sha = commit_embedder(hub, tmp_path)

    alone = boundary.model_contents("org/embedder", sha)
    found = boundary.model_contents("org/embedder", sha, within=["1_Pooling", "3_Normalize"])

    assert [name for name in alone if "/" in name] == []
    assert set(found) - set(alone) == {"1_Pooling/config.json"}
