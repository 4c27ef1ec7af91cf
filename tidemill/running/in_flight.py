"""The shards between ingest and commit: a bounded number, and whole files where they replace what readers see."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

from tidemill.errors import ENDS_RUN, LimitExceeded, Stopped
from tidemill.lake.ducklake.connection import is_interrupt
from tidemill.lake.requests import Request
from tidemill.planning.cost_limit import CostLimit
from tidemill.planning.plan import FilePlan
from tidemill.retry import retrying
from tidemill.running import stages
from tidemill.running.executor import Executor, Future
from tidemill.running.recording import Outcomes
from tidemill.running.stages import Held, Predicted, label_of, paths_of
from tidemill.running.stages.workspace import Workspace
from tidemill.shards import TOGETHER_BYTES, Shard

STORE_BYTES_PER_TEXT_BYTE = 3
STORE_WAIT_SECONDS = 600.0
Cut = tuple[str, Sequence[Shard]]
"""A file's path and all its shards."""


Item = tuple[FilePlan, Request]


@dataclass(eq=False)
class _Sent:
    """Shards on their way together, and the stages of theirs that are waited for."""

    items: Sequence[Item]
    ingested: Future
    predicted: Future
    committed: Future | None

    @property
    def requests(self) -> list[Request]:
        return [request for _, request in self.items]

    @property
    def paths(self) -> str:
        return paths_of(self.requests)


