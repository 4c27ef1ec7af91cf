"""Models that write, in torch: whoever else is in a batch, a row is given what `model.generate` gives it alone.

That holds in float32. Where two tokens are so near to each other that the rounding
of sums, which the shape of a batch changes, might decide between them, the row is
written again by itself. In 16 bits such rows would be most of them, and none is.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tidemill import config as options
from tidemill.checkpoints.loading import max_positions
from tidemill.encoding.batching import ANY_LENGTHS, EQUAL_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, Arrays
from tidemill.engines import Load, move_to, never
from tidemill.engines.devices import device_name, resolve_device, resolve_dtype, use_all_cpus
from tidemill.engines.probing.company import facts_of
from tidemill.engines.writing.decoding.causal import CausalLoop, Layout
from tidemill.engines.writing.decoding.choosing import Choice, refuse_unheld
from tidemill.engines.writing.decoding.loop import Loop
from tidemill.engines.writing.decoding.probe import is_same
from tidemill.engines.writing.decoding.rows import Ends, Row
from tidemill.engines.writing.decoding.seq2seq import Seq2SeqLoop
from tidemill.engines.writing.decoding.whole import STOPPED, Beams, Whole, WholeLoop
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import outputs_of
from tidemill.errors import ConfigError, ModelError, Stopped

DEPTH = 3
"""Batches that are known ahead: their rows take the places of those that have ended."""


class _Batch:
    """Rows on their way. One of the threads that wait for theirs computes those of all."""

    def __init__(self, writer: TorchWriter, rows: Sequence[Row], should_stop: Callable[[], bool]) -> None:
        self.rows, self.should_stop = rows, should_stop
        self.error: BaseException | None = None
        self.called = threading.Event()
        """Set when its thread is to look: at its rows, which are there, or for whoever computes."""
        self._writer = writer

    def result(self) -> NDArray[np.int32]:
        self._writer.finish(self)
        if self.error is not None:
            raise self.error
        return outputs_of([row.written() for row in self.rows])

    @property
    def so_far(self) -> list[list[int]]:
        """The ids of each row until now. One that is written again, alone, begins again with the same ids."""
        return [row.ids for row in self.rows]

    @property
    def is_done(self) -> bool:
        return self.error is not None or all(row.finish is not None for row in self.rows)

    @property
    def is_open(self) -> bool:
        """Whether some row is in the loop, where those of all batches are written."""
        return any(row.is_open for row in self.rows)


class TorchWriter:
    name = "torch"
    rounds_widths = False
    pads = True
    reference = None
    company: Company
    fallback: str | None = None
    """Why another engine, which `auto` prefers, does not compute the model."""
    room = 0
    """Tokens that rows of several batches may have together; those under other options have as much."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        settings: Settings,
        *,
        tokenizer: str | Path,
        most_tokens: int | None,
        beside: TorchWriter | None = None,
    ) -> None:
        """`most_tokens` are all positions that the decoder has, where that is bounded. `beside` has the same model."""
        self.model, self.device, self.settings, self._most_tokens = model, device, settings, most_tokens
        # What Transformers fills in from here is then what is meant, too.
        model.generation_config = self._generation = copy.deepcopy(settings.generation)
        self._tokenizer, self._beside = tokenizer, beside
        self._lock: threading.Lock = threading.Lock() if beside is None else beside._lock
        self._batches: list[_Batch] = []
        self._guard = threading.Lock()
        """Of the three below; never held for long, so that rows come in while others are written."""
        self._arrived: list[_Batch] = []
        self._waiting: list[_Batch] = []
        self._is_driven = False
        """Whether some thread computes."""
        self._ends = Ends(settings, tokenizer)
        self._start = _start_of(settings) if settings.is_encoder_decoder else None
        with self._current():
            choice = Choice(model, settings, tokenizer, finds_near=model.dtype == torch.float32)
            self._alone = Whole(model, settings, choice.alone(), self._ends)
            self._loop = self._open_loop(choice)
        self._is_whole = isinstance(self._loop, WholeLoop)
        self.joins = isinstance(self._loop, CausalLoop)
        if beside is not None:
            self.make_room(beside.room)
        self.company = EQUAL_LENGTHS if self._is_whole else ANY_LENGTHS
        self.depth = 1 if self._is_whole else DEPTH

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        load: Load,
        settings: Settings,
        inference: options.Inference,
        tokenizer: str | Path,
    ) -> Self:
        """
        Raises:
            ModelError: the model cannot be loaded, does not fit the device, or its settings ask for what is not done.
            ConfigError: there is no such device, or the dtype is int8.
        """
        use_all_cpus()
        device = resolve_device(inference.device)
        if inference.dtype == "int8":
            raise ConfigError(
                'inference.dtype = "int8" of a model that writes is computed by CTranslate2. Set inference.engine = '
                '"ctranslate2", or another dtype.'
            )
        refuse_unheld(settings)
        # A CPU gains nothing by 16 bits here: a step reads weights, and hardly multiplies by them.
        is_on_cpu = inference.dtype == "auto" and device.type == "cpu"
        dtype = "float32" if is_on_cpu else resolve_dtype(inference.dtype, device)
        model: Any = load(dtype=getattr(torch, dtype))
        if not hasattr(model, "generate"):
            raise ModelError(f"The model in {folder} is a {type(model).__name__}, which does not write.")
        move_to(model, device, folder)
        return cls(model, device, settings, tokenizer=tokenizer, most_tokens=max_positions(model.config))

    def under(self, settings: Settings) -> TorchWriter:
        """The same model, that writes as these say. Batches of both take turns."""
        refuse_unheld(settings)
        with self._lock:
            return TorchWriter(
                self.model,
                self.device,
                settings,
                tokenizer=self._tokenizer,
                most_tokens=self._most_tokens,
                beside=self,
            )

    def make_room(self, num_tokens: int) -> None:
        """Let rows of several batches be written side by side, as many as have so many tokens in all."""
        self.room = num_tokens
        if isinstance(self._loop, CausalLoop):
            self._loop.room = num_tokens

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> _Batch:
        batch = _Batch(self, [self._row(prompt) for prompt in _prompts(inputs)], should_stop)
        if not batch.is_done:
            with self._guard:
                self._arrived.append(batch)
        return batch

    def finish(self, batch: _Batch) -> None:
        """Until it is done, compute it and all others, or wait while another thread does."""
        while not batch.is_done:
            with self._guard:
                drives, self._is_driven = not self._is_driven, True
                if not drives:
                    batch.called.clear()
                    self._waiting.append(batch)
            if not drives:
                batch.called.wait()
                continue
            try:
                while not batch.is_done:
                    self._advance(batch)
                    self._call_those_done()
            finally:
                with self._guard:
                    self._is_driven = False
                    waiting, self._waiting = self._waiting, []
                for each in waiting:  # One of them goes on.
                    each.called.set()

    def _call_those_done(self) -> None:
        with self._guard:
            done = [each for each in self._waiting if each.is_done]
            self._waiting = [each for each in self._waiting if not each.is_done]
        for each in done:
            each.called.set()

    def _advance(self, batch: _Batch) -> None:
        """One more step of all rows, or a row that is to be written alone; `batch` is the thread's own."""
        with self._lock, self._current(), torch.inference_mode():
            self._take_arrived()
            self.model.generation_config = self._generation
            for each in list(self._batches):
                self._leave_if_stopped(each)
            if not batch.is_done:
                self._step(batch)
            for each in [each for each in self._batches if each.is_done]:
                self._batches.remove(each)

    def _leave_if_stopped(self, batch: _Batch) -> None:
        try:
            if batch.should_stop():
                self._leave(batch, Stopped(STOPPED))
        except BaseException as e:  # noqa: BLE001 — `result` raises it: it is this batch's alone
            self._leave(batch, e)

    def _take_arrived(self) -> None:
        with self._guard:
            arrived, self._arrived = self._arrived, []
        for batch in arrived:
            self._loop.put([row for row in batch.rows if row.finish is None])
            self._batches.append(batch)

    def facts(self) -> dict[str, Any]:
        is_by_beams = (self.settings.generation.num_beams or 1) > 1
        return {
            "engine": self.name,
            "device": str(self.device),
            "device_name": device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "generation": self.settings.facts(),
            **({} if is_by_beams else facts_of(self.company)),
            **({"fallback": self.fallback} if self.fallback else {}),
        }

    def release_memory(self) -> None:
        torch.cuda.empty_cache()

    def _step(self, batch: _Batch) -> None:
        # A batch that waits for rows that are written alone gets one of them.
        of = next((each for each in self._batches if not each.is_open), batch)
        try:
            if of.is_open:
                self._loop.step(of.should_stop)
            else:
                self._alone.write([next(row for row in of.rows if row.is_near)], of.should_stop)
        except Stopped as e:
            self._leave(of, e)
        except BaseException as e:  # noqa: BLE001 — `result` raises it
            # Of whose row it is nobody knows: each batch tells its own, and is then computed row by row.
            for each in list(self._batches):
                self._leave(each, e)

    def _leave(self, batch: _Batch, error: BaseException) -> None:
        batch.error = error
        self._batches.remove(batch)
        self._loop.drop(batch.rows)

    def _row(self, prompt: NDArray[np.int64]) -> Row:
        room = self.settings.max_new_tokens
        if self._most_tokens is not None:
            room = min(room, self._most_tokens - (len(prompt) if self._start is None else 0))
        row = Row(prompt, start=self._start, limit=max(room, 0))
        if room <= 0:
            row.fail(f"the prompt's {len(prompt)} tokens fill the model's {self._most_tokens}: nothing can be written")
        return row

    def _open_loop(self, choice: Choice) -> Loop:
        if (self.settings.generation.num_beams or 1) > 1:
            return WholeLoop(self.model, self.settings, Beams(self.model, self.settings, self._ends).write)
        if (open_loop := self._opener()) is not None and self._holds(open_loop):
            return open_loop(choice, self._ends)
        return WholeLoop(self.model, self.settings, Whole(self.model, self.settings, choice, self._ends).write)

    def _opener(self) -> Callable[[Any, Any], Loop] | None:
        config = self.model.config
        layout = Layout.of(config)
        if layout is None:
            return None
        if self.settings.is_encoder_decoder:
            return lambda choice, ends: Seq2SeqLoop(self.model, layout.num_layers, choice, ends, self.device)
        return lambda choice, ends: CausalLoop(self.model, layout, choice, ends, self.device)

    def _holds(self, open_loop: Callable[[Any, Any], Loop]) -> bool:
        """Whether the model may go through the loop; of one that went through it before, nobody asks again."""
        if self._beside is not None and not self._beside._is_whole:
            return True
        return self._is_same(open_loop)

    def _is_same(self, open_loop: Callable[[Any, Any], Loop]) -> bool:
        return is_same(
            open_loop,
            lambda choice, ends, rows: Whole(self.model, self.settings, choice, ends).write(rows, never),
            start=self._start,
            vocabulary_size=self.model.config.get_text_config(decoder=True).vocab_size,
            dtype=self.model.dtype,
        )

    def _current(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def _prompts(inputs: Arrays) -> list[NDArray[np.int64]]:
    ids_BT = inputs[IDS]
    if MASK not in inputs:
        return list(ids_BT)
    return [ids_T[:length] for ids_T, length in zip(ids_BT, inputs[MASK].sum(axis=1).tolist(), strict=True)]


def _start_of(settings: Settings) -> list[int]:
    """What a decoder reads first."""
    generation = settings.generation
    first = generation.decoder_start_token_id
    first = generation.bos_token_id if first is None else first
    if not isinstance(first, int):
        raise ModelError(
            f"The checkpoint says decoder_start_token_id = {first!r}, and an answer begins with one token. Set it in "
            "its generation_config.json."
        )
    return [first]
