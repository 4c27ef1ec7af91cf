"""The one boundary to the Hugging Face Hub: what is asked of it, and what its errors mean.

`huggingface_hub` and `datasets` find repositories, commits, configs and splits;
HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are theirs to honour. File
contents are read by range requests of our own, at a commit.
"""

from __future__ import annotations

import functools
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from glob import escape, has_magic
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from tidemill.errors import (
    ChoiceMissing,
    ConfigError,
    DatasetError,
    InputError,
    ModelError,
    SourceUnavailable,
    TidemillError,
)
from tidemill.places import published
from tidemill.retry import ask, logger, waiting_for
from tidemill.shards import SourceFile
from tidemill.sources.listing import Listing, not_entered
from tidemill.sources.splits import Splits, beside_split, find_splits, no_such

T = TypeVar("T")

LISTING_RETRIES = 8
LISTING_SECONDS = 330.0
"""Longer than the windows that the Hub counts requests in."""
FEW_RETRIES = 2
FEW_SECONDS = 10.0
_IMPATIENT: ContextVar[bool] = ContextVar("impatient", default=False)
PROPOSAL_SECONDS = 15.0
"""For a listing of models, which somebody waits for who may name one instead."""
RANGE_RETRIES = 4
PATHS_ASKED_AT_ONCE = 500
LONGEST_WAIT_SECONDS = 5.0
FILE_URL = re.compile(r"hf://datasets/(?P<repo>[^/@]+(?:/[^/@]+)?)@(?P<commit>[0-9a-f]{40})(?:;[^/]*)?/(?P<path>.+)")
"""Behind the commit a recorded revision may say how its files are read, as `;quote=` does."""
ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.+))?"
)
CONVERTED = "refs/convert/parquet"
_CONVERTED_FILE = re.compile(r"@[0-9a-f]{40}/(?P<config>[^/]+)/(?P<split>[^/]+)/\d+\.parquet$")
ASKED_TO_WAIT = 429
INSTEAD_OF_SCRIPT = (
    'The Hub keeps many of these as Parquet: set dataset.revision = "refs/convert/parquet", or convert what the script '
    "makes to Parquet."
)
LOG_IN = "log in: `hf auth login`, or set HF_TOKEN."


def list_split(repo: str, *, config: str | None, revision: str, split: str) -> Listing:
    """The files of a split at the commit that `revision` names now.

    Raises:
        DatasetError: there is no such dataset, revision, config or split, or it may not be read.
        SourceUnavailable: the Hub did not answer well for long.
    """
    import datasets  # noqa: F401 — for seconds, which are none of the Hub's.

    revision = named_revision(revision)
    commit = _commit("dataset", repo, revision)

    def resolve() -> tuple[Splits, list[str]]:
        # Listed here in whole, so that `datasets` finds every folder in the file system's memory.
        with _translated("dataset", repo, revision), _quiet():
            paths = _file_system().find(f"datasets/{repo}@{commit}")
            converted = _converted_splits(paths, config, repo) if revision == CONVERTED else None
            splits = converted or find_splits(
                f"hf://datasets/{repo}",
                config=config,
                revision=commit,
                what=f"The dataset {repo}",
                instead_of_script=INSTEAD_OF_SCRIPT,
                read_card=lambda: _cached_card(repo, commit),
                known=functools.partial(_meaning, kind="dataset", repo=repo, revision=revision),
            )
        return splits, [f"hf://{path}" for path in paths]

    splits, urls = _ask_hub(resolve)
    paths = {name: [_path_of(url) for url in files] for name, files in splits.files.items()}
    beside = [] if splits.by_card else list(map(_path_of, urls))
    left_out = list(beside_split(paths, split, beside, where=f"hf://datasets/{repo}@{revision}"))
    if split not in paths:
        message = " ".join([no_such("split", split, paths, f"The dataset {repo}"), *map(str, left_out)])
        raise ChoiceMissing(message, noun="split", existing=paths)
    files = _ask_hub(lambda: _describe(repo, commit, splits.files[split]))
    return Listing(commit, tuple(files), tuple(left_out), splits.options, splits.notes)


