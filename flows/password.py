"""The password of the Prefect server that `tidemill up` starts: made once, and kept where its owner alone reads it.

Prefect calls it an auth string, `user:password`. Whoever set one of Prefect's own
variables keeps theirs, and none is made.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from tidemill.errors import ConfigError

VARIABLES = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
"""Of the server, and of everyone who asks it."""


def password_file(home: Path) -> Path:
    return home / "prefect_auth"


def given_password() -> str | None:
    return next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)


def make_password(home: Path) -> str:
    """The password of this folder, which is made if there is none. However many make one at once, they have the same.

    Raises:
        ConfigError: others may have read it.
    """
    path = password_file(home)
    if not path.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=home, prefix=f"{path.name}.")  # Its owner alone reads it.
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"tidemill:{secrets.token_urlsafe(32)}\n")
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            Path(draft).unlink()
    return read_password(home)


def read_password(home: Path) -> str:
    """Raises:
    ConfigError: the file is not there, or others may have read it.
    """
    path = password_file(home)
    try:
        mode, found = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except OSError as e:
        raise ConfigError(f"The password of the Prefect server, {path}, cannot be read: {e.strerror}.") from e
    if mode & 0o077 or not found:
        wrong = "is empty" if not found else f"can be read by others (mode {mode:o})"
        raise ConfigError(
            f"The password of the Prefect server, {path}, {wrong}. Remove the file, and after `tidemill down` "
            "`tidemill up` makes another."
        )
    return found
