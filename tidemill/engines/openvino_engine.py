"""OpenVINO on a CPU: bfloat16 where the processor computes in it, or calibrated int8.

One graph takes every shape. A shape that comes up often, as that of texts cut at
`max_length` does, gets a graph of its own, which is faster by a tenth; widths are
rounded up a little, so that shapes do come up again. A converted model is used
only if it answers a probe as torch does.

Shapes: B rows of a batch, T tokens of the longest, C outputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tidemill.encoding.batching import ANY_LENGTHS, Company, plan_batches
from tidemill.encoding.sequences import Sequences
from tidemill.engines import Answer, CalibrationIds, Ids, Logits
from tidemill.engines.devices import device_name, num_cpus, resolve_dtype
from tidemill.engines.encoders import Encoder
from tidemill.engines.precision.heads import head_names
from tidemill.engines.probing.company import facts_of
from tidemill.engines.probing.conversion import converting, require_finite, require_knowable, require_same
from tidemill.engines.probing.state import State
from tidemill.engines.probing.truth import Truth
from tidemill.errors import first_line
from tidemill.fingerprints import fingerprint
from tidemill.models.checkpoint import silence
from tidemill.places import home, make_folders

# Where it finds the package for that, it asks in the middle of a run for leave to send usage statistics.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import properties  # noqa: E402
from openvino.properties import hint as hints  # noqa: E402

from tidemill.engines.openvino_attention import with_attention_spelled_out  # noqa: E402
from tidemill.engines.precision.graphs import without_head  # noqa: E402

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Model


FEW_CPUS = 8
"""Up to here each computes batches of its own and waits for no other. Beyond, OpenVINO decides."""
OFTEN = 16
"""After so many batches of one shape its own graph has paid for itself."""
MOST_GRAPHS = 6
GRAPHS_BYTES = 512 * 2**20
"""So much memory they may take together. Each holds the weights once more, and activations of its own."""
ACTIVATION_BYTES = 32 * 2**20
"""Of one graph, about."""
INT8_BATCH_TOKENS = 2_048
QUANTIZED_AS = 2
"""Counts up whenever `_quantize`, or the graph of a rewritten encoder, changes: what was kept is then made anew."""

logger = logging.getLogger("tidemill")

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass
class _Graph:
    """A compiled model, and its head if that is compiled by itself, with their idle requests."""

    compiled: CompiledModel
    head: CompiledModel | None = None
    idle: list[_Requests] = field(default_factory=list)

    @property
    def num_streams(self) -> int:
        return int(self.compiled.get_property(properties.optimal_number_of_infer_requests))

    def start(self, ids_BT: Ids, mask_BT: Ids | None) -> Answer:
        inputs = [ids_BT, np.ones_like(ids_BT) if mask_BT is None else mask_BT]
        requests = self.idle.pop() if self.idle else self._create()
        requests.body.start_async(inputs, share_inputs=True)
        return _Started(self, requests, inputs)

    def _create(self) -> _Requests:
        head = None if self.head is None else self.head.create_infer_request()
        return _Requests(self.compiled.create_infer_request(), head)


@dataclass
class _Requests:
    """Of one batch: `head` takes what `body` gives, where the head is compiled by itself."""

    body: InferRequest
    head: InferRequest | None

    def wait(self) -> InferRequest:
        """Until the logits are there; they are the first output of what is returned."""
        self.body.wait()
        if self.head is None:
            return self.body
        results = [tensor.data for tensor in self.body.output_tensors]
        self.head.infer(results, share_inputs=True)
        return self.head


@dataclass
class _Started:
    """A batch in a request, which reads `inputs` where they lie until it is done."""

    graph: _Graph
    requests: _Requests
    inputs: list[Ids]

    def result(self) -> Logits:
        logits_BC: Logits = np.array(self.requests.wait().get_output_tensor(0).data, dtype=np.float32)
        self.graph.idle.append(self.requests)
        return logits_BC


class OpenVinoEngine:
    """A converted model, compiled to compute in `dtype`.

    At most `most_graphs` shapes get a graph of their own.
    """

    name = "openvino"
    pads = True

    def __init__(
        self,
        model: Model,
        *,
        dtype: str,
        head: Sequence[str] = (),
        is_rewritten: bool = False,
        most_graphs: int = 0,
        reference: OpenVinoEngine | None = None,
        company: Company = ANY_LENGTHS,
    ) -> None:
        """`head` names the modules that are computed in float32 where `dtype` has 16 bits."""
        self._core = ov.Core()
        self._model = with_attention_spelled_out(model)
        self._dtype, self._is_rewritten, self.reference = dtype, is_rewritten, reference
        self._head: CompiledModel | None = None
        if dtype in ("bfloat16", "float16") and (parts := without_head(self._model, head)):
            self._model = parts[0]
            in_float32 = {hints.inference_precision: "f32", properties.inference_num_threads: num_cpus()}
            self._head = self._core.compile_model(parts[1], "CPU", in_float32)
        self.company, self.rounds_widths = company, company == ANY_LENGTHS
        self._any_shape = self._compile(self._model)
        self._most_graphs = most_graphs
        self._graphs: dict[tuple[int, ...], _Graph] = {}
        self._seen: Counter[tuple[int, ...]] = Counter()
        self.depth = 2 * self._any_shape.num_streams

    def submit(self, ids_BT: Ids, mask_BT: Ids | None) -> Answer:
        return self._graph(ids_BT.shape).start(ids_BT, mask_BT)

    def answer(self, ids_BT: Ids, mask_BT: Ids | None) -> Logits:
        return self.submit(ids_BT, mask_BT).result()

    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "device": "cpu",
            "device_name": device_name(torch.device("cpu")),
            "dtype": self._dtype,
            "openvino": ov.__version__.split("-")[0],
            "rewritten": self._is_rewritten,
            **facts_of(self.company),
        }

    def release_memory(self) -> None:
        """Out of memory is the machine's here: only the graphs of single shapes can go."""
        self._graphs.clear()
        self._most_graphs = 0

    def _graph(self, shape: tuple[int, ...]) -> _Graph:
        self._seen[shape] += 1
        if shape not in self._graphs and self._seen[shape] >= OFTEN and len(self._graphs) < self._most_graphs:
            self._add_graph(shape)
        return self._graphs.get(shape) or self._any_shape

    def _add_graph(self, shape: tuple[int, ...]) -> None:
        """Where a shape's own graph does not compile, the one that takes every shape goes on."""
        try:
            model = self._model.clone()
            model.reshape({each.any_name: list(shape) for each in model.inputs})
            self._graphs[shape] = self._compile(model)
        except Exception as e:  # noqa: BLE001 — OpenVINO raises RuntimeError for whatever it is
            logger.warning("OpenVINO compiles no graph for batches of %d x %d tokens: %s", *shape, first_line(e))
            self._most_graphs = 0

    def _compile(self, model: Model) -> _Graph:
        # What int8 leaves out, attention above all, is computed in the fastest other type.
        dtype = resolve_dtype("auto", torch.device("cpu")) if self._dtype == "int8" else self._dtype
        cpus = num_cpus()
        options: dict[Any, Any] = {
            hints.inference_precision: _PRECISIONS[dtype],
            properties.inference_num_threads: cpus,
        }
        if cpus <= FEW_CPUS:
            options[properties.num_streams] = cpus
        else:
            options[hints.performance_mode] = hints.PerformanceMode.THROUGHPUT
        return _Graph(self._core.compile_model(model, "CPU", options), self._head)


