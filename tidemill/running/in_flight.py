"""The shards between ingest and commit: a bounded number, and whole files where they replace what readers see."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tidemill.errors import ENDS_RUN, FileChanged, LimitExceeded, Stopped, TidemillError
from tidemill.lake.requests import Request, is_wanted, request_ids
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.plan import FilePlan
from tidemill.results.commit import commit_shards
from tidemill.retry import retrying
from tidemill.running import stages
from tidemill.running.executor import Executor, Future
from tidemill.running.recording import Outcomes
from tidemill.running.stages import Held, Predicted
from tidemill.running.workspace import Workspace
from tidemill.shards import Shard

STORE_BYTES_PER_TEXT_BYTE = 3
STORE_WAIT_SECONDS = 600.0
Cut = tuple[str, Sequence[Shard]]
"""A file's path and all its shards."""


@dataclass
class _Sent:
    """A shard on its way: its last stage that was submitted, and what that belongs to."""

    file: FilePlan
    request: Request
    predicted: Future
    committed: Future | None


class InFlight:
    """The shards between ingest and commit; for a file that replaces another, those waiting for the rest of it."""

    def __init__(self, outcomes: Outcomes, workspace: Workspace, executor: Executor, cost_limit: CostLimit) -> None:
        self._outcomes, self._workspace, self._executor, self._cost_limit = outcomes, workspace, executor, cost_limit
        self._size = workspace.pipeline.limits.shards_in_flight
        self._sent: deque[_Sent] = deque()
        self._group: list[_Sent] | None = None
        self._claimed: list[tuple[FilePlan, Request]] = []
        """What another run was at when its turn came."""
        self._held: list[tuple[FilePlan, list[Predicted], list[Cut]]] = []
        self.request_ids: dict[str, str] = {}
        """shard id → request id of the shards that were planned."""
        self.contents: dict[str, str] = {}
        self.cut: list[Cut] = []

    def _begin(self, file: FilePlan) -> None:
        self._group = [] if file.replaces else None
        self.cut = []

    def send(self, file: FilePlan, request: Request) -> None:
        """Ingest now, and queue the other stages behind it; later, if another run is at it."""
        self.wait_for_room()
        if self._workspace.claim(request):
            self._send_claimed(file, request)
        else:
            self._claimed.append((file, request))

    def _send_claimed(self, file: FilePlan, request: Request) -> None:
        workspace = self._workspace
        try:
            asked = request
            wanted = retrying(lambda: self._still_wanted(asked), retries=workspace.pipeline.limits.retries)
            if wanted is None:
                workspace.release(request)
                return
            request = wanted
            self._cost_limit.check(request, self._outcomes.record)
            self._make_room_in_store(request)
            submit, label = self._executor.submit, request.shard.label
            ingested = submit(stages.ingest, label, request).result()
        except TidemillError as e:
            workspace.release(request)
            if isinstance(e, Stopped | FileChanged):
                raise
            self._outcomes.fail(request.shard.file.path, e)
            if self._group is not None:
                raise
            return
        self._outcomes.progress.ingested(request.shard.file.path, rows=request.shard.slice.num_rows)
        predicted = submit(stages.infer, label, submit(stages.tokenize, label, ingested))
        committed = None if self._group is not None else submit(stages.materialize_one, label, predicted)
        sent = _Sent(file, request, predicted, committed)
        self._sent.append(sent)
        if self._group is not None:
            self._group.append(sent)

    def _still_wanted(self, request: Request) -> Request | None:
        """The request, or the one that took its place since it was read; None if the shard is not wanted any more."""
        lake, target, shard_id = self._workspace.lake, self._workspace.target, request.shard.shard_id
        with lake.reached():
            cursor = lake.cursor()
            if is_wanted(cursor, target, shard_id, request.request_id):
                return request
            other = request_ids(cursor, target, [shard_id]).get(shard_id, request.request_id)
            if other != request.request_id and is_wanted(cursor, target, shard_id, other):
                return replace(request, request_id=other)
            return None

    def send_claimed_by_others(self) -> None:
        """Wait for what another run was at, and do what it left undone.

        Nothing is claimed while this waits, so two runs never wait for each other.
        One that keeps its claim too long, for it is stopped or hangs, is not waited
        for: what both do is committed once.
        """
        claimed, self._claimed = self._claimed, []
        for file, request in claimed:
            self._settle_all()
            if not self._workspace.wait_for_claim(request, f"a shard of {file.file.path}"):
                self._outcomes.progress.note(f"Another run keeps a shard of {file.file.path}; it is computed here too.")
            self._send_claimed(file, request)
        self._settle_all()

    def _end(self, file: FilePlan) -> None:
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

    @contextmanager
    def file(self, file: FilePlan) -> Iterator[None]:
        """The shards of one file are sent in the block; at its end those that replace what readers see are committed.

        A file that fails, fails alone: its shards on their way are waited for.
        """
        with self._outcomes.failing_alone(file.file.path, then=functools.partial(self._abandon, file)):
            self._begin(file)
            yield
            self._end(file)

    def _abandon(self, file: FilePlan) -> None:
        self._workspace.dataset.forget(file.file)
        self._settle_all()
        self._group, self._claimed = None, [item for item in self._claimed if item[0] is not file]

    def _make_room_in_store(self, request: Request) -> None:
        """At the store's bound, wait until shards in flight are committed and what they needed may go."""
        workspace, waited = self._workspace, 0.0
        needed = STORE_BYTES_PER_TEXT_BYTE * request.shard.slice.text_bytes
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
        outcome = self._executor.submit(stages.materialize, file.file.path, predicted, cut=cut, replaces=True).result()
        if isinstance(outcome, Held):
            self._held.append((file, predicted, cut))
            return
        self._outcomes.show(outcome, file.file.path)

    def _settle(self, sent: _Sent) -> None:
        path = sent.file.file.path
        try:
            if sent.committed is None:
                _wait(sent.predicted)
                return
            with self._outcomes.failing_alone(path):
                sent.predicted.result()
                self._outcomes.show(sent.committed.result(), path)
        finally:
            self._workspace.release(sent.request)


def _wait(future: Future) -> None:
    """Until it is there, or has failed: the end of its file raises that."""
    try:
        future.result()
    except ENDS_RUN:
        raise
    except Exception:  # noqa: BLE001, S110
        pass
