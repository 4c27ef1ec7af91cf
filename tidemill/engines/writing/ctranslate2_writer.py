"""Models that write, in CTranslate2 on a CPU or a GPU.

A model is converted once and kept; it is used only where it writes what torch
writes, which is asked once for each model, its settings and this machine.

Shapes: B items of a batch, T tokens of the longest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch

from tidemill import config as options
from tidemill.checkpoints.files import read_json
from tidemill.checkpoints.loading import folder_state, max_positions, padding_of
from tidemill.encoding.batching import ANY_LENGTHS, EQUAL_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, Arrays, Outputs
from tidemill.engines import Load, never
from tidemill.engines.contest.finding import library_versions
from tidemill.engines.devices import device_name, resolve_device, use_all_cpus
from tidemill.engines.probing.conversion import CannotConvert, converting
from tidemill.engines.writing.converted.conversion import convert, require_known
from tidemill.engines.writing.converted.probe import Probe, alone, probe_rows
from tidemill.engines.writing.generation.settings import Settings
from tidemill.engines.writing.generation.written import LENGTH, STOP, Written, failed, outputs_of
from tidemill.engines.writing.holding import ctranslate2_options, probed_settings
from tidemill.engines.writing.torch_writer import TorchWriter
from tidemill.errors import Stopped
from tidemill.fingerprints import fingerprint
from tidemill.machine import num_cpus, processor
from tidemill.storage.conversions import conversion_folder, is_kept, keep_conversion
from tidemill.storage.kept import keep, read_kept

DIFFERS = "converted, it does not write what it writes in torch"
RULES = 1
"""Counts up when a model is converted otherwise, or held against torch by more than before."""
MOST_STREAMS = 8
"""Batches that a CPU computes side by side."""
ASKED_EVERY_SECONDS = 0.01
"""How often a batch on its way looks whether it is still wanted."""


@dataclass(frozen=True)
class _Started:
    """A batch in CTranslate2's threads. Nobody calls it back from there: one that is stopped goes on to its end."""

    results: Sequence[Any]
    of: Callable[[Any, int], Written]
    lengths: Sequence[int]
    should_stop: Callable[[], bool]

    def result(self) -> Outputs:
        while self.should_stop is not never and not all(each.done() for each in self.results):
            if self.should_stop():
                raise Stopped("Stopped within a batch. The shard starts again on the next run.")
            time.sleep(ASKED_EVERY_SECONDS)
        pairs = zip(self.results, self.lengths, strict=True)
        outputs: Outputs = outputs_of([self.of(each.result(), length) for each, length in pairs])
        return outputs


class CTranslate2Writer:
    """A converted model that computes in `dtype`, and writes as `settings` say."""

    name = "ctranslate2"
    rounds_widths = False
    pads = True

    def __init__(
        self,
        model: ctranslate2.Translator | ctranslate2.Generator,
        *,
        settings: Settings,
        device: torch.device,
        dtype: str,
        reference: CTranslate2Writer | None = None,
    ) -> None:
        """`model` is open in `dtype`.

        Raises:
            CannotConvert: CTranslate2 does not hold the settings.
        """
        self.settings, self.device, self.reference = settings, device, reference
        self._model, self._dtype = model, dtype
        self._options = ctranslate2_options(settings)
        self._is_translator = settings.is_encoder_decoder
        # Of prompts of several lengths it takes the ends of the longer ones for what was written.
        self.company: Company = ANY_LENGTHS if self._is_translator else EQUAL_LENGTHS
        self.depth = 2 * (model.num_translators if self._is_translator else model.num_generators)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        load: Load,
        settings: Settings,
        inference: options.Inference,
        tokenizer: str | Path,
    ) -> CTranslate2Writer:
        """
        Raises:
            CannotConvert: CTranslate2 does not take the model, or does not write what torch writes.
            ConfigError: there is no such device.
        """
        use_all_cpus()
        device = resolve_device(inference.device)
        dtype = "float32" if inference.dtype == "auto" else inference.dtype
        with converting():
            ctranslate2_options(settings)
            require_known(str(read_json(Path(folder) / "config.json").get("model_type")))
            exact = _exact(folder, load=load, settings=settings, device=device, tokenizer=tokenizer)
            if dtype == "float32":
                return exact
            model = _open(conversion_folder(_name(folder, settings)), settings, device, dtype)
            reference = exact if dtype == "int8" else None
            return cls(model, settings=settings, device=device, dtype=dtype, reference=reference)

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> _Started:
        ids_BT = inputs[IDS]
        lengths_B = inputs[MASK].sum(axis=1) if MASK in inputs else np.full(len(ids_BT), ids_BT.shape[1])
        source = [[str(id_) for id_ in row[:length]] for row, length in zip(ids_BT.tolist(), lengths_B, strict=True)]
        how = {"max_batch_size": 0, "asynchronous": True, **self._options}
        if self._is_translator:
            results = self._model.translate_batch(source, self._prefix(len(source)), **how)
        else:
            results = self._model.generate_batch(source, **how)
        return _Started(results, self._written, lengths_B.tolist(), should_stop)

    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "device": str(self.device),
            "device_name": device_name(self.device),
            "dtype": self._dtype,
            "ctranslate2": ctranslate2.__version__,
            "generation": self.settings.facts(),
        }

    def release_memory(self) -> None:
        """Out of memory is the machine's on a CPU; on a GPU what CTranslate2 caches goes with the model alone."""

    def under(self, settings: Settings) -> CTranslate2Writer:
        """The same model, that writes as these say."""
        return CTranslate2Writer(self._model, settings=settings, device=self.device, dtype=self._dtype)

    def write(self, inputs: Arrays) -> Outputs:
        return self.submit(inputs).result()

    def _prefix(self, num_rows: int) -> list[list[str]] | None:
        forced = self.settings.generation.forced_bos_token_id
        return None if forced is None else [[str(forced)]] * num_rows

    def _written(self, result: Any, num_prompt_tokens: int) -> Written:
        tokens = result.hypotheses[0] if self._is_translator else result.sequences[0]
        ids = [int(token) for token in tokens]
        if not ids:
            return failed("CTranslate2 writes nothing of a source that is nothing but padding")
        forced = self.settings.generation.forced_eos_token_id
        is_full = len(ids) == self.settings.max_new_tokens
        if is_full and forced is not None:
            ids[-1] = forced
        is_stopped = ids[-1] in self.settings.end_ids and not (is_full and forced is not None)
        return Written(ids, STOP if is_stopped else LENGTH, num_prompt_tokens, len(ids))


