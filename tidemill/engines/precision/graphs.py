"""An OpenVINO graph in two: all but the head, and the head, which is computed in float32 beside it.

OpenVINO computes a graph in one precision, and rounds what its last product gives
to that too. The cut lies where nodes of the head's modules begin, which the
converter names after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as operations

if TYPE_CHECKING:
    from openvino import Model, Node

Port = tuple[int, int]
"""Which node in topological order, and which of its outputs: the same in a copy."""


def without_head(model: Model, names: Sequence[str]) -> tuple[Model, Model] | None:
    """The model up to its head, with what the head reads as results, and the head that takes these; None without one.

    `names` are those of the head's modules within the one that was converted.
    """
    nodes = model.get_ordered_ops()
    number = {node: i for i, node in enumerate(nodes)}
    head = _head(nodes, number, [f"__module.model.{name}" for name in names])
    if not head or not any(nodes[i].get_type_name() == "Result" for i in head):
        return None
    cut = sorted({port for i in head for port in _inputs(nodes[i], number) if _is_cut(nodes, port, head)})
    return _up_to(model, cut), _from(model, cut, head)


def _head(nodes: Sequence[Node], number: dict[Node, int], prefixes: Sequence[str]) -> set[int]:
    """Nodes of those modules, and whatever comes after them."""
    head: set[int] = set()
    for i, node in enumerate(nodes):
        name = node.get_friendly_name()
        belongs = any(name.startswith((f"{prefix}.", f"{prefix}/")) for prefix in prefixes)
        if belongs or any(source in head for source, _ in _inputs(node, number)):
            head.add(i)
    return head


def _inputs(node: Node, number: dict[Node, int]) -> list[Port]:
    sources = [node.input_value(i) for i in range(node.get_input_size())]
    return [(number[source.get_node()], source.get_index()) for source in sources]


def _is_cut(nodes: Sequence[Node], port: Port, head: set[int]) -> bool:
    """Constants go with whoever reads them."""
    return port[0] not in head and nodes[port[0]].get_type_name() != "Constant"


def _up_to(model: Model, cut: Sequence[Port]) -> Model:
    copy = model.clone()
    nodes = copy.get_ordered_ops()
    return ov.Model([nodes[i].output(port) for i, port in cut], copy.get_parameters(), "body")


def _from(model: Model, cut: Sequence[Port], head: set[int]) -> Model:
    copy = model.clone()
    nodes = copy.get_ordered_ops()
    number = {node: i for i, node in enumerate(nodes)}
    parameters = []
    for i, port in cut:
        output = nodes[i].output(port)
        parameters.append(operations.parameter(output.get_partial_shape(), output.get_element_type()))
        for reader in output.get_target_inputs():
            if number[reader.get_node()] in head:
                reader.replace_source_output(parameters[-1].output(0))
    return ov.Model(copy.get_results(), parameters, "head")
