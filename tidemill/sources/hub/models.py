"""Models on the Hub: their commits, their files in the local cache, and a listing of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, TypeVar, cast

from tidemill.errors import ConfigError, ModelError, SourceUnavailable
from tidemill.retry import logger, waiting_for
from tidemill.sources.hub.asking import ask_hub, commit_of, impatient, is_offline, known_commit, no_bars, translated

T = TypeVar("T")

PROPOSAL_SECONDS = 30.0
"""For a listing of models, which somebody waits for who may name one instead."""


def model_commit(repo: str, revision: str, tell: Callable[[str], object] = logger.warning) -> str:
    """The commit that a model's branch or tag points to now.

    Offline, and where the Hub does not answer, it is the one that it pointed to
    when it last did, here or for whoever filled the local cache; of an answer
    that did not come `tell` is told.
    """
    known = known_commit("model", repo, revision)
    if known is None:
        return commit_of("model", repo, revision)
    if is_offline():
        return known
    try:
        with impatient():
            return commit_of("model", repo, revision)
    except SourceUnavailable as e:
        tell(f"The Hub does not answer, so {revision} of the model {repo} stays at commit {known[:12]}. {e}")
        return known


def model_contents(
    repo: str, commit: str, subfolder: str = "", *, within: Sequence[str] = (), or_cached: bool = True
) -> dict[str, str]:
    """Content id by name of the files of a model, which lie at the top of its repository or right in a folder of it.

    Files right in the folders `within` are the model's too, by names such as `1_Pooling/config.json`.

    Offline, and where the Hub does not answer, of those in the local cache, if that will do.

    Raises:
        ModelError: the repository, the commit or the folder is not there.
        SourceUnavailable: the Hub did not answer well for long.
    """
    prefix = f"{subfolder}/" if subfolder else ""

    def look_up() -> dict[str, str]:
        import huggingface_hub

        with translated("model", repo, commit):
            info = huggingface_hub.HfApi().repo_info(repo, revision=commit, files_metadata=True)
            found = {
                file.rfilename.removeprefix(prefix): str(file.lfs.sha256 if file.lfs else file.blob_id)
                for file in info.siblings or []
                if file.rfilename.startswith(prefix)
                and _folder_of(file.rfilename.removeprefix(prefix)) in ("", *within)
            }
            if subfolder and not found:
                raise ModelError(f"The model {repo} has no files in a folder {subfolder}. Check model.subfolder.")
            return found

    try:
        return _cached_contents(repo, commit, subfolder, within) if is_offline() else ask_hub(look_up)
    except SourceUnavailable:
        if not or_cached:
            raise
        return _cached_contents(repo, commit, subfolder, within)


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _cached_contents(repo: str, commit: str, subfolder: str, within: Sequence[str]) -> dict[str, str]:
    import huggingface_hub

    with translated("model", repo, commit):
        folder = huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=["config.json"], local_files_only=True
        )
    # A snapshot's files are links to blobs, which are named by their content.
    top = Path(folder, subfolder)
    found = [path for name in ("", *within) for path in (top / name).glob("*") if path.is_file()]
    return {path.relative_to(top).as_posix(): path.resolve().name for path in found}


def model_snapshot(repo: str, commit: str, subfolder: str, patterns: Sequence[str]) -> Path:
    """A local folder with a model's files at a commit; what the local cache has is not fetched again."""
    prefix = f"{escape(subfolder)}/" if subfolder else ""
    allowed = [f"{prefix}{pattern}" for pattern in patterns]
    return _fetched(repo, commit, allowed, but_for=f"{prefix}*/*") / subfolder


def fetch_within(repo: str, commit: str, subfolder: str, folders: Sequence[str], patterns: Sequence[str]) -> None:
    """Add to `model_snapshot`'s folder what lies right in these folders of it, if they are there."""
    prefix = f"{escape(subfolder)}/" if subfolder else ""
    allowed = [f"{prefix}{escape(folder)}/{pattern}" for folder in folders for pattern in patterns]
    if allowed:
        _fetched(repo, commit, allowed, but_for=f"{prefix}*/*/*")


