"""The shards between ingest and commit: a bounded number, and whole files where they replace what readers see."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.errors import ENDS_RUN, FileChanged, LimitExceeded, Stopped, TidemillError
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.lake.requests import Request, is_wanted
from tidemill.lake.runs import RunRecord
from tidemill.planning.cost_limit import Budget
from tidemill.planning.plan import FilePlan
from tidemill.progress import Progress
from tidemill.results.commit import Outcome, commit_shards
from tidemill.retry import retrying
from tidemill.running.executor import Executor, Future
from tidemill.running.stages import Held, Predicted
from tidemill.running.workspace import Workspace
from tidemill.shards import Shard

STORE_BYTES_PER_TEXT_BYTE = 3
STORE_WAIT_SECONDS = 600.0
Cut = tuple[str, Sequence[Shard]]
"""A file's path and all its shards."""


class Outcomes:
    """What the run did so far: its record, its failures, and whoever shows them."""

    def __init__(self, record: RunRecord, progress: Progress) -> None:
        self.record, self.progress = record, progress
        self._lock = threading.Lock()
        self.counted: set[str] = set()
        """Ids of the shards whose commits are in the record."""
        self.dropped: set[str] = set()
        self.failures: list[tuple[str, BaseException]] = []

    def count(self, outcome: Outcome) -> None:
        """Enter a commit into the record. Whoever committed calls this at once: a stop must not come in between."""
        record = self.record
        with self._lock:
            self.counted.update(outcome.committed)
            self.dropped.update(outcome.dropped)
            record.num_shards += outcome.num_committed
            record.num_copied += outcome.num_copied
            record.num_rows += outcome.num_rows
            record.num_quarantined += outcome.num_quarantined
            record.num_rows_removed += outcome.num_rows_removed
            record.num_dropped += outcome.num_dropped
            record.num_tokens += outcome.num_tokens

    def count_missed(self, committed: Sequence[tuple[str, int, int, int, bool]]) -> None:
        """Enter what the ledger says this run committed, if the record does not.

        Nobody waited for the answer, or it was lost with its connection and the shard was found done.
        """
        for shard_id, num_rows, num_quarantined, num_tokens, copied in committed:
            if shard_id not in self.counted:
                self.record.num_dropped -= shard_id in self.dropped
                tokens = 0 if copied else num_tokens
                self.count(Outcome((shard_id,), (), int(copied), num_rows, num_quarantined, tokens))

    def show(self, outcome: Outcome, path: str) -> None:
        if outcome.num_committed:
            self.progress.committed(
                path,
                shards=outcome.num_committed,
                rows=outcome.num_rows,
                tokens=outcome.num_tokens,
                quarantined=outcome.num_quarantined,
            )

    def fail(self, path: str, error: BaseException) -> None:
        """Record that a shard or a file failed; what was told already, by another shard or of its file, is not again.

        Raises:
            Stopped: nothing failed; DuckDB took the user's Ctrl-C for itself.
        """
        if is_interrupt(error):
            raise Stopped("The run was asked to stop.") from error
        if any(error is known for _, known in self.failures):
            return
        told = (path, str(error)) in {(where, str(known)) for where, known in self.failures}
        self.failures.append((path, error))
        if not told:
            self.progress.failed(path, error)


@dataclass
class _Sent:
    """A shard on its way: its last step that was submitted, and what the step belongs to."""

    file: FilePlan
    ask: Request
    predicted: Future
    committed: Future | None


