"""The last layer of a model, its method of training, and what its inputs are: what the encoder makes of a text.

Shapes: N rows, H features, C outputs.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from tidemill.checkpoints.files import MODEL_FILES, matching
from tidemill.config import Inference
from tidemill.encoding.text_hashes import row_hashes
from tidemill.errors import ModelError, RunFailed
from tidemill.fingerprints import fingerprint
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading, find_task
from tidemill.places import home, make_folders, published
from tidemill.training.base import BaseModel

Features = NDArray[np.float32]


def last_layer(model: nn.Module) -> tuple[str, nn.Linear]:
    """
    Raises:
        ModelError: none is known by its size.
    """
    inner, size = f"{getattr(model, 'base_model_prefix', '')}.", model.config.num_labels
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == size and not name.startswith(inner)
    ]
    if not found:
        raise ModelError(f'{type(model).__name__} has no linear last layer. Set method.type to "full" or "lora".')
    return found[-1]


def divide(layer: nn.Linear, temperature: float) -> None:
    """Have a layer's outputs be so many times smaller: no reader of a folder divides by what its config says."""
    with torch.no_grad():
        layer.weight /= temperature
        if layer.bias is not None:
            layer.bias /= temperature


class Head(nn.Module):
    """A last layer by itself, over features that are settled: each in the unit of its own spread."""

    def __init__(self, layer: nn.Linear, features_NH: Features, loss: Any) -> None:
        super().__init__()
        self.linear = copy.deepcopy(layer)
        self._loss = loss
        spread = torch.from_numpy(features_NH.std(axis=0)).clamp_min(1e-6)
        middle = torch.from_numpy(features_NH.mean(axis=0)) if layer.bias is not None else torch.zeros_like(spread)
        self.register_buffer("spread", spread)
        self.register_buffer("middle", middle)
        with torch.no_grad():
            if self.linear.bias is not None:
                self.linear.bias += self.linear.weight @ middle
            self.linear.weight *= spread

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.linear((features - self.middle) / self.spread)
        return {"logits": logits} if labels is None else {"loss": self._loss(logits, labels), "logits": logits}

    def into(self, layer: nn.Linear) -> None:
        """Give a model's layer the weights, as they are for features that nobody scaled."""
        with torch.no_grad():
            layer.weight.copy_(self.linear.weight / self.spread)
            if layer.bias is not None:
                layer.bias.copy_(self.linear.bias - layer.weight @ self.middle)


def features_of(model: nn.Module, base: BaseModel, texts: list[str], pairs: list[str] | None, work: Path) -> Features:
    """What the last layer is given of each text, by our engine; what was computed before is kept for every training.

    Raises:
        RunFailed: the engine has no features of a text.
    """
    columns = {"text": pa.array(texts, pa.string())}
    if pairs is not None:
        columns["text_pair"] = pa.array(pairs, pa.string())
    rows = pa.table(columns)
    hashes = [value.bytes for value in row_hashes(rows).to_pylist()]
    path = _kept_at(model, base)
    known = _read(path)
    first = {name: row for row, name in reversed(list(enumerate(hashes)))}
    missing = sorted(row for name, row in first.items() if name not in known)
    if missing:
        computed = _computed(model, base, rows.take(pa.array(missing)), work)
        known |= {hashes[row]: computed[i] for i, row in enumerate(missing)}
        _write(path, known)
    return np.stack([known[name] for name in hashes])


def _computed(model: nn.Module, base: BaseModel, rows: pa.Table, work: Path) -> Features:
    folder = _with_bare_outputs(model, base, work / "encoder")
    is_pair = "text_pair" in rows.column_names
    options = {"is_pair": is_pair, "trust_remote_code": base.spec.trust_remote_code}
    reading = Reading(max_length=base.max_length, is_pair=is_pair, model_max_length=base.max_length)
    runner = ModelRunner.load(
        folder,
        task="text-classification",
        inference=Inference(dtype="float32"),
        all_scores=True,
        max_length=base.max_length,
        **options,
    )
    preparer = find_task("text-classification")(runner.config, is_pair=is_pair).preparer(folder, reading)
    prepared = preparer.prepare(rows)
    for name in preparer.reads:
        prepared = prepared.append_column(name, rows[name])
    predicted = runner.predict(prepared)
    shutil.rmtree(folder, ignore_errors=True)
    reasons = [reason for reason in pa.chunked_array([predicted.reason]).to_pylist() if reason]
    if reasons:
        raise RunFailed(f"{len(reasons):,} texts have no features: {reasons[0]}. Take them out of the rows.")
    scores = predicted.columns["scores"].combine_chunks()
    flat: Features = scores.items.to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(rows.num_rows, -1)


def _with_bare_outputs(model: nn.Module, base: BaseModel, folder: Path) -> Path:
    """The model with an identity in place of its last layer, so that what it answers are the layer's inputs."""
    name, layer = last_layer(model)
    size = layer.in_features
    bare = copy.deepcopy(model)
    identity = nn.Linear(size, size, bias=layer.bias is not None)
    with torch.no_grad():
        identity.weight.copy_(torch.eye(size))
        if identity.bias is not None:
            identity.bias.zero_()
    parent, _, own = name.rpartition(".")
    setattr(bare.get_submodule(parent), own, identity)
    bare.num_labels = size  # type: ignore[assignment]
    bare.config.id2label = {i: str(i) for i in range(size)}  # type: ignore[union-attr]
    bare.config.label2id = {str(i): i for i in range(size)}  # type: ignore[union-attr]
    bare.config.problem_type = "regression"  # type: ignore[union-attr]
    bare.save_pretrained(folder)  # type: ignore[operator]
    copy_tokenizer(base.tokenizer, folder)
    return folder


def copy_tokenizer(source: Path, folder: Path) -> None:
    """All that a tokenizer is read of, as it is."""
    for name in matching(source, [pattern for pattern in MODEL_FILES if pattern != "*.safetensors"]):
        if name not in ("config.json", "generation_config.json", "model.safetensors.index.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def _kept_at(model: nn.Module, base: BaseModel) -> Path:
    """Where features of this encoder are kept: by its weights, which may be new in part, and how texts are cut."""
    name, _ = last_layer(model)
    below = [(key, value) for key, value in model.state_dict().items() if not key.startswith(f"{name}.")]
    sums = [f"{key} {value.double().sum().item()!r} {value.double().abs().sum().item()!r}" for key, value in below]
    identity = fingerprint(base.spec.model, base.spec.tokenizer, str(base.max_length), name, *sums)
    return home() / "features" / f"{identity}.arrow"


def _read(path: Path) -> dict[bytes, Features]:
    """Features by the hash of their text; none where nothing can be read."""
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        values = table["features"].combine_chunks()
        flat = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
        return dict(zip(table["text_hash"].to_pylist(), flat, strict=True))
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return {}


def _write(path: Path, known: dict[bytes, Features]) -> None:
    features = np.stack(list(known.values()))
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    table = pa.table({"text_hash": pa.array(list(known), pa.binary(16)), "features": lists})
    make_folders(path.parent)
    with published(path) as unpublished, pa.ipc.new_file(str(unpublished), table.schema) as writer:
        writer.write_table(table)
