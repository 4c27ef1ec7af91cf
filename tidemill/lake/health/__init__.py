"""Queries of the system tables that a user may copy: what is in quarantine, what ran, what is done, what is late.

Each is SQL without parameters, and gives few rows however many there are.
"""

from tidemill.lake.health.origins import folders, revisions
from tidemill.lake.health.quarantine import quarantine_examples, quarantine_reasons
from tidemill.lake.health.runs import late_shards, run_seconds, runs, shards_by_state

__all__ = [
    "folders",
    "late_shards",
    "quarantine_examples",
    "quarantine_reasons",
    "revisions",
    "run_seconds",
    "runs",
    "shards_by_state",
]
