"""modules.json: what sentence-transformers computes one after the other, and the folders in which it lies."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tidemill.checkpoints.files import matching, read_json_value
from tidemill.errors import ModelError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that the settings of a Transformer have had; the first that is there counts."""
MODULE_FILES = ("config.json", "*.safetensors")
"""What is read of the folder of a module."""

_OWN = "sentence_transformers."


@dataclass(frozen=True)
class NamedModule:
    """A module of modules.json: the class, by its whole name, and the folder in the model's; "" is that itself."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The class's own name, which no release has changed; of a class from elsewhere the whole one."""
        return self.type.rpartition(".")[2] if self.type.startswith(_OWN) else self.type


def named_modules(folder: Path) -> list[NamedModule]:
    """In the order in which they are computed.

    Raises:
        ModelError: there is no modules.json, or it is not a list of types with their folders.
    """
    path = folder / MODULES
    if not path.is_file():
        raise ModelError(
            f"There is no {MODULES} in {folder}, which says how sentence-transformers pools. For a bare encoder set "
            'model.task = "feature-extraction" and model.options.pooling to "mean", "cls", "last_token" or "max", as '
            "it was trained."
        )
    listed = read_json_value(path)
    if not isinstance(listed, list) or not listed or not all(map(_is_module, listed)):
        raise ModelError(
            f"{path} is no list of modules, each with a type and a folder beside it. Download the model again."
        )
    return [NamedModule(each["type"], each["path"]) for each in listed]


def _is_module(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("type"), str)
        and isinstance(path := value.get("path"), str)
        and not path.startswith(".")
        and not {"/", "\\", "\0", "*", "?", "["} & set(path)
    )


def module_folders(folder: str | Path) -> list[str]:
    """Names of the folders in a model's that its modules lie in, whether they are there or not; none without modules.

    Raises:
        ModelError: its modules.json is broken.
    """
    if not (Path(folder) / MODULES).is_file():
        return []
    return list(dict.fromkeys(module.path for module in named_modules(Path(folder)) if module.path))


def is_module_file(name: str) -> bool:
    """Whether a file of that name, in the model's folder or a module's, is part of the model by its modules.json."""
    within, _, last = name.rpartition("/")
    if within:
        return any(fnmatchcase(last, pattern) for pattern in MODULE_FILES)
    return name in (MODULES, SETTINGS, *TRANSFORMER_SETTINGS)


def module_files(folder: str | Path) -> list[str]:
    """Names of all files that modules.json makes part of the model: settings, and what lies in the modules' folders.

    Raises:
        ModelError: its modules.json is broken.
    """
    within = [
        f"{name}/{file}" for name in module_folders(folder) for file in matching(Path(folder) / name, MODULE_FILES)
    ]
    return [*matching(folder, (MODULES, SETTINGS, *TRANSFORMER_SETTINGS)), *within]
