"""Under which licence something is, and whether it is gated: as its page on the Hub says, or its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tidemill.errors import InputError
from tidemill.masking import masked
from tidemill.places import is_hub_id
from tidemill.publishing.repositories.card import metadata_of
from tidemill.sources.hub.asking import ADDRESS, ask_hub, translated

UNSAID = ("other", "unknown")
"""What cards say of a licence that has no name on the Hub."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Origin:
    """A dataset or a model that results came from. `repo` is its id on the Hub, where it has one."""

    kind: Literal["dataset", "model"]
    name: str
    repo: str | None = None
    revision: str | None = None
    licence: str | None = None
    is_gated: bool = False

    @property
    def forbids_text(self) -> str | None:
        """Why its texts may not be handed on; None where nothing says so."""
        if self.is_gated:
            return "is gated"
        # ND: what was changed, as by predictions beside it, may not be handed on.
        if self.licence is not None and "nd" in re.split(r"[-_ ]", self.licence.lower()):
            return f"has the licence {self.licence}, which forbids handing on what was made of it"
        return None


def dataset_origin(facts: Mapping[str, Any], revision: str) -> Origin:
    """Of what the lake recorded of a pipeline's dataset, at the revision that its table is of."""
    path = str(facts.get("path") or "")
    commit = found[0] if (found := _COMMIT.match(revision)) else None
    if match := ADDRESS.fullmatch(path):
        return _on_hub("dataset", match["repo"], commit)
    if path and is_hub_id(path, of="dataset"):
        return _on_hub("dataset", path, commit)
    if "://" in path:
        return Origin("dataset", masked(path), revision=revision)
    # Where it lies on this machine is nobody's business.
    return Origin("dataset", f"local files ({Path(path).name})" if path else "local files", revision=revision)


def model_origin(path: str, identity: str) -> Origin:
    """Of a version's model, by where it was found and by its content."""
    kind, _, name = identity.partition(":")
    if kind == "commit":
        return _on_hub("model", path, name.partition("/")[0])
    if kind == "served":
        return Origin("model", name)
    return Origin("model", f"a local folder ({Path(path).name})", revision=identity, licence=folder_licence(Path(path)))


def base_origin(name: str) -> Origin:
    """Of the model that another one was trained from, by what its card calls that."""
    return _on_hub("model", name, None) if is_hub_id(name, of="model") and "/" in name else Origin("model", name)


def folder_licence(folder: Path) -> str | None:
    """What a model's folder says in its card; None where it has none."""
    card = folder / "README.md"
    return _licence_of(metadata_of(card.read_text(encoding="utf-8", errors="replace"))) if card.is_file() else None


def _on_hub(kind: Literal["dataset", "model"], repo: str, commit: str | None) -> Origin:
    """As it is now, whichever commit was read: access and licence are of the repository."""

    def look_up() -> Any:
        import huggingface_hub

        with translated(kind, repo, "main"):
            return huggingface_hub.HfApi().repo_info(repo, repo_type=kind)

    try:
        info = ask_hub(look_up)
    except InputError:  # It is gone, or not for this token.
        return Origin(kind, repo, repo, commit)
    card = info.card_data.to_dict() if info.card_data is not None else {}
    tagged = [tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")]
    return Origin(
        kind, repo, repo, commit, _licence_of(card) or next(iter(tagged), None), bool(getattr(info, "gated", False))
    )


def _licence_of(card: Mapping[str, Any]) -> str | None:
    found = card.get("license")
    if isinstance(found, list):
        found = ", ".join(map(str, found))
    if found in UNSAID and card.get("license_name"):
        return str(card["license_name"])
    return str(found) if found else None