def _fetched(repo: str, commit: str, patterns: Sequence[str], *, but_for: str) -> Path:
    """The snapshot in the local cache. To these patterns `*` means slashes too."""

    def fetch() -> Path:
        import huggingface_hub

        with translated("model", repo, commit), no_bars():
            snapshot = huggingface_hub.snapshot_download(
                repo, revision=commit, allow_patterns=list(patterns), ignore_patterns=[but_for]
            )
            return Path(snapshot)

    return ask_hub(fetch)


def model_config(repo: str, commit: str) -> Path:
    """A local folder with a model's configuration, and with nothing that takes long to fetch.

    Raises:
        ModelError: it has none, or may not be read.
    """

    def fetch() -> Path:
        import huggingface_hub
        from huggingface_hub.errors import RemoteEntryNotFoundError

        with translated("model", repo, commit), no_bars():
            try:
                return Path(huggingface_hub.hf_hub_download(repo, "config.json", revision=commit)).parent
            except RemoteEntryNotFoundError as e:
                raise ModelError(f"The model {repo} has no config.json at the top of its repository.") from e

    return ask_hub(fetch)


def cached_config(repo: str, commit: str, subfolder: str) -> Path | None:
    """The folder in the local cache with a model's config.json; None where it was not fetched. Asks no Hub."""
    import huggingface_hub

    name = f"{subfolder}/config.json" if subfolder else "config.json"
    found = huggingface_hub.try_to_load_from_cache(repo, name, revision=commit)
    return Path(found).parent if isinstance(found, str) else None


@dataclass(frozen=True)
class ListedModel:
    """What the Hub tells of a model without its files."""

    repo: str
    tags: tuple[str, ...]
    license: str
    num_parameters: int | None
    """None where the Hub has not counted them."""


def list_models(task: str, *, language: str | None, most_parameters: int, limit: int) -> list[ListedModel]:
    """Models for a task that Transformers loads from safetensors and anyone may read, the most downloaded first.

    `language` is an ISO 639-1 code, or `multilingual`; None asks for no language.

    Raises:
        ConfigError: the Hub cannot be asked, as it is set that it is not.
        SourceUnavailable: it did not answer well within `PROPOSAL_SECONDS`.
    """
    if is_offline():
        raise ConfigError("HF_HUB_OFFLINE is set, so that the Hub is asked for no model.")

    def look_up() -> list[Any]:
        import huggingface_hub
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # It would tell of each try, of which there are six.
        with translated("model", f"listing for {task}", "main"):
            return list(
                huggingface_hub.HfApi().list_models(
                    pipeline_tag=task,
                    filter=["transformers", "safetensors", *([language] if language else [])],
                    num_parameters=f"max:{-(-most_parameters // 10**6)}M",
                    gated=False,
                    sort="downloads",
                    limit=limit,
                    expand=["tags", "safetensors"],
                )
            )

    with waiting_for(f"the Hub, for models that fit, {PROPOSAL_SECONDS:.0f} s at most"):
        listed = [_listed_model(info) for info in _answered_soon(look_up)]
    return [model for model in listed if (model.num_parameters or 0) <= most_parameters]


def _answered_soon(look_up: Callable[[], T]) -> T:
    """Look up in a thread of its own: `huggingface_hub` bounds each of its tries, and waits longer between them."""
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((look_up(), None))
        except BaseException as e:  # noqa: BLE001 — it is raised where it is waited for.
            answers.put((None, e))

    threading.Thread(target=answer, daemon=True).start()
    try:
        found, error = answers.get(timeout=PROPOSAL_SECONDS)
    except queue.Empty:
        raise SourceUnavailable(f"It did not answer within {PROPOSAL_SECONDS:.0f} s.") from None
    if error is not None:
        raise error
    return cast("T", found)


def _listed_model(info: Any) -> ListedModel:
    tags = tuple(info.tags or ())
    licenses = [tag.partition(":")[2] for tag in tags if tag.startswith("license:")]
    return ListedModel(
        info.id, tags, next(iter(licenses), ""), info.safetensors.total if info.safetensors is not None else None
    )