class _Positional(nn.Module):
    """Ids and a mask in, logits out, for the converter's tracing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if isinstance(self.model, Encoder):
            logits_BC: Tensor = self.model(ids_BT, mask_BT)
        else:
            logits_BC = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        return logits_BC


def open_openvino(
    model: nn.Module,
    *,
    dtype: str,
    identity: str,
    truth: Truth,
    company: Company,
    calibration: CalibrationIds | None = None,
    is_rewritten: bool = False,
) -> OpenVinoEngine:
    """A float32 module of torch on the CPU, converted, compiled, and held against what torch answers.

    `identity` names the module's weights, by which an int8 model is kept; `company` says which rows are to share a
    batch.

    Raises:
        CannotConvert: whatever goes wrong at that, or OpenVINO does not answer as torch does.
    """
    with converting():
        require_knowable(truth)
        converted = _convert(model, truth.example(company))
        reference = OpenVinoEngine(converted, dtype="float32", is_rewritten=is_rewritten, company=company)
        require_same(truth, reference.answer, company)
        num_bytes = 2 * sum(parameter.numel() for parameter in model.parameters()) + ACTIVATION_BYTES
        is_int8 = dtype == "int8"
        engine = OpenVinoEngine(
            _quantized(converted, identity, calibration, is_rewritten=is_rewritten) if is_int8 else converted,
            dtype=dtype,
            head=head_names(model),
            is_rewritten=is_rewritten,
            most_graphs=min(MOST_GRAPHS, GRAPHS_BYTES // num_bytes),
            reference=reference if is_int8 else None,
            company=company,
        )
        if dtype != "float32":
            require_finite(truth, engine.answer, company)
    return engine


def _convert(model: nn.Module, example: tuple[Ids, Ids]) -> Model:
    state = State(model)
    try:
        with torch.no_grad(), silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = tuple(map(torch.from_numpy, example))
            return ov.convert_model(_Positional(model).eval(), example_input=inputs)
    finally:
        # A converter that failed has changed modules to trace them.
        state.restore()


def _quantized(model: Model, identity: str, calibration: CalibrationIds | None, *, is_rewritten: bool) -> Model:
    """The int8 model as it was calibrated before on this machine, or calibrated now and kept."""
    import nncf

    assert calibration is not None, "int8 needs texts to set its ranges by"
    ids = calibration()
    made_by = (QUANTIZED_AS, is_rewritten, ov.__version__, nncf.__version__)
    path = home() / "quantized" / f"{fingerprint(identity, ids.to_pylist(), *made_by)}.xml"
    if (kept := _kept(path)) is not None:
        return kept
    quantized = _quantize(model, Sequences.of(ids, deduplicate=True))
    # Not being able to keep it costs the next run a calibration, and no more. OpenVINO says so in a RuntimeError.
    with contextlib.suppress(OSError, RuntimeError):
        _keep(quantized, path)
    return quantized


def _kept(path: Path) -> Model | None:
    """The model at `path`, if its graph and weights are those that were kept there."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if path.with_suffix(".sum").read_text(encoding="utf-8") == _sum_of(path):
            return ov.Core().read_model(path)
    return None


