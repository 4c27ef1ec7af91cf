"""Folders and addresses, and where Tidemill keeps what it is not told to keep elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from tidemill.errors import ConfigError


def home() -> Path:
    """Where Tidemill keeps things: `TIDEMILL_HOME`, else `.tidemill` in the current folder."""
    return Path(os.environ.get("TIDEMILL_HOME") or ".tidemill")


def default_catalog() -> str:
    return f"sqlite:{home() / 'lake.sqlite'}"


def default_data() -> str:
    return str(home() / "lake")


def make_folder(path: Path, option: str) -> None:
    """Make a folder that `option` names, with its parents.

    Raises:
        ConfigError: it cannot be made; the message names the option.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"The folder {path} cannot be made: {e.strerror}. Set {option} to one that can.") from e


def is_s3(address: str) -> bool:
    return address.startswith(("s3://", "s3a://"))
