"""The order of a network's layers, where its branches leave a choice."""

import dataclasses
from collections.abc import Iterator

from popshift.firmware_py.program import Program
from popshift.gen.graph import Convolution, Graph, Operator


def orders(graph: Graph) -> Iterator[Graph]:
    """The graph as it is; and, if that is another order, with small layers as late as possible: beside a
    shortcut that is computed last, what the layers in front of it have left for the post unit gets done.
    """
    yield graph
    late = _late(graph)
    if [operator.name for operator in late] != [operator.name for operator in graph.operators]:
        yield dataclasses.replace(graph, operators=late)


def as_mapped(graph: Graph, program: Program) -> Graph:
    """The graph with its operators in the order of the program's layers."""
    place = {layer.output: number for number, layer in enumerate(program.layers)}
    return dataclasses.replace(graph, operators=sorted(graph.operators, key=lambda item: place[item.output]))


def _late(graph: Graph) -> list[Operator]:
    """From the last layer to the first, of those whose result nothing in front needs the one with the least
    work; of several the last.
    """
    left, found = list(graph.operators), list[Operator]()
    while left:
        needed = {name for operator in left for name in operator.inputs}
        ready = [operator for operator in left if operator.output not in needed]
        chosen = min(reversed(ready), key=lambda operator: _work(graph, operator))
        left.remove(chosen)
        found.append(chosen)
    return found[::-1]


def _work(graph: Graph, operator: Operator) -> int:
    """Multiply-accumulates."""
    if not isinstance(operator, Convolution):
        return 0
    _, height, width = graph.tensors[operator.output].shape
    return operator.weight.size * height * width
