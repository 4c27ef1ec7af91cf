"""A file's bytes on the Hub, by ranges at a commit."""

from __future__ import annotations

import re

from tidemill.retry import ask
from tidemill.sources.hub.asking import LONGEST_WAIT_SECONDS, translated

RANGE_RETRIES = 4
FILE_URL = re.compile(r"hf://datasets/(?P<repo>[^/@]+(?:/[^/@]+)?)@(?P<commit>[0-9a-f]{40})(?:;[^/]*)?/(?P<path>.+)")
"""Behind the commit a recorded revision may say how its files are read, as `;quote=` does."""


def read_range(url: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file at a commit, in one request, and for a file's first ones in two: where the Hub
    sends us is asked until it refuses.

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


def _request_range(match: re.Match[str], start: int, stop: int) -> bytes:
    import huggingface_hub
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    from tidemill.storage.bounded_http import forwarded

    repo, commit, path = match["repo"], match["commit"], match["path"]
    file = forwarded(huggingface_hub.hf_hub_url(repo, path, repo_type="dataset", revision=commit))
    with translated("dataset", repo, commit):
        return file.read(get_session(), start, stop, name=path, headers=build_hf_headers(), check=hf_raise_for_status)
