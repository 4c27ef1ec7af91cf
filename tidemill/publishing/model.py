"""A model's folder as a repository on the Hub: what Transformers and sentence-transformers read of it, and its card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tidemill.errors import ModelError, counted
from tidemill.publishing.licences import base_origin, folder_licence
from tidemill.publishing.proposal import Proposal, make_shipment, visibility
from tidemill.publishing.repositories.card import edited, metadata_of
from tidemill.publishing.repositories.manifest import CARD, MANIFEST, Part, PublishedFile, read_manifest
from tidemill.publishing.repositories.writing import Content, FileId, Repository
from tidemill.publishing.table import read_card

SENT = (
    *("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "*.md"),
    *("LICENSE*", "NOTICE*", "*.bpe", "*.tiktoken"),
)
"""Of a model's folder. Pickles, optimizers' states and code are left out."""
STATE_OF_TRAINING = ("trainer_state.json", "training.json", "checkpoint-*", "optimizer*", "runs", "logs")
PART = "model"


def propose_model(folder: Path, repository: Repository, *, public: bool) -> Proposal:
    """What publishing a model's folder would send.

    Raises:
        ModelError: it is no folder of a model, or its weights are in no safetensors.
        InputError: the repository has what nobody may write over.
    """
    files, left_out = _files_of(folder)
    config = _config_of(folder, files)
    head = repository.head()
    manifest = read_manifest(repository, head)
    private = visibility(repository, head, manifest, public=public)
    there = head.files if head else {}
    ids = {name: FileId.of(path) for name, path in files.items() if name != CARD}
    contents: dict[str, Content] = {
        name: files[name] for name, found in ids.items() if name not in there or not found.is_of(there[name])
    }
    facts = _facts(config, files, folder)
    card = read_card(repository, head)
    is_edited = bool(card) and FileId.of(card.encode()).blob != manifest.card
    part = Part(facts, {name: PublishedFile(str(found.sha256)[:16], found) for name, found in ids.items()})
    shipment = make_shipment(
        repository,
        head,
        manifest,
        name=PART,
        part=part,
        contents=contents,
        card=_card(repository, card, folder, facts, is_edited=is_edited),
        card_is_news=not is_edited,
        message=f"{facts['architecture']}: {counted(len(files), 'file')}",
    )
    told = {**facts, "licence": folder_licence(folder), "left_out": left_out, "num_files": len(files)}
    return Proposal(repository, head, shipment, told, private)


def _files_of(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The files that are sent, by path, and what of the folder is left out."""
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}. Give --model the folder of a model.")
    sent, left_out = {}, []
    for path in _below(folder):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        is_state = any(fnmatchcase(part, pattern) for part in parts for pattern in STATE_OF_TRAINING)
        if name == MANIFEST or is_state or not any(fnmatchcase(parts[-1], pattern) for pattern in SENT):
            left_out.append(name)
        else:
            sent[name] = path
    return sent, left_out


def _below(folder: Path) -> Iterator[Path]:
    """Files, less hidden ones and those that links lead to elsewhere."""
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.resolve().is_relative_to(root):
            yield path


def _config_of(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    described = next((name for name in ("config.json", "modules.json") if name in files), None)
    if described is None:
        raise ModelError(f"{folder} has no config.json, so it is no model's folder. Give --model the one that has it.")
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelError(
            f"{folder} has no *.safetensors, and weights of other kinds are not published. Save the model again with "
            "save_pretrained."
        )
    try:
        found = json.loads(files[described].read_bytes())
    except ValueError as e:
        raise ModelError(f"{files[described]} is no JSON: {e}.") from e
    return found if isinstance(found, dict) else {}


def _facts(config: Mapping[str, Any], files: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    labels, base = config.get("id2label") or {}, _base(folder)
    architecture = next(iter(config.get("architectures") or ()), config.get("model_type") or "sentence-transformers")
    return {
        "architecture": str(architecture),
        "labels": [str(label) for label in labels.values()],
        "weights_bytes": sum(path.stat().st_size for name, path in files.items() if name.endswith(".safetensors")),
        "base": base,
        "base_licence": base_origin(base).licence if base else None,
    }


def _own_card(folder: Path) -> str:
    card = folder / CARD
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""


def _base(folder: Path) -> str | None:
    found = metadata_of(_own_card(folder)).get("base_model")
    return str(found[0] if isinstance(found, list) and found else found) if found else None


def _card(repository: Repository, there: str, folder: Path, facts: Mapping[str, Any], *, is_edited: bool) -> str:
    """The folder's own card, until people write one there: then theirs, with what is ours in it written anew."""
    text = there if is_edited else _own_card(folder) or there
    return edited(text, _part(facts), keys={}, absent=_absent(facts), title=repository.id.partition("/")[2])


def _absent(facts: Mapping[str, Any]) -> dict[str, Any]:
    tags = {"tags": ["tidemill"]}
    return {**tags, "library_name": "transformers"} if facts["architecture"] != "sentence-transformers" else tags


def _part(facts: Mapping[str, Any]) -> str:
    labels = ", ".join(f"`{label}`" for label in facts["labels"])
    return "\n".join(
        [
            "## Files",
            "",
            f"A {facts['architecture']}, {facts['weights_bytes']:,} bytes of weights in safetensors."
            + (f" Labels: {labels}." if labels else "")
            + (f" Base: {facts['base']}, licence: {facts['base_licence'] or 'not said'}." if facts["base"] else ""),
        ]
    )
