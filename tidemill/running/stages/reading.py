"""Text files that are cut into shards by reading them, and what was found since the lake was last told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from tidemill.lake.requests import Request
from tidemill.planning.plan import FilePlan
from tidemill.results.adoption import request_shards
from tidemill.running.stages.workspace import Workspace
from tidemill.shards import TOGETHER_BYTES, Shard, Slice
from tidemill.sources import dataset as sources


class Cutting:
    """A text file while it is cut by reading. Survives a failed read: cutting goes on where it was."""

    def __init__(self, file: FilePlan) -> None:
        self.file = file
        self.known = [shard.slice for shard in file.shards]
        self.trusted = file.trusted
        self.cut: list[Slice] = []
        self._slices: Iterator[Slice] | None = None

    @property
    def shards(self) -> list[Shard]:
        """What it was cut into so far."""
        return [Shard(self.file.file, piece) for piece in self.cut]

    def next(self, dataset: sources.Dataset) -> Slice | None:
        """The next slice, whose rows the reader now holds; None at the file's end."""
        try:
            if self._slices is None:
                self._slices = self._from_here(dataset)
            found = next(self._slices, None)
        except BaseException:
            self._slices = None
            dataset.forget(self.file.file)
            raise
        if found is not None:
            self.cut.append(found)
        return found

    def _from_here(self, dataset: sources.Dataset) -> Iterator[Slice]:
        known, trusted = (self.cut, True) if self.cut else (self.known, self.trusted)
        slices = dataset.reader(self.file.file).slices(
            shard_bytes=dataset.shard_bytes, known=list(known), trusted=trusted
        )
        for _ in self.cut:
            next(slices, None)
        return slices


class Reading:
    """Text files that are cut one after the other, and what was found since the lake was last told.

    Survives a failed read: what failed is the first of `files`, and cutting goes on where it was.
    """

    def __init__(self, files: Iterable[FilePlan], *, together: int) -> None:
        self.files, self._together = deque(map(Cutting, files)), together
        self.found: list[tuple[FilePlan, Shard]] = []
        self._found_bytes = 0
        self.ended: list[Cutting] = []
        self.elsewhere: list[FilePlan] = []
        """What another run is cutting."""
        self._claimed = False

    @property
    def is_open(self) -> bool:
        """Whether there is more to read, or to tell the lake."""
        return bool(self.files or self.found or self.ended)

    @property
    def label(self) -> str:
        """What is read on, as it is named to people: reading may end one file and begin the next."""
        others = " and on" if len(self.files) > 1 else ""
        return f"{self.files[0].file.file.path}{others}" if self.files else "the files' end"

    @property
    def is_full(self) -> bool:
        """Whether what was found is as much as goes through the stages together."""
        return len(self.found) >= self._together or self._found_bytes >= TOGETHER_BYTES

    def find(self, shard: Shard) -> None:
        """Enter a new shard of the first file."""
        self.found.append((self.files[0].file, shard))
        self._found_bytes += shard.slice.text_bytes

    def first(self, workspace: Workspace) -> Cutting | None:
        """The file to be read on, the first that nobody else is cutting."""
        while self.files and not self._claimed:
            self._claimed = workspace.claim(self.files[0].file.file.path)
            if not self._claimed:
                self.elsewhere.append(self.files.popleft().file)
        return self.files[0] if self.files else None

    def end(self) -> None:
        """The first file is read to its end; it stays claimed until the lake knows."""
        self.ended.append(self.files.popleft())
        self._claimed = False

    def drop(self, workspace: Workspace) -> FilePlan:
        """Leave off the first file, which cannot be read on."""
        cutting = self.files.popleft()
        if self._claimed:
            workspace.release(cutting.file.file.path)
        self._claimed = False
        workspace.dataset.forget(cutting.file.file)
        return cutting.file

    def ask(self, workspace: Workspace) -> list[tuple[FilePlan, Request]]:
        """List what was found in the lake, and ask for it; what the target does not list any more has no request."""
        if not (self.found or self.ended):
            return []
        requested = request_shards(
            workspace.lake,
            workspace.target,
            [(shard, file.state) for file, shard in self.found],
            cut=[(cutting.file.file.path, cutting.shards) for cutting in self.ended],
        )
        found, self.found, self._found_bytes = self.found, [], 0
        return [
            (file, Request(shard, requested[shard.shard_id])) for file, shard in found if shard.shard_id in requested
        ]

    def leave_ended(self, workspace: Workspace) -> list[tuple[str, list[Shard]]]:
        """Close the files that were read to their end, and give back the claims on them: (path, all shards) of each."""
        ended, self.ended = self.ended, []
        for cutting in ended:
            workspace.dataset.forget(cutting.file.file)
            workspace.release(cutting.file.file.path)
        return [(cutting.file.file.path, cutting.shards) for cutting in ended]

    def close(self, workspace: Workspace) -> None:
        """Give back all claims, however it ended."""
        self.leave_ended(workspace)
        if self.files and self._claimed:
            self.drop(workspace)
