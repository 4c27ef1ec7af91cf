"""The lake: result tables, the ledger and the quarantine, in a DuckLake.

Names are imported when they are first used: a query needs no Arrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.lake.ducklake.catalog import catalog_exists
    from tidemill.lake.ducklake.connection import Cursor, Lake
    from tidemill.lake.ledger import DoneShard
    from tidemill.lake.pipelines import PipelineState
    from tidemill.lake.tables import ResultTable, ensure_system_tables

__all__ = ["Cursor", "DoneShard", "Lake", "PipelineState", "ResultTable", "catalog_exists", "ensure_system_tables"]

_MODULES = {
    "Cursor": "ducklake.connection",
    "DoneShard": "ledger",
    "Lake": "ducklake.connection",
    "PipelineState": "pipelines",
    "ResultTable": "tables",
    "catalog_exists": "ducklake.catalog",
    "ensure_system_tables": "tables",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
