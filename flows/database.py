"""An empty database of a Prefect server: made once, by all of Prefect's migrations, and copied from then on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path


def lay_out_database(database: Path) -> None:
    """Copy an empty database to where this process's Prefect settings have it.

    The first server of each Prefect version makes it, by 3 s of migrations and more where cores are slow.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill"
    template = cache / f"prefect-{metadata.version('prefect')}.sqlite"
    if template.exists():
        Path(shutil.copyfile(template, _fresh(database))).rename(database)
        return
    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    with suppress(OSError, sqlite3.Error):  # Without a cache, the next server starts as slowly as this one.
        cache.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(_fresh(template))) as copy:
            source.backup(copy)
        _fresh(template).rename(template)


def _fresh(path: Path) -> Path:
    """Where a copy is made, until it is whole."""
    return path.with_name(f"{path.name}.{os.getpid()}")
