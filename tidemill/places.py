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
        make_folders(path)
    except OSError as e:
        raise ConfigError(f"The folder {path} cannot be made: {e.strerror}. Set {option} to one that can.") from e


def make_folders(path: Path) -> None:
    """Make a folder, with its parents. Tidemill's own, if it is made by that, is for its owner alone from the start:
    texts and predictions lie in it. One that was there keeps the mode that somebody gave it.

    Raises:
        OSError: it cannot be made.
    """
    wanted, own = path.absolute(), home().absolute()
    if wanted.is_relative_to(own):
        own.parent.mkdir(parents=True, exist_ok=True)
        own.mkdir(mode=0o700, exist_ok=True)
    wanted.mkdir(parents=True, exist_ok=True)


def is_s3(address: str) -> bool:
    return address.startswith(("s3://", "s3a://"))