def _exact(
    folder: str | Path, *, load: Load, settings: Settings, device: torch.device, tokenizer: str | Path
) -> CTranslate2Writer:
    """The model in float32, which writes what torch writes; its conversion is there afterwards.

    Raises:
        CannotConvert: it does not.
    """
    name, found = _name(folder, settings), _kept_as(folder, settings, device)
    kept = read_kept(found)
    is_asked = isinstance(kept, dict) and "why_not" in kept
    if is_asked and kept["why_not"]:
        raise CannotConvert(str(kept["why_not"]))
    probe = None
    if not (is_asked and is_kept(name)):
        model = load(dtype=torch.float32)
        _require_positions(model.config, settings)
        if not is_asked:
            probe = _asked(folder, model, settings, device, tokenizer)
        if not is_kept(name):
            start_id = settings.generation.decoder_start_token_id if settings.is_encoder_decoder else None
            pad_id = padding_of(model.config) or 0
            keep_conversion(name, partial(convert, model, start_id=start_id, pad_id=pad_id))
        del model
    translator = _open(conversion_folder(name), settings, device, "float32")
    exact = CTranslate2Writer(translator, settings=settings, device=device, dtype="float32")
    if probe is not None:
        why_not = None if probe.holds_for(exact.under(probed_settings(settings)).write, exact.company) else DIFFERS
        keep(found, {"why_not": why_not})
        if why_not:
            raise CannotConvert(why_not)
    return exact


def _asked(folder: str | Path, model: Any, settings: Settings, device: torch.device, tokenizer: str | Path) -> Probe:
    """What torch writes of the probe's rows; the model is on the CPU afterwards."""
    probed = probed_settings(settings)
    rows = probe_rows(
        model.config,
        tokenizer,
        num_new_tokens=probed.max_new_tokens,
        trust_remote_code=settings.trust_remote_code,
    )
    inference = options.Inference(engine="torch", device=str(device), dtype="float32")
    writer = TorchWriter.open(
        folder,
        load=lambda *, dtype: model,
        settings=probed,
        inference=inference,
        tokenizer=tokenizer,
    )
    found = Probe(rows, alone(lambda inputs: writer.submit(inputs).result(), rows))
    model.to("cpu")
    return found


def _require_positions(config: Any, settings: Settings) -> None:
    positions = max_positions(config)
    if positions is not None and settings.max_new_tokens > positions:
        raise CannotConvert(
            f"it has {positions} positions, and max_new_tokens is {settings.max_new_tokens}: torch writes until a row "
            "runs out of them"
        )


def _name(folder: str | Path, settings: Settings) -> str:
    """Of a conversion: what is written into it depends on no other setting."""
    start = settings.generation.decoder_start_token_id
    return fingerprint(RULES, *folder_state(folder), start, *library_versions(), ctranslate2.__version__)


def _kept_as(folder: str | Path, settings: Settings, device: torch.device) -> str:
    told = json.dumps(settings.facts(), sort_keys=True, default=str)
    made_by = fingerprint(_name(folder, settings), told, device_name(device), processor().fingerprint)
    return f"writes-{made_by}"


def _open(
    folder: Path, settings: Settings, device: torch.device, dtype: str
) -> ctranslate2.Translator | ctranslate2.Generator:
    cpus = num_cpus()
    streams = 1 if device.type == "cuda" else cpus // -(-cpus // MOST_STREAMS)
    opens = ctranslate2.Translator if settings.is_encoder_decoder else ctranslate2.Generator
    return opens(
        str(folder),
        device=device.type,
        device_index=device.index or 0,
        compute_type="int8_float16" if (dtype, device.type) == ("int8", "cuda") else dtype,
        inter_threads=streams,
        intra_threads=max(1, cpus // streams),
    )