def list_address(address: str) -> Listing:
    """The files that an hf:// address names now: a file, a folder with all below it, or a pattern."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise DatasetError(f"dataset.path = {address!r}: give hf://datasets/OWNER/NAME[@REVISION]/FILES.")
    repo, revision, pattern = match["repo"], named_revision(match["revision"] or "main"), match["path"]
    commit = _commit("dataset", repo, revision)

    def find() -> Listing:
        with _translated("dataset", repo, revision):
            where = f"datasets/{repo}@{commit}/{pattern}"
            matched = _file_system().glob(where, detail=True) if has_magic(pattern) else {}
            found = matched or _below(where)
        urls = [f"hf://{path}" for path, info in found.items() if info["type"] == "file"]
        folders = [_path_of(f"hf://{path}") for path, info in found.items() if info["type"] == "directory"]
        return Listing(commit, tuple(_describe(repo, commit, urls)), not_entered(folders, pattern))

    return _ask_hub(find)


def named_revision(revision: str) -> str:
    """What a revision is called at the Hub: an address may have it percent-encoded, or `~parquet` as DuckDB has it."""
    named = unquote(revision)
    return CONVERTED if named == "~parquet" else named


def _converted_splits(paths: Sequence[str], config: str | None, repo: str) -> Splits | None:
    """The splits of what the Hub converted, where folders say config and split; None if there are no such folders.

    Raises:
        DatasetError: there is no such config, or there are several to choose from.
    """
    configs: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        if found := _CONVERTED_FILE.search(path):
            configs.setdefault(found["config"], {}).setdefault(found["split"], []).append(f"hf://{path}")
    what = f"The dataset {repo} at {CONVERTED}"
    if not configs:
        return None
    if config is None and len(configs) > 1 and "default" not in configs:
        raise DatasetError(f"{what} has several configs: {', '.join(configs)}. Set dataset.config to one of them.")
    chosen = config or ("default" if "default" in configs else next(iter(configs)))
    if chosen not in configs:
        raise DatasetError(no_such("config", chosen, configs, what))
    return Splits({split: tuple(urls) for split, urls in configs[chosen].items()}, by_card=True)


def _cached_card(repo: str, commit: str) -> str:
    """The dataset's card, which `datasets` has just fetched if there is one."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repo, "README.md", revision=commit, repo_type="dataset")
    return Path(found).read_text(encoding="utf-8") if isinstance(found, str) else ""


def _below(where: str) -> dict[str, Any]:
    """The file at a path on the Hub, or all below the folder there; nothing if neither is there."""
    try:
        found: dict[str, Any] = _file_system().find(where, detail=True)
    except FileNotFoundError:
        return {}
    return found


def _path_of(url: str) -> str:
    """A file's path in its repository."""
    match = FILE_URL.fullmatch(url)
    assert match is not None, url
    return match["path"]