class InFlight:
    """The shards between ingest and commit; for a file that replaces another, those waiting for the rest of it.

    Small shards of files that replace none wait for others, and go together. A
    group that fails is taken apart: then each of its shards fails alone, or does not.

    Reading is not waited for. Of files that are not local several shards are read at one
    time, since there it is a server that is waited for; of local ones one, since there it
    is this machine that works.
    """

    def __init__(self, outcomes: Outcomes, workspace: Workspace, executor: Executor, cost_limit: CostLimit) -> None:
        self._outcomes, self._workspace, self._executor, self._cost_limit = outcomes, workspace, executor, cost_limit
        workspace.check_cost = cost_limit.check_spent
        self._size = workspace.pipeline.limits.shards_in_flight
        self._together = workspace.pipeline.limits.shards_together
        self._sent: deque[_Sent] = deque()
        self._read: deque[_Sent] = deque()
        """Those that are being read, as far as was seen."""
        self._told_read: set[str] = set()
        """Ids of the shards that were told to be read."""
        self._small: list[Item] = []
        """What waits for others that are small, claimed."""
        self._small_bytes = 0
        """How much text that is."""
        self._ended: list[FilePlan] = []
        """Files that are sent whole, and of which shards wait for others or are being read."""
        self._group: list[_Sent] | None = None
        self._claimed: list[Item] = []
        """What another run was at when its turn came."""
        self._held: list[tuple[FilePlan, list[Predicted], list[Cut]]] = []
        self.request_ids: dict[str, str] = {}
        """shard id → request id of the shards that were planned."""
        self.cut: list[Cut] = []

    def _begin(self, file: FilePlan) -> None:
        if file.replaces:
            self.send_small()
        self._group = [] if file.replaces else None
        self.cut = []

    def send(self, file: FilePlan, request: Request) -> None:
        """Ingest, and queue the other stages behind it, at once or with other small shards.

        What another run is at comes later.
        """
        if not self._workspace.claim(request):
            self._claimed.append((file, request))
        elif self._group is None and request.shard.slice.text_bytes < TOGETHER_BYTES:
            self._small.append((file, request))
            self._small_bytes += request.shard.slice.text_bytes
            if len(self._small) == self._together or self._small_bytes >= TOGETHER_BYTES:
                self.send_small()
        else:
            self.send_small()
            self._send([(file, request)])

    def send_small(self) -> None:
        """Send what waits for others that are small."""
        small, self._small, self._small_bytes = self._small, [], 0
        if small:
            self._send(small)
        self._forget_ended()

    def _send(self, items: Sequence[Item]) -> None:
        """Send claimed shards together. Shards that fail when they are ingested together are sent one by one."""
        self.wait_for_room()
        try:
            sent = self._submit(items)
        except Exception as e:
            if len(items) > 1 and not (isinstance(e, Stopped) or is_interrupt(e)):
                self._one_by_one(items)
                return
            self._release(items)
            if isinstance(e, Stopped) or self._group is not None:
                raise
            self._outcomes.fail(items[0][0].file.path, e)
            return
        except BaseException:
            self._release(items)
            raise
        if sent is not None:
            self._sent.append(sent)
            if self._group is not None:
                self._group.append(sent)

    def _submit(self, items: Sequence[Item]) -> _Sent | None:
        """Queue all stages; None if nothing of it is wanted any more."""
        asked = [request for _, request in items]
        wanted = retrying(lambda: self._workspace.still_wanted(asked), retries=self._workspace.pipeline.limits.retries)
        self._release([item for item in items if item[1].shard.shard_id not in wanted])
        items = [(file, wanted[id_]) for file, request in items if (id_ := request.shard.shard_id) in wanted]
        if not items:
            return None
        requests = [request for _, request in items]
        for request in requests:
            self._cost_limit.check(request, self._outcomes.record)
        self._wait_for_reader(requests)
        self._make_room_in_store(requests)
        submit, label = self._executor.submit, label_of(requests)
        ingested = submit(stages.ingest, label, requests)
        predicted = submit(stages.infer, label, submit(stages.tokenize, label, ingested))
        committed = None if self._group is not None else submit(stages.materialize, label, predicted)
        sent = _Sent(items, ingested, predicted, committed)
        self._read.append(sent)
        return sent

    def _wait_for_reader(self, requests: Sequence[Request]) -> None:
        """Until these may be read: not too many at one time, and each file in one pass where it is read in passes."""
        most = self._size if self._workspace.dataset.is_remote else 1
        while self._read and (len(self._read) >= most or not self._may_be_read(requests)):
            self._end_read(self._read.popleft())

    def _may_be_read(self, requests: Sequence[Request]) -> bool:
        paths = {request.shard.file.path for sent in self._read for request in sent.requests}
        dataset = self._workspace.dataset
        return all(
            request.shard.file.path not in paths or dataset.reads_apart(request.shard.file, request.shard.slice)
            for request in requests
        )

    def wait_until_read(self) -> None:
        """Until nothing is being read, so that files may be cut and closed."""
        while self._read:
            self._end_read(self._read.popleft())

    def _end_read(self, sent: _Sent) -> None:
        """Wait until shards are read. One that cannot be fails when it is waited for, and its whole file at once."""
        try:
            sent.ingested.result()
        except Exception:
            if sent.committed is None:
                raise
        else:
            self._tell_read(sent.requests)
        finally:
            self._forget_ended()

    def _tell_read(self, requests: Sequence[Request]) -> None:
        """Once of each shard: one that failed together with others is sent again, and by itself."""
        for shard in (request.shard for request in requests):
            if shard.shard_id not in self._told_read:
                self._told_read.add(shard.shard_id)
                self._outcomes.progress.ingested(shard.file.path, rows=shard.slice.num_rows)

    def _one_by_one(self, items: Sequence[Item]) -> None:
        """Send claimed shards that failed together by themselves: each fails alone, or does not."""
        for item in items:
            with self._outcomes.failing_alone(item[0].file.path):
                self._send([item])

    def _release(self, items: Sequence[Item]) -> None:
        for _, request in items:
            self._workspace.release(request)

    def send_claimed_by_others(self) -> None:
        """Wait for what another run was at, and do what it left undone.

        Nothing is claimed while this waits, so two runs never wait for each other.
        One that keeps its claim too long, for it is stopped or hangs, is not waited
        for: what both do is committed once.
        """
        self.send_small()
        claimed, self._claimed = self._claimed, []
        for file, request in claimed:
            self.settle_all()
            if not self._workspace.wait_for_claim(request, f"a shard of {file.file.path}"):
                self._outcomes.progress.note(f"Another run keeps a shard of {file.file.path}; it is computed here too.")
            self._send([(file, request)])
        self.settle_all()

    def _end(self, file: FilePlan) -> None:
        """All shards of the file are on their way: commit together those that replace what readers see."""
        if self._group is None:
            self._ended.append(file)
            self._forget_ended()
            return
        self.wait_until_read()
        # Its reader holds the buffers of a row group that was read to its end.
        self._workspace.dataset.forget(file.file)
        self.send_claimed_by_others()
        group, self._group = self._group, None
        predicted = [item for sent in group for item in sent.predicted.result()]
        cut = self.cut or [(file.file.path, file.shards)]
        self._commit_group(file, predicted, cut)

    def _forget_ended(self) -> None:
        """Close readers, which hold a row group's buffers, of files whose last shards are read."""
        unread = [*self._small, *(item for sent in self._read for item in sent.items)]
        paths = {request.shard.file.path for _, request in unread}
        for file in self._ended:
            if file.file.path not in paths:
                self._workspace.dataset.forget(file.file)
        self._ended = [file for file in self._ended if file.file.path in paths]

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
        while self._read:
            with suppress(Exception):  # Whoever waits for the shards' results is told.
                self._end_read(self._read.popleft())
        self._workspace.dataset.forget(file.file)
        self.settle_all()
        self._group, self._claimed = None, [item for item in self._claimed if item[0] is not file]

    def _make_room_in_store(self, requests: Sequence[Request]) -> None:
        """At the store's bound, wait until shards in flight are committed and what they needed may go.

        What lies there for these already, from a run that ended early, goes last: then it is made again.
        """
        workspace, waited = self._workspace, 0.0
        there = {
            file.name
            for request in requests
            for file in (workspace.rows_file(request.shard), workspace.predictions_file(request))
        } - workspace.files_in_use
        workspace.files_in_use |= there
        while not workspace.store.make_room(
            self._store_bytes(requests), needed=workspace.files_in_use, released=workspace.files_released
        ):
            if self._sent:
                self._settle(self._sent.popleft())
            elif there:
                workspace.files_in_use -= there
                there = set()
            elif waited < STORE_WAIT_SECONDS:
                time.sleep(1.0)
                waited += 1.0
                workspace.check_stop()
            else:
                raise LimitExceeded("The store is full of files that other runs need. Raise store.max_bytes.")

    def _store_bytes(self, requests: Sequence[Request]) -> int:
        """What these will take in the store, with what is being read and not there yet, as far as a store can hold."""
        unwritten = [request for sent in self._read for request in sent.requests]
        own, others = (
            STORE_BYTES_PER_TEXT_BYTE * sum(request.shard.slice.text_bytes for request in some)
            for some in (requests, unwritten)
        )
        return max(own, min(own + others, self._workspace.store.max_bytes))

    def wait_for_room(self) -> None:
        while len(self._sent) >= self._size:
            self._settle(self._sent.popleft())

    def drain(self) -> None:
        self.send_claimed_by_others()

    def swap_together(self, items: Sequence[Item], cut: Sequence[Cut]) -> bool:
        """Compute all that files have which replace others, and commit them in one transaction.

        False, and nothing is committed, where another run is at one of the shards,
        or too much goes to quarantine. Whatever fails is raised.
        """
        claimed = [item for item in items if self._workspace.claim(item[1])]
        self._group = []
        try:
            if len(claimed) < len(items):
                return False
            sent = self._submit(items) if items else None
            self.wait_until_read()
            predicted = sent.predicted.result() if sent else []
            label = paths_of([request for _, request in items]) if items else cut[0][0]
            outcome = self._executor.submit(stages.materialize, label, predicted, cut=cut, replaces=True).result()
            if isinstance(outcome, Held):
                return False
            self._outcomes.show(outcome, label)
            return True
        finally:
            self._read.clear()
            self._group = None
            self._release(claimed)

    def settle_all(self) -> None:
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
        """Wait for shards that went together; those that have to be done again are sent again, by themselves."""
        again: Sequence[Item] = ()
        try:
            if sent in self._read:
                self._read.remove(sent)
                with suppress(Exception):  # Its result says so too.
                    self._end_read(sent)
            if sent.committed is None:
                _wait(sent.predicted)
                return
            with self._outcomes.failing_alone(sent.paths) if len(sent.items) == 1 else nullcontext():
                sent.predicted.result()
                outcome = sent.committed.result()
                self._outcomes.show(outcome, sent.paths)
                again = self._asked_anew([item for item in sent.items if item[1].shard.shard_id in outcome.dropped])
        except Exception as e:
            if len(sent.items) == 1 or isinstance(e, ENDS_RUN) or is_interrupt(e):
                raise
            again = sent.items
        finally:
            self._release([item for item in sent.items if item not in again])
        self._one_by_one(again)

    def _asked_anew(self, dropped: Sequence[Item]) -> list[Item]:
        """Those of the dropped shards that are asked for by another request than the one they were computed for."""
        if not dropped:
            return []
        wanted = self._workspace.still_wanted([request for _, request in dropped])
        return [
            (file, request)
            for file, request in dropped
            if wanted.get(request.shard.shard_id, request).request_id != request.request_id
        ]


def _wait(future: Future) -> None:
    """Until it is there, or has failed: the end of its file raises that."""
    try:
        future.result()
    except ENDS_RUN:
        raise
    except Exception:  # noqa: BLE001, S110
        pass
