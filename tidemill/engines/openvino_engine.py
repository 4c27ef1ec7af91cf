"""OpenVINO on a CPU: float32, bfloat16 where the processor computes in it, or int8.

One graph takes every shape. A shape that comes up often, as that of texts cut at
`max_length` does, gets a graph of its own, which is faster by up to a tenth; widths are
rounded up a little, so that shapes do come up again. A converted model is used
only if it answers a probe as torch does.

Shapes: B rows of a batch, T tokens of the longest, C outputs.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import properties
from openvino.properties import hint as hints
from torch import Tensor, nn

from tidemill.checkpoints.loading import silence
from tidemill.encoding.batching import ANY_LENGTHS, Company
from tidemill.encoding.items import IDS, MASK, TYPES, Arrays, Items, Outputs
from tidemill.engines import Answer, Calibration, never
from tidemill.engines.devices import device_name
from tidemill.engines.int8.smoothing import NUM_TEXTS, smoothed
from tidemill.engines.int8.weights import quantizes_activations, with_int8_weights
from tidemill.engines.openvino_attention import with_attention_spelled_out
from tidemill.engines.precision.graphs import without_head
from tidemill.engines.precision.heads import head_names
from tidemill.engines.probing.company import facts_of
from tidemill.engines.probing.conversion import (
    CannotConvert,
    converting,
    require_finite,
    require_knowable,
    require_same,
)
from tidemill.engines.probing.state import State
from tidemill.engines.probing.truth import Truth, outputs_of
from tidemill.engines.rates import product_rates
from tidemill.errors import first_line
from tidemill.fingerprints import fingerprint
from tidemill.machine import num_cpus

if TYPE_CHECKING:
    from openvino import CompiledModel, InferRequest, Model


FEW_CPUS = 8
"""Up to here each computes batches of its own and waits for no other. Beyond, OpenVINO decides."""
OFTEN = 64
"""After so many batches of one shape its own graph pays for itself: it takes a quarter of a second to compile, and
makes each batch faster by a hundredth on some processors and a tenth on others."""
MOST_GRAPHS = 6
GRAPHS_BYTES = 512 * 2**20
"""So much memory they may take together. Each holds the weights once more, and activations of its own."""
ACTIVATION_BYTES = 32 * 2**20
"""Of one graph, about."""

logger = logging.getLogger("tidemill")

# OpenVINO quantizes activations while it runs only where they are float32.
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}


@dataclass(frozen=True)
class _Int8:
    """How a graph is computed whose linear layers have weights in 8 bits."""

    group: int
    """So many of a row's activations share a scale."""
    attention: str
    """The dtype of attention, which int8 leaves out."""


@dataclass
class _Graph:
    """A compiled model, and its head if that is compiled by itself, with their idle requests."""

    compiled: CompiledModel
    head: CompiledModel | None = None
    idle: list[_Requests] = field(default_factory=list)

    @property
    def num_streams(self) -> int:
        return int(self.compiled.get_property(properties.optimal_number_of_infer_requests))

    def start(self, inputs: Arrays) -> Answer:
        arrays = _positional(inputs)
        requests = self.idle.pop() if self.idle else self._create()
        requests.body.start_async(list(arrays), share_inputs=True)
        return _Started(self, requests, arrays)

    def _create(self) -> _Requests:
        head = None if self.head is None else self.head.create_infer_request()
        return _Requests(self.compiled.create_infer_request(), head)