def _keep(model: Model, path: Path) -> None:
    make_folders(path.parent)
    with tempfile.TemporaryDirectory(suffix=".partial", dir=path.parent) as folder:
        unpublished = Path(folder, path.name)
        ov.save_model(model, unpublished, compress_to_fp16=False)
        unpublished.with_suffix(".sum").write_text(_sum_of(unpublished), encoding="utf-8")
        for suffix in (".bin", ".xml", ".sum"):
            unpublished.with_suffix(suffix).replace(path.with_suffix(suffix))


def _sum_of(path: Path) -> str:
    """Of a model's graph and weights."""
    digest = hashlib.sha256()
    for file in (path, path.with_suffix(".bin")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _quantize(model: Model, sequences: Sequences) -> Model:
    """Weights and activations of the linear layers in int8; attention stays as it is, where int8 costs most answers."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    batches = list(_calibration_batches(sequences))
    # It draws progress bars on standard output, where a command's answer belongs.
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(types=["ScaledDotProductAttention"], validate=False),
        )


def _calibration_batches(sequences: Sequences) -> Iterable[tuple[Ids, Ids]]:
    budget = max(INT8_BATCH_TOKENS, int(sequences.lengths.max()))
    for batch in plan_batches(sequences.lengths, token_budget=budget):
        ids_BT, mask_BT = sequences.padded(batch, pad_id=0)
        yield ids_BT, np.ones_like(ids_BT) if mask_BT is None else mask_BT
