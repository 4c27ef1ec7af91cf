"""A corner of the bundled model: its tokenizer, one layer of six, 64 dimensions of 384.

Tests of everything but the model's own arithmetic run it, which leaves the cores to what is tested. Its
weights are scaled so that each text has a score of its own, and both labels occur. It lies in the
checkout's pytest cache, made once, published by a rename.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors.numpy import load_file, save_file

from tidemill.fingerprints import fingerprint

HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_HEADS = 64, 128, 2
ENCODER_SCALE, CLASSIFIER_SCALE, CLASSIFIER_BIAS = 4, 50, (0.8, 0.0)


def small_sentiment(bundled: Path, folder: Path) -> Path:
    """The folder of the small checkpoint, beside other things of the tests' in `folder`."""
    # Another way of making it, or another bundled model, makes another one.
    made_of = fingerprint(Path(__file__).read_text(), (bundled / "config.json").read_text())
    made = folder / f"small-sentiment-{made_of[:8]}"
    if made.exists():
        return made
    folder.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder))
    tensors = {
        name: tensor[tuple(slice(_kept(size)) for size in tensor.shape)].copy()
        for name, tensor in load_file(bundled / "model.safetensors").items()
        if ".layer." not in name or ".layer.0." in name
    }
    for name in tensors:
        if ".layer." in name and name.endswith("weight") and "LayerNorm" not in name:
            tensors[name] *= ENCODER_SCALE
    tensors["classifier.weight"] *= CLASSIFIER_SCALE
    tensors["classifier.bias"][:] = CLASSIFIER_BIAS
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((bundled / "config.json").read_text()) | {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "num_attention_heads": NUM_HEADS,
        "num_hidden_layers": 1,
    }
    (partial / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bundled / name, partial / name)
    # Tests run as other users too.
    partial.chmod(0o755)
    (partial / "model.safetensors").chmod(0o644)
    try:
        os.rename(partial, made)  # noqa: PTH104  # a folder that another test process made first stays
    except OSError:
        shutil.rmtree(partial)
    return made


def _kept(size: int) -> int:
    """How much is kept of an axis of so many: of hidden and intermediate sizes a part, of all others everything."""
    return {384: HIDDEN_SIZE, 1536: INTERMEDIATE_SIZE}.get(size, size)
