"""How the Hub is asked, and what its errors mean: the one boundary to `huggingface_hub`'s."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from tidemill.errors import DatasetError, InputError, ModelError, SourceUnavailable, TidemillError, first_line
from tidemill.places import published
from tidemill.retry import ask

T = TypeVar("T")

LISTING_RETRIES = 8
LISTING_SECONDS = 330.0
"""Longer than the windows that the Hub counts requests in."""
FEW_RETRIES = 2
FEW_SECONDS = 10.0
_IMPATIENT: ContextVar[bool] = ContextVar("impatient", default=False)
LONGEST_WAIT_SECONDS = 5.0
ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.+))?"
)
ASKED_TO_WAIT = 429
LOG_IN = "log in: `hf auth login`, or set HF_TOKEN."


@contextmanager
def impatient() -> Iterator[None]:
    """Ask the Hub only for some seconds: whoever asks goes on without its answer."""
    token = _IMPATIENT.set(True)
    try:
        yield
    finally:
        _IMPATIENT.reset(token)


def ask_hub(call: Callable[[], T]) -> T:
    from huggingface_hub import constants

    hurry = _IMPATIENT.get()
    return ask(
        f"the Hub at {constants.ENDPOINT}",
        call,
        retries=FEW_RETRIES if hurry else LISTING_RETRIES,
        within_seconds=FEW_SECONDS if hurry else LISTING_SECONDS,
        longest_wait_seconds=LONGEST_WAIT_SECONDS if hurry else LISTING_SECONDS,
    )


def commit_of(kind: str, repo: str, revision: str) -> str:
    """The commit that a branch or tag points to now, which the local cache remembers."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision

    def look_up() -> str:
        import huggingface_hub

        with translated(kind, repo, revision):
            info = huggingface_hub.HfApi().repo_info(repo, repo_type=kind, revision=revision)
            return str(info.sha)

    commit = ask_hub(look_up)
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


def known_commit(kind: str, repo: str, revision: str) -> str | None:
    """The commit that a branch or tag pointed to when the Hub was last asked; None if the local cache has none."""
    from huggingface_hub import HfApi, errors

    if match := ADDRESS.fullmatch(repo):
        repo, revision = match["repo"], match["revision"] or revision
    try:
        return str(HfApi().resolve_revision(repo, repo_type=kind, revision=revision, local_files_only=True).resolved)
    except (errors.RevisionResolutionError, errors.HFValidationError, OSError, ValueError):
        return None


@functools.cache
def bound_answers() -> None:
    """Bound what `huggingface_hub` is answered, whichever client it makes."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    from tidemill.storage.bounded_http import bound

    make_client = _http._GLOBAL_CLIENT_FACTORY
    huggingface_hub.set_client_factory(lambda: bound(make_client()))


@contextmanager
def translated(kind: str, repo: str, revision: str) -> Iterator[None]:
    bound_answers()
    try:
        yield
    except TidemillError:
        raise
    # `datasets` raises ValueError, its own tree and the Hub's; what none of the rules knows goes on as it is.
    except Exception as e:
        meant = meaning(e, kind, repo, revision)
        if meant is None:
            raise
        raise meant from e


def meaning(error: Exception, kind: str, repo: str, revision: str) -> TidemillError | None:
    import datasets.data_files
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    wrong: type[InputError] = DatasetError if kind == "dataset" else ModelError
    what = f"The {kind} {repo}"
    for e in chain(error):
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
                return wrong(f"{kind}.path = {repo!r} is neither a local path nor a Hub id: {first_line(e)}.")
            case errors.HfHubHTTPError():
                return _http_meaning(e, wrong, what)
            case ConnectionError() if is_offline():
                return wrong(_offline_message(kind, repo, revision))
            case httpx.TransportError() | ConnectionError() | TimeoutError():
                return SourceUnavailable(f"{what} cannot be reached: {first_line(e)}.")
    match error:
        case errors.LocalEntryNotFoundError():
            return SourceUnavailable(f"{what} cannot be reached: {first_line(error)}.")
        case datasets.exceptions.DatasetNotFoundError() if "gated" in str(error):
            return wrong(f"{what} is gated. Accept its conditions on its page on the Hub, then {LOG_IN}")
        case datasets.exceptions.DatasetNotFoundError():
            return wrong(f"{what} does not exist or may not be read: {first_line(error)}. Check {kind}.path; {LOG_IN}")
        case (
            datasets.exceptions.DataFilesNotFoundError() | datasets.data_files.EmptyDatasetError() | FileNotFoundError()
        ):
            return wrong(f"{what} has no data files that can be read: {first_line(error)}.")
    return None


def _http_meaning(error: Any, wrong: type[InputError], what: str) -> TidemillError:
    response = error.response
    status = response.status_code if response is not None else 0
    if status == ASKED_TO_WAIT or status >= 500 or status == 0:
        return SourceUnavailable(f"{what}: the Hub answered {status}.", wait_seconds=asked_wait(response))
    if status in (401, 403):
        return wrong(f"{what} may not be read (the Hub answered {status}). To read it, {LOG_IN}")
    return wrong(f"{what}: the Hub answered {status}: {first_line(error)}.")


def asked_wait(response: Any) -> float | None:
    """Seconds that the server asks for: `Retry-After`, or the reset of the Hub's `RateLimit` header."""
    if response is None:
        return None
    if (after := response.headers.get("Retry-After", "")).isdigit():
        return float(after)
    found = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    return float(found[1]) if found and response.status_code == ASKED_TO_WAIT else None


def chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


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
def quiet() -> Iterator[None]:
    import datasets

    datasets.logging.set_verbosity_error()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    with no_bars():
        yield


@contextmanager
def no_bars() -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
