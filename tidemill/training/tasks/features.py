"""What a frozen encoder makes of texts: computed once, by our engine, and kept for every training.

Shapes: N rows, H features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from tidemill.config import Inference
from tidemill.encoding.text_hashes import row_hashes
from tidemill.errors import RunFailed
from tidemill.fingerprints import fingerprint
from tidemill.inference.runner import ModelRunner
from tidemill.models.tasks import Reading, find_task
from tidemill.places import make_folders, published
from tidemill.storage.features import features_file, note_use
from tidemill.training.given.base import BaseModel
from tidemill.training.tasks.heads import Features, last_layer
from tidemill.training.tasks.models import copy_tokenizer

KEPT_AT_ONCE = 1_000
"""Texts."""


def features_of(
    model: nn.Module,
    base: BaseModel,
    texts: list[str],
    pairs: list[str] | None,
    work: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> Features:
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
    note_use(path)
    first = {name: row for row, name in reversed(list(enumerate(hashes)))}
    missing = sorted(row for name, row in first.items() if name not in known)
    if missing:
        encoder = _encoder(model, base, work / "encoder", is_pair=pairs is not None)
        # Kept now and then: what was computed until a process is killed is there for the next.
        done = 0
        while done < len(missing):
            # Each time all are written: a share of them, so that it comes to a few times their bytes in all.
            some = missing[done : done + max(KEPT_AT_ONCE, len(known) // 4)]
            computed = encoder(rows.take(pa.array(some)))
            known |= {hashes[row]: computed[i] for i, row in enumerate(some)}
            _write(path, known)
            done += len(some)
            tell(f"features of {done:,} of {len(missing):,} texts")
    return np.stack([known[name] for name in hashes])


def _encoder(model: nn.Module, base: BaseModel, folder: Path, *, is_pair: bool) -> Callable[[pa.Table], Features]:
    """What makes features of a table of texts."""
    _with_bare_outputs(model, base, folder)
    runner = ModelRunner.load(
        folder,
        task="text-classification",
        inference=Inference(dtype="float32"),
        all_scores=True,
        max_length=base.max_length,
        is_pair=is_pair,
        trust_remote_code=base.spec.trust_remote_code,
    )
    reading = Reading(max_length=base.max_length, is_pair=is_pair, model_max_length=base.max_length)
    preparer = find_task("text-classification")(runner.config, is_pair=is_pair).preparer(folder, reading)

    def features(rows: pa.Table) -> Features:
        prepared = preparer.prepare(rows)
        for name in preparer.reads:
            prepared = prepared.append_column(name, rows[name])
        predicted = runner.predict(prepared)
        if reasons := list(filter(None, pa.chunked_array([predicted.reason]).to_pylist())):
            raise RunFailed(f"{len(reasons):,} texts have no features: {reasons[0]}. Take them out of the rows.")
        scores = predicted.columns["scores"].combine_chunks()
        flat: Features = scores.items.to_numpy(zero_copy_only=False).astype(np.float32)
        return flat.reshape(rows.num_rows, -1)

    return features


def _with_bare_outputs(model: nn.Module, base: BaseModel, folder: Path) -> None:
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
    bare.num_labels = size
    bare.config.id2label = {i: str(i) for i in range(size)}
    bare.config.label2id = {str(i): i for i in range(size)}
    bare.config.problem_type = "regression"
    bare.save_pretrained(folder)
    copy_tokenizer(base.tokenizer, folder)


def _kept_at(model: nn.Module, base: BaseModel) -> Path:
    """Where features of this encoder are kept: by its weights, which may be new in part, and how texts are cut."""
    name, _ = last_layer(model)
    below = [(key, value) for key, value in model.state_dict().items() if not key.startswith(f"{name}.")]
    sums = [f"{key} {value.double().sum().item()!r} {value.double().abs().sum().item()!r}" for key, value in below]
    identity = fingerprint(base.spec.model, base.spec.tokenizer, str(base.max_length), name, *sums)
    return features_file(identity)


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
