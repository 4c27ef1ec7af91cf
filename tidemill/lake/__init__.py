"""The lake: result tables, the ledger and the quarantine, in a DuckLake."""

from tidemill.lake.connection import Cursor, Lake, catalog_exists
from tidemill.lake.ledger import DoneShard, PipelineState
from tidemill.lake.tables import ResultTable, ensure_system_tables

__all__ = ["Cursor", "DoneShard", "Lake", "PipelineState", "ResultTable", "catalog_exists", "ensure_system_tables"]
