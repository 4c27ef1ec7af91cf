"""Shards into a version's table: their rows, quarantined rows and ledger rows, all in one transaction."""

from tidemill.results.commit.items import Computed, Copied, Outcome
from tidemill.results.commit.queue import COMMITTED_BYTES, CommitQueue
from tidemill.results.commit.transaction import commit_shards, remove_vanished

__all__ = ["COMMITTED_BYTES", "CommitQueue", "Computed", "Copied", "Outcome", "commit_shards", "remove_vanished"]
