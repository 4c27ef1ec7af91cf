"""The one boundary to the Hugging Face Hub: what is asked of it, and what its errors mean.

`huggingface_hub` and `datasets` find repositories, commits, configs and splits;
HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are theirs to honour. File
contents are read by range requests of our own, at a commit.
"""

from tidemill.sources.hub.asking import ADDRESS, LOG_IN, impatient, is_offline, known_commit
from tidemill.sources.hub.models import (
    ListedModel,
    cached_config,
    fetch_within,
    list_models,
    model_commit,
    model_config,
    model_contents,
    model_snapshot,
)
from tidemill.sources.hub.ranges import FILE_URL, RANGE_RETRIES, read_range

__all__ = [
    "ADDRESS",
    "FILE_URL",
    "LOG_IN",
    "RANGE_RETRIES",
    "ListedModel",
    "cached_config",
    "fetch_within",
    "impatient",
    "is_offline",
    "known_commit",
    "list_models",
    "model_commit",
    "model_config",
    "model_contents",
    "model_snapshot",
    "read_range",
]
