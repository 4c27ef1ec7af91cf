"""The Hub: whether it is asked, whether it answers, by which credential, and where what it sent lies."""

from __future__ import annotations

import os
import shutil
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from tidemill.diagnosis.finding import Finding
from tidemill.diagnosis.machine import LEAST_FREE, clock
from tidemill.masking import masked
from tidemill.sources.hub import LOG_IN

ANSWER_SECONDS = 4.0
SLOW_SECONDS = 2.0


def hub() -> list[Finding]:
    from huggingface_hub import constants

    endpoint = masked(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        said = f"{endpoint} is not asked: HF_HUB_OFFLINE is set. What lies in the cache is used"
        return [Finding("hub", "hub", "absent", said, "unset HF_HUB_OFFLINE"), clock(None), _cache()]
    started = time.monotonic()
    try:
        answer = _get(f"{constants.ENDPOINT}/api/models?limit=1")
    except Exception as e:  # noqa: BLE001 — whatever keeps it from answering is what is to be told.
        said = f"{endpoint} does not answer: {str(e) or type(e).__name__}"
        remedy = "check the network, proxies (HTTPS_PROXY) and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses the cache"
        return [Finding("hub", "hub", "fails", masked(said), remedy), clock(None), _cache()]
    seconds = time.monotonic() - started
    return [_answered(endpoint, answer, seconds), _token(constants.ENDPOINT), clock(_date_of(answer)), _cache()]


def _answered(endpoint: str, answer: Any, seconds: float) -> Finding:
    if answer.status_code != 200:
        said = f"{endpoint} answers {answer.status_code}"
        return Finding("hub", "hub", "fails", said, "check HF_ENDPOINT; for 429, wait or log in")
    said = f"{endpoint} answers in {seconds:.1f} s"
    if seconds > SLOW_SECONDS:
        return Finding("hub", "hub", "slow", said, "check the network and proxies")
    return Finding("hub", "hub", "works", said)


def _token(endpoint: str) -> Finding:
    """Whether there is one, and the Hub knows it. It is never shown."""
    from huggingface_hub import get_token

    if get_token() is None:
        said = "none: private and gated repositories are out of reach, and fewer requests are allowed"
        return Finding("hub", "token", "absent", said, LOG_IN)
    where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "hf auth login"
    status = _get(f"{endpoint}/api/whoami-v2").status_code
    if status == 200:
        return Finding("hub", "token", "works", f"there is one, by {where}")
    return Finding("hub", "token", "fails", f"the Hub answers {status} to the one by {where}", LOG_IN)


def _cache() -> Finding:
    from huggingface_hub import constants

    folder = place = Path(constants.HF_HUB_CACHE).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{folder}: {free / 2**30:,.1f} GiB free"
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("hub", "cache", "fails", f"{place} may not be written to", "set HF_HOME to another folder")
    if free < LEAST_FREE:
        return Finding("hub", "cache", "fails", said, "free space (hf cache prune), or set HF_HOME to another folder")
    return Finding("hub", "cache", "works", said)


def _get(url: str) -> Any:
    from huggingface_hub.utils import build_hf_headers, httpx

    # Not by the client that all share: whoever sets it up anew, as another check may, closes it.
    return httpx.get(url, headers=build_hf_headers(), timeout=ANSWER_SECONDS, follow_redirects=True)


def _date_of(answer: Any) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