@dataclass
class _Requests:
    """Of one batch: `head` takes what `body` gives, where the head is compiled by itself."""

    body: InferRequest
    head: InferRequest | None

    def wait(self) -> InferRequest:
        """Until the outputs are there; they are the first output of what is returned."""
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
    inputs: Sequence[NDArray[Any]]

    def result(self) -> Outputs:
        outputs: Outputs = np.array(self.requests.wait().get_output_tensor(0).data, dtype=np.float32)
        self.graph.idle.append(self.requests)
        return outputs


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
        int8: _Int8 | None = None,
    ) -> None:
        """`head` names the modules that are computed in float32 where `dtype` has 16 bits."""
        self._core = ov.Core()
        self._model = with_attention_spelled_out(
            model, "bf16" if int8 is not None and int8.attention == "bfloat16" else None
        )
        self._dtype, self._is_rewritten, self.reference, self._int8 = dtype, is_rewritten, reference, int8
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

    def submit(self, inputs: Arrays, *, should_stop: Callable[[], bool] = never) -> Answer:
        return self._graph(inputs[IDS].shape).start(inputs)

    def answer(self, inputs: Arrays) -> Outputs:
        return self.submit(inputs).result()

    def facts(self) -> dict[str, Any]:
        return {
            "engine": self.name,
            "device": "cpu",
            "device_name": device_name(torch.device("cpu")),
            "dtype": self._dtype,
            "openvino": ov.__version__.split("-")[0],
            "rewritten": self._is_rewritten,
            **facts_of(self.company),
            **self._facts_of_int8(),
        }

    def _facts_of_int8(self) -> dict[str, Any]:
        if self._int8 is None:
            return {}
        return {
            "activations": "int8" if quantizes_activations() else "float32",
            "attention": self._int8.attention,
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
        cpus = num_cpus()
        options: dict[Any, Any] = {
            hints.inference_precision: _PRECISIONS[self._dtype],
            properties.inference_num_threads: cpus,
        }
        if self._int8 is not None:
            options[hints.dynamic_quantization_group_size] = self._int8.group
        if cpus <= FEW_CPUS:
            options[properties.num_streams] = cpus
        else:
            options[hints.performance_mode] = hints.PerformanceMode.THROUGHPUT
        return _Graph(self._core.compile_model(model, "CPU", options), self._head)


class _Positional(nn.Module):
    """Inputs in one order in, outputs out, for the converter's tracing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, mask_BT: Tensor | None = None, types_BT: Tensor | None = None) -> Tensor:
        given = {IDS: ids_BT, MASK: mask_BT, TYPES: types_BT}
        return outputs_of(self.model(**{name: each for name, each in given.items() if each is not None}))


def _positional(inputs: Arrays) -> tuple[NDArray[Any], ...]:
    """In the order of `_Positional`; a converted model takes a mask in any case."""
    ids_BT = inputs[IDS]
    mask_BT = inputs[MASK] if MASK in inputs else np.ones_like(ids_BT)
    return (ids_BT, mask_BT, inputs[TYPES]) if TYPES in inputs else (ids_BT, mask_BT)


def open_openvino(
    model: nn.Module,
    *,
    dtype: str,
    identity: str,
    truth: Truth,
    company: Company,
    calibration: Calibration | None = None,
    is_rewritten: bool = False,
) -> OpenVinoEngine:
    """A float32 module of torch on the CPU, converted, compiled, and held against what torch answers.

    `identity` names the module's weights, by which is kept what int8 found of them; `company` says which rows are to
    share a batch.

    Raises:
        CannotConvert: whatever goes wrong at that, or OpenVINO does not answer as torch does.
    """
    with converting():
        require_knowable(truth)
        is_int8, weights = dtype == "int8", set[str]()
        if is_int8:
            model, weights = _smoothed(model, identity, calibration, is_rewritten=is_rewritten)
        converted = _convert(model, truth.example(company))
        num_bytes = 2 * sum(parameter.numel() for parameter in model.parameters()) + ACTIVATION_BYTES
        most_graphs = min(MOST_GRAPHS, GRAPHS_BYTES // num_bytes)
        reference = OpenVinoEngine(
            converted,
            dtype="float32",
            is_rewritten=is_rewritten,
            most_graphs=most_graphs if dtype == "float32" else 0,
            company=company,
        )
        require_same(truth, reference.answer, company)
        if dtype == "float32":
            return reference
        int8 = None
        if is_int8:
            converted, group = with_int8_weights(converted, weights)
            int8 = _Int8(group, _dtype_of_attention())
        engine = OpenVinoEngine(
            converted,
            dtype=dtype,
            head=head_names(model),
            is_rewritten=is_rewritten,
            most_graphs=most_graphs,
            reference=reference if is_int8 else None,
            company=company,
            int8=int8,
        )
        require_finite(truth, engine.answer, company)
    return engine


def _dtype_of_attention() -> str:
    """Where linear layers are in int8: what multiplies faster here, of what OpenVINO computes in."""
    knows_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bfloat16" if knows_bfloat16 and product_rates().pays("bfloat16") else "float32"


def _convert(model: nn.Module, example: Arrays) -> Model:
    state = State(model)
    try:
        with torch.no_grad(), silence(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = tuple(map(torch.from_numpy, _positional(example)))
            return ov.convert_model(_Positional(model).eval(), example_input=inputs)
    finally:
        # A converter that failed has changed modules to trace them.
        state.restore()


def _smoothed(
    model: nn.Module, identity: str, calibration: Calibration | None, *, is_rewritten: bool
) -> tuple[nn.Module, set[str]]:
    """The same model ready for int8, and the names that its layers' weights have once it is converted."""
    assert calibration is not None, "int8 needs texts to see which activations are large"
    items = Items.of(calibration(), deduplicate=False)
    batches = [items.collate(np.array([i]), pad_id=0) for i in range(min(len(items), NUM_TEXTS))]
    rows = [{name: values.tolist() for name, values in batch.items()} for batch in batches]
    # Where the last layer is computed for the first token alone, it sees less than for all of them.
    made_by = fingerprint(identity, rows, is_rewritten, getattr(model, "reads_first_token", None), torch.__version__)
    smooth, names = smoothed(model, batches, kept_as=f"int8-{made_by}")
    if not names:
        raise CannotConvert("it has no linear layers that int8 could compute")
    return smooth, {f"self.model.{name}" for name in names}