def read_range(url: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file at a commit, in one request.

    Raises:
        SourceUnavailable: after retries; a body that is too short counts as one that was cut.
    """
    match = FILE_URL.fullmatch(url)
    assert match is not None, url
    return ask(
        f"the Hub, which does not answer well for {match['path']}",
        lambda: _request_range(match, start, stop),
        retries=RANGE_RETRIES,
        longest_wait_seconds=LONGEST_WAIT_SECONDS,
        told_from=2,
    )


def last_commit_dates(urls: Sequence[str]) -> dict[str, date]:
    """hf:// file URL → the day of the commit that last changed the file, at the URL's own commit.

    Raises:
        DatasetError: the repository may not be read, or is gone.
        SourceUnavailable: the Hub did not answer well for long.
    """
    by_revision: dict[tuple[str, str], dict[str, str]] = {}
    for url in urls:
        match = FILE_URL.fullmatch(url)
        assert match is not None, url
        by_revision.setdefault((match["repo"], match["commit"]), {})[match["path"]] = url
    return {
        paths[info.path]: info.last_commit.date.date()
        for (repo, commit), paths in by_revision.items()
        for info in _ask_hub(functools.partial(_paths_info, repo, commit, list(paths)))
        if info.last_commit is not None
    }


def _paths_info(repo: str, commit: str, paths: Sequence[str]) -> list[Any]:
    import huggingface_hub

    found: list[Any] = []
    with _translated("dataset", repo, commit):
        for i in range(0, len(paths), PATHS_ASKED_AT_ONCE):
            asked = list(paths[i : i + PATHS_ASKED_AT_ONCE])
            found += huggingface_hub.HfApi().get_paths_info(
                repo, asked, repo_type="dataset", revision=commit, expand=True
            )
    return found


def model_commit(repo: str, revision: str, tell: Callable[[str], object] = logger.warning) -> str:
    """The commit that a model's branch or tag points to now.

    Offline, and where the Hub does not answer, it is the one that it pointed to
    when it last did, here or for whoever filled the local cache; of an answer
    that did not come `tell` is told.
    """
    known = known_commit("model", repo, revision)
    if known is None:
        return _commit("model", repo, revision)
    if is_offline():
        return known
    try:
        with impatient():
            return _commit("model", repo, revision)
    except SourceUnavailable as e:
        tell(f"The Hub does not answer, so {revision} of the model {repo} stays at commit {known[:12]}. {e}")
        return known


def known_commit(kind: str, repo: str, revision: str) -> str | None:
    """The commit that a branch or tag pointed to when the Hub was last asked; None if the local cache has none."""
    from huggingface_hub import HfApi, errors

    if match := ADDRESS.fullmatch(repo):
        repo, revision = match["repo"], match["revision"] or revision
    try:
        return str(HfApi().resolve_revision(repo, repo_type=kind, revision=revision, local_files_only=True).resolved)
    except (errors.RevisionResolutionError, errors.HFValidationError, OSError, ValueError):
        return None


@contextmanager
def impatient() -> Iterator[None]:
    """Ask the Hub only for some seconds: whoever asks goes on without its answer."""
    token = _IMPATIENT.set(True)
    try:
        yield
    finally:
        _IMPATIENT.reset(token)


def model_contents(repo: str, commit: str, subfolder: str = "", *, or_cached: bool = True) -> dict[str, str]:
    """Content id by name of the files of a model, which lie at the top of its repository or right in a folder of it.

    Offline, and where the Hub does not answer, of those in the local cache, if that will do.

    Raises:
        ModelError: the repository, the commit or the folder is not there.
        SourceUnavailable: the Hub did not answer well for long.
    """
    prefix = f"{subfolder}/" if subfolder else ""

    def look_up() -> dict[str, str]:
        import huggingface_hub

        with _translated("model", repo, commit):
            info = huggingface_hub.HfApi().repo_info(repo, revision=commit, files_metadata=True)
            found = {
                file.rfilename.removeprefix(prefix): str(file.lfs.sha256 if file.lfs else file.blob_id)
                for file in info.siblings or []
                if file.rfilename.startswith(prefix) and "/" not in file.rfilename.removeprefix(prefix)
            }
            if subfolder and not found:
                raise ModelError(f"The model {repo} has no files in a folder {subfolder}. Check model.subfolder.")
            return found

    try:
        return _cached_contents(repo, commit, subfolder) if is_offline() else _ask_hub(look_up)
    except SourceUnavailable:
        if not or_cached:
            raise
        return _cached_contents(repo, commit, subfolder)


def _cached_contents(repo: str, commit: str, subfolder: str) -> dict[str, str]:
    import huggingface_hub

    with _translated("model", repo, commit):
        folder = huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=["config.json"], local_files_only=True
        )
    # A snapshot's files are links to blobs, which are named by their content.
    return {path.name: path.resolve().name for path in Path(folder, subfolder).glob("*") if path.is_file()}


def model_snapshot(repo: str, commit: str, subfolder: str, patterns: Sequence[str]) -> Path:
    """A local folder with a model's files at a commit; what the local cache has is not fetched again."""
    prefix = f"{escape(subfolder)}/" if subfolder else ""

    def fetch() -> Path:
        import huggingface_hub

        with _translated("model", repo, commit), _no_bars():
            snapshot = huggingface_hub.snapshot_download(
                repo,
                revision=commit,
                allow_patterns=[f"{prefix}{pattern}" for pattern in patterns],
                ignore_patterns=[f"{prefix}*/*"],
            )
            return Path(snapshot, subfolder)

    return _ask_hub(fetch)


def model_config(repo: str, commit: str) -> Path:
    """A local folder with a model's configuration, and with nothing that takes long to fetch.

    Raises:
        ModelError: it has none, or may not be read.
    """

    def fetch() -> Path:
        import huggingface_hub
        from huggingface_hub.errors import RemoteEntryNotFoundError

        with _translated("model", repo, commit), _no_bars():
            try:
                return Path(huggingface_hub.hf_hub_download(repo, "config.json", revision=commit)).parent
            except RemoteEntryNotFoundError as e:
                raise ModelError(f"The model {repo} has no config.json at the top of its repository.") from e

    return _ask_hub(fetch)


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
        with _translated("model", f"listing for {task}", "main"):
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


def _commit(kind: str, repo: str, revision: str) -> str:
    """The commit that a branch or tag points to now, which the local cache remembers."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision

    def look_up() -> str:
        import huggingface_hub

        with _translated(kind, repo, revision):
            info = huggingface_hub.HfApi().repo_info(repo, repo_type=kind, revision=revision)
            return str(info.sha)

    commit = _ask_hub(look_up)
    _remember(kind, repo, revision, commit)
    return commit


def _remember(kind: str, repo: str, revision: str, commit: str) -> None:
    """As `huggingface_hub` does where it resolves a revision; a cache that takes nothing is no reason to stop."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    ref = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type=kind), "refs", revision)
    with suppress(OSError):
        ref.parent.mkdir(parents=True, exist_ok=True)
        with published(ref) as unpublished:
            unpublished.write_text(commit)


def _describe(repo: str, commit: str, urls: Sequence[str]) -> list[SourceFile]:
    """Sizes and content ids, from the listing that found the files."""
    file_system, prefix = _file_system(), f"hf://datasets/{repo}@{commit}/"
    files = []
    with _translated("dataset", repo, commit):
        for url in sorted(urls):
            info = file_system.info(url.removeprefix("hf://"))
            lfs = info.get("lfs")
            content = f"sha256:{lfs['sha256']}" if lfs else f"blob:{info['blob_id']}"
            files.append(SourceFile(url.removeprefix(prefix), url, int(info["size"]), content))
    return files


def _file_system() -> Any:
    """The very instance that `datasets` lists with, so that its listing is not asked for again."""
    import datasets
    import huggingface_hub

    return huggingface_hub.HfFileSystem(token=None, endpoint=datasets.config.HF_ENDPOINT)


def _request_range(match: re.Match[str], start: int, stop: int) -> bytes:
    import huggingface_hub
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    from tidemill.storage.bounded_http import read_span

    repo, commit, path = match["repo"], match["commit"], match["path"]
    url = huggingface_hub.hf_hub_url(repo, path, repo_type="dataset", revision=commit)
    with _translated("dataset", repo, commit):
        return read_span(
            get_session(), url, start, stop, name=path, headers=build_hf_headers(), check=hf_raise_for_status
        )


def _ask_hub(call: Callable[[], T]) -> T:
    from huggingface_hub import constants

    hurry = _IMPATIENT.get()
    return ask(
        f"the Hub at {constants.ENDPOINT}",
        call,
        retries=FEW_RETRIES if hurry else LISTING_RETRIES,
        within_seconds=FEW_SECONDS if hurry else LISTING_SECONDS,
        longest_wait_seconds=LONGEST_WAIT_SECONDS if hurry else LISTING_SECONDS,
    )


@functools.cache
def _bound_answers() -> None:
    """Bound what `huggingface_hub` is answered, whichever client it makes."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    from tidemill.storage.bounded_http import bound

    make_client = _http._GLOBAL_CLIENT_FACTORY
    huggingface_hub.set_client_factory(lambda: bound(make_client()))


@contextmanager
def _translated(kind: str, repo: str, revision: str) -> Iterator[None]:
    _bound_answers()
    try:
        yield
    except TidemillError:
        raise
    # `datasets` raises ValueError, its own tree and the Hub's; what none of the rules knows goes on as it is.
    except Exception as e:
        meaning = _meaning(e, kind, repo, revision)
        if meaning is None:
            raise
        raise meaning from e


def _meaning(error: Exception, kind: str, repo: str, revision: str) -> TidemillError | None:
    import datasets.data_files
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    wrong: type[InputError] = DatasetError if kind == "dataset" else ModelError
    what = f"The {kind} {repo}"
    for e in _chain(error):
        match e:
            case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
                if is_offline():
                    return wrong(_offline_message(kind, repo, revision))
                continue  # An outage while downloading looks like this; its cause says which.
            case errors.GatedRepoError():
                return wrong(f"{what} is gated. Accept its conditions on its page on the Hub, then {LOG_IN}")
            case errors.RevisionNotFoundError():
                return wrong(
                    f"{what} has no revision {revision!r}. Set {kind}.revision to a branch, tag or commit that exists."
                )
            case errors.RepositoryNotFoundError():
                return wrong(
                    f"{what} does not exist or is private. {_not_local(repo)}Check {kind}.path; if private, {LOG_IN}"
                )
            case errors.HFValidationError():
                return wrong(f"{kind}.path = {repo!r} is neither a local path nor a Hub id: {_line(e)}")
            case errors.HfHubHTTPError():
                return _http_meaning(e, wrong, what)
            case ConnectionError() if is_offline():
                return wrong(_offline_message(kind, repo, revision))
            case httpx.TransportError() | ConnectionError() | TimeoutError():
                return SourceUnavailable(f"{what} cannot be reached: {_line(e)}")
    match error:
        case errors.LocalEntryNotFoundError():
            return SourceUnavailable(f"{what} cannot be reached: {_line(error)}")
        case datasets.exceptions.DatasetNotFoundError() if "gated" in str(error):
            return wrong(f"{what} is gated. Accept its conditions on its page on the Hub, then {LOG_IN}")
        case datasets.exceptions.DatasetNotFoundError():
            return wrong(f"{what} does not exist or may not be read: {_line(error)} Check {kind}.path; {LOG_IN}")
        case (
            datasets.exceptions.DataFilesNotFoundError() | datasets.data_files.EmptyDatasetError() | FileNotFoundError()
        ):
            return wrong(f"{what} has no data files that can be read: {_line(error)}")
    return None


def _http_meaning(error: Any, wrong: type[InputError], what: str) -> TidemillError:
    response = error.response
    status = response.status_code if response is not None else 0
    if status == ASKED_TO_WAIT or status >= 500 or status == 0:
        return SourceUnavailable(f"{what}: the Hub answered {status}.", wait_seconds=_asked_wait(response))
    if status in (401, 403):
        return wrong(f"{what} may not be read (the Hub answered {status}). To read it, {LOG_IN}")
    return wrong(f"{what}: the Hub answered {status}: {_line(error)}")


def _asked_wait(response: Any) -> float | None:
    """Seconds that the server asks for: `Retry-After`, or the reset of the Hub's `RateLimit` header."""
    if response is None:
        return None
    if (after := response.headers.get("Retry-After", "")).isdigit():
        return float(after)
    found = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    return float(found[1]) if found and response.status_code == ASKED_TO_WAIT else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _offline_message(kind: str, repo: str, revision: str) -> str:
    at = "" if revision == "main" else f" --revision {revision}"
    if kind == "dataset":
        return (
            f"The dataset {repo} is read from the Hub, and HF_HUB_OFFLINE is set. {_not_local(repo)}Unset it, or fetch "
            f"its files where the Hub can be reached, `hf download {repo} --repo-type dataset{at} --local-dir FOLDER`, "
            "and set dataset.path to that folder."
        )
    return (
        f"The model {repo} is not in the local cache at {revision}, or not all of it, and HF_HUB_OFFLINE is set. "
        f"{_not_local(repo)}Fetch it where the Hub can be reached: `hf download {repo}{at}`."
    )


def _not_local(repo: str) -> str:
    """Of one word, whoever wrote it may have meant a file."""
    return "" if "/" in repo else "Nothing of that name lies beside the pipeline file. "


def is_offline() -> bool:
    """Whether the Hub is not to be asked."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    datasets.logging.set_verbosity_error()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    with _no_bars():
        yield


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