class Window:
    """The shards between ingest and commit; for a file that replaces another, those waiting for the rest of it."""

    def __init__(self, outcomes: Outcomes, workspace: Workspace, executor: Executor, budget: Budget) -> None:
        self._outcomes, self._workspace, self._executor, self._budget = outcomes, workspace, executor, budget
        self._size = workspace.pipeline.limits.shards_in_flight
        self._sent: deque[_Sent] = deque()
        self._group: list[_Sent] | None = None
        self._claimed: list[tuple[FilePlan, Request]] = []
        """What another run was at when its turn came."""
        self._held: list[tuple[FilePlan, list[Predicted], list[Cut]]] = []
        self.contents: dict[str, str] = {}
        self.cut: list[Cut] = []

    def begin_file(self, file: FilePlan) -> None:
        self._group = [] if file.replaces else None
        self.cut = []

    def send(self, file: FilePlan, ask: Request) -> None:
        """Ingest now, and queue the other stages behind it; later, if another run is at it."""
        self.wait_for_room()
        if self._workspace.claim(ask):
            self._send_claimed(file, ask)
        else:
            self._claimed.append((file, ask))

    def _send_claimed(self, file: FilePlan, ask: Request) -> None:
        workspace = self._workspace
        try:
            if not retrying(lambda: self._is_wanted(ask), retries=workspace.pipeline.limits.retries):
                workspace.release(ask)
                return
            self._budget.check(ask, self._outcomes.record)
            self._make_room_in_store(ask)
            submit, label = self._executor.submit, _label(ask.shard)
            ingested = submit("ingest", label, ask).result()
        except TidemillError as e:
            workspace.release(ask)
            if isinstance(e, Stopped | FileChanged):
                raise
            self._outcomes.fail(ask.shard.file.path, e)
            if self._group is not None:
                raise
            return
        self._outcomes.progress.ingested(ask.shard.file.path, rows=ask.shard.slice.num_rows)
        predicted = submit("infer", label, submit("tokenize", label, ingested))
        committed = None if self._group is not None else submit("materialize_one", label, predicted)
        sent = _Sent(file, ask, predicted, committed)
        self._sent.append(sent)
        if self._group is not None:
            self._group.append(sent)

    def _is_wanted(self, ask: Request) -> bool:
        lake, target = self._workspace.lake, self._workspace.target
        with lake.reached():
            return is_wanted(lake.cursor(), target, ask.shard.shard_id, ask.request_id)

    def send_claimed_by_others(self) -> None:
        """Wait for what another run was at, and do what it left undone.

        Nothing is claimed while this waits, so two runs never wait for each other.
        One that keeps its claim too long, for it is stopped or hangs, is not waited
        for: what both do is committed once.
        """
        claimed, self._claimed = self._claimed, []
        for file, ask in claimed:
            self._settle_all()
            if not self._workspace.wait_for_claim(ask, f"a shard of {file.file.path}"):
                self._outcomes.progress.note(f"Another run keeps a shard of {file.file.path}; it is computed here too.")
            self._send_claimed(file, ask)
        self._settle_all()

    def end_file(self, file: FilePlan) -> None:
        """All shards of the file are on their way: commit together those that replace what readers see."""
        # Its reader holds the buffers of a row group that was read to its end.
        self._workspace.dataset.forget(file.file)
        if self._group is None:
            if self.cut:
                workspace, cut = self._workspace, self.cut
                retrying(
                    lambda: commit_shards(workspace.lake, workspace.target, [], cut=cut),
                    retries=workspace.pipeline.limits.retries,
                )
            return
        self.send_claimed_by_others()
        group, self._group = self._group, None
        predicted = [sent.predicted.result() for sent in group]
        cut = self.cut or [(file.file.path, file.shards)]
        self._commit_group(file, predicted, cut)

    def abandon_file(self, file: FilePlan) -> None:
        self._workspace.dataset.forget(file.file)
        self._settle_all()
        self._group, self._claimed = None, [item for item in self._claimed if item[0] is not file]

    def _make_room_in_store(self, ask: Request) -> None:
        """At the store's bound, wait until shards in flight are committed and what they needed may go."""
        workspace, waited = self._workspace, 0.0
        needed = STORE_BYTES_PER_TEXT_BYTE * ask.shard.slice.text_bytes
        while not workspace.store.make_room(needed, needed=workspace.files_in_use, released=workspace.files_released):
            if self._sent:
                self._settle(self._sent.popleft())
            elif waited < STORE_WAIT_SECONDS:
                time.sleep(1.0)
                waited += 1.0
                workspace.check_stop()
            else:
                raise LimitExceeded("The store is full of files that other runs need. Raise store.max_bytes.")

    def wait_for_room(self) -> None:
        while len(self._sent) >= self._size:
            self._settle(self._sent.popleft())

    def drain(self) -> None:
        self.send_claimed_by_others()

    def _settle_all(self) -> None:
        while self._sent:
            self._settle(self._sent.popleft())

    def release_held(self) -> None:
        """Try again what was held back while the run's share of quarantined rows was too large."""
        held, self._held = self._held, []
        for file, predicted, cut in held:
            self._commit_group(file, predicted, cut)
        for _, predicted, _ in self._held:
            num_quarantined = sum(item.num_quarantined for item in predicted)
            self._workspace.tally.add(sum(item.num_rows for item in predicted), num_quarantined)

    def _commit_group(self, file: FilePlan, predicted: list[Predicted], cut: list[Cut]) -> None:
        outcome = self._executor.submit("materialize", file.file.path, predicted, cut=cut, replaces=True).result()
        if isinstance(outcome, Held):
            self._held.append((file, predicted, cut))
            return
        self._outcomes.show(outcome, file.file.path)

    def _settle(self, sent: _Sent) -> None:
        path = sent.file.file.path
        try:
            sent.predicted.result()
            if sent.committed is not None:
                self._outcomes.show(sent.committed.result(), path)
        except ENDS_RUN:
            raise
        except Exception as e:  # noqa: BLE001 — a shard that fails, for whatever reason, fails alone.
            if sent.committed is not None:
                self._outcomes.fail(path, e)
        finally:
            self._workspace.release(sent.request)


def _label(shard: Shard) -> str:
    return f"{shard.file.path}:{shard.slice.first_row}"
