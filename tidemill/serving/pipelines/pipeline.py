"""A pipeline that is served: its promoted version, and the next one once that is promoted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.checkpoints.served import is_served
from tidemill.config import Pipeline
from tidemill.errors import InputError, ModelError, TidemillError, counted
from tidemill.lake import Lake
from tidemill.lake.pipelines import load_state
from tidemill.machine import memory_bytes
from tidemill.planning.version_tables import load_version
from tidemill.planning.versions import model_folder
from tidemill.results.answers.by_key import rows_by_key
from tidemill.results.promotion import existing_state
from tidemill.serving.answering.calls import Call, Closing, Told
from tidemill.serving.answering.limits import Limits
from tidemill.serving.answering.reuse import Reuse
from tidemill.serving.answering.version import Reading, ServedVersion
from tidemill.serving.answering.workers import Watcher, Workers
from tidemill.serving.pipelines.garbage import leave_out_what_is_there

LOOK_SECONDS = 1.0
"""How often the lake is asked which version is promoted."""
REUSE_SECONDS = 30.0
"""How often it is asked which shards the version has, where answers are taken from the table."""
MODEL_TIMES = 2.5
"""So many times the size of its files a model takes in memory while it is opened, at most: float16 becomes float32."""

logger = logging.getLogger("tidemill")


@dataclass
class _Served:
    """A version with its threads."""

    version: ServedVersion
    workers: Workers
    reuse: Reuse | None = None
    since: float = field(default_factory=time.time)


class ServedPipeline:
    """Threads may share it."""

    def __init__(
        self, pipeline: Pipeline, limits: Limits, watcher: Callable[[str], Watcher], *, reuse: bool = False
    ) -> None:
        """
        Raises:
            LakeError: there is no lake, or it does not have the pipeline.
            ModelError: the model cannot be loaded.
        """
        self.pipeline, self.name = pipeline, pipeline.name
        self._limits, self._watcher, self._reuses = limits, watcher(pipeline.name), reuse
        self._lake = Lake(pipeline.lake, read_only=True)
        self._stop = threading.Event()
        self.trouble: str | None = None
        """Why the version that is promoted is not served, where another is."""
        self.num_swaps = 0
        self._now = self._open(existing_state(self._lake.cursor(), self.name).promoted_version)
        self._follower: threading.Thread | None = None

    @property
    def version(self) -> ServedVersion:
        return self._now.version

    @property
    def workers(self) -> Workers:
        return self._now.workers

    def facts(self) -> dict[str, Any]:
        """For `/version`."""
        spec, resolved = self.version.spec, self.version.runner.resolved
        return {
            "name": self.name,
            "version": self.version.name,
            "task": spec.task,
            "model": spec.model_path,
            "revision": spec.model,
            "served_since": int(self._now.since),
            **{name: resolved.get(name) for name in ("engine", "device", "dtype", "token_budget")},
            **({"not_served": self.trouble} if self.trouble else {}),
        }

    def call(
        self,
        inputs: Sequence[Any],
        parameters: Mapping[str, Any],
        *,
        deadline: float,
        told: Told | None = None,
        reading: Reading | None = None,
    ) -> Call:
        """Ask for rows' answers by the version that is served now, which gives all of them.

        Raises:
            InputError: an input or a parameter is wrong.
            Busy: as many rows wait as may.
            RunFailed: the device broke.
        """
        while True:
            now = self._now
            texts, form = now.version.texts(inputs, reading), now.version.form(parameters, reading)
            call = Call(texts, form, deadline=deadline, told=told)
            try:
                now.workers.put(call)
            except Closing:
                if now is self._now:  # The service ends.
                    raise
                continue
            return call

    def rows(self, key: Sequence[Any]) -> list[dict[str, Any]]:
        """What the table holds of the rows with this key.

        Raises:
            InputError: the key does not fit the table's.
        """
        with self._lake.reached(), self._lake.snapshot() as cursor:
            state = existing_state(cursor, self.name)
            table = load_version(cursor, self.pipeline, state.promoted_version).table
            return rows_by_key(cursor, table, key)

    def follow(self) -> None:
        """From now on serve whatever version is promoted."""
        self._follower = threading.Thread(target=self._follow, name=f"follow {self.name}", daemon=True)
        self._follower.start()

    def look(self) -> None:
        """Serve the version that is promoted now, if that is another one than before.

        It is opened beside the other, so that both are in memory for a while. Calls that the other one has begun it
        ends.
        """
        with self._lake.reached():
            state = load_state(self._lake.cursor(), self.name)
        if state is None or state.promoted_version == self.version.name:
            self.trouble = None
            return
        before, following = self._now, self._open(state.promoted_version, beside=True)
        self._now, self.trouble = following, None
        self.num_swaps += 1
        logger.warning("%s is served by version %s now, in place of %s.", self.name, *_names(following, before))
        before.workers.close()
        before.workers.join(self._limits.deadline_seconds)
        del before
        leave_out_what_is_there()

    def close(self, seconds: float) -> bool:
        """End what is asked already, within so many seconds; whether all of it ended."""
        self._stop.set()
        self._now.workers.close()
        is_done = self._now.workers.join(seconds)
        if is_done:
            self._lake.close()
        return is_done

    def _open(self, name: str, *, beside: bool = False) -> _Served:
        version = load_version(self._lake.cursor(), self.pipeline, name)
        if beside and not is_served(version.spec.model):
            _require_room(model_folder(version.spec), name)
        served = ServedVersion(self.pipeline, version)
        reuse = Reuse(self._lake, version.table) if self._reuses else None
        return _Served(served, Workers(served, self._limits, self._watcher, known=reuse), reuse)

    def _follow(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.look()
                if self._now.reuse is not None and time.monotonic() - looked > REUSE_SECONDS:
                    self._now.reuse.look()
                    looked = time.monotonic()
            except Exception as e:  # noqa: BLE001
                self._note(e)

    def _note(self, error: Exception) -> None:
        """Of a version that cannot be opened, or a lake that does not answer: what is served is served on."""
        said = str(error) if isinstance(error, TidemillError) else type(error).__name__
        if said != self.trouble:
            logger.error("%s goes on with version %s: %s", self.name, self.version.name, said)
        self.trouble = said


def _names(*served: _Served) -> list[str]:
    return [each.version.name for each in served]


def _require_room(folder: Path, name: str) -> None:
    """
    Raises:
        ModelError: memory has no room for another model of this size.
    """
    needed = int(MODEL_TIMES * sum(file.stat().st_size for file in folder.glob("*.safetensors")))
    free = memory_bytes()[1]
    if needed > free:
        raise ModelError(
            f"Version {name} is promoted, and is not opened beside the one that is served: it takes up to "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Free memory, or restart the service."
        )


def find_pipeline(served: Mapping[str, ServedPipeline], name: str | None) -> ServedPipeline:
    """The pipeline that a client names, or the only one.

    Raises:
        InputError: there is none of this name, or none is named and there are several.
    """
    if name is None and len(served) == 1:
        return next(iter(served.values()))
    if name in served:
        return served[str(name)]
    names = ", ".join(served)
    if name is None:
        raise InputError(f"pipeline: {counted(len(served), 'pipeline')} are served here, so name one: {names}.")
    raise InputError(f"pipeline: none of this name is served here. There are: {names}.")
