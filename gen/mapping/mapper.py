"""The mapper's entry: one `Graph` in, one `Program` out."""

from collections.abc import Callable

from popshift.firmware_py.program import Program
from popshift.gen.graph import Convolution, Graph, Pool
from popshift.gen.mapping.assemble import assemble
from popshift.gen.mapping.convolution import convolution_sections
from popshift.gen.mapping.padding import separate_padding
from popshift.gen.mapping.placement import place
from popshift.gen.mapping.pool import padding_section, pool_sections
from popshift.gen.mapping.sections import Section
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError

SECTIONS: dict[type, Callable[..., list[Section]]] = {
    Convolution: convolution_sections,
    Pool: pool_sections,
}
"""What makes the sections of an operator: called with operator, source, target and configuration."""


def map_graph(graph: Graph, config: AcceleratorConfig, *, name: str = "network") -> Program:
    """Map a network onto an accelerator.

    Every operator becomes one layer of the program, in the graph's order; in front of them come the padding
    of inputs and, where two consumers of a tensor want different padding, a copy. The same graph and
    configuration give the same program, byte for byte.

    Raises
    ------
    ModelError: the graph was quantised for another requantisation mode, or some layer or the set of tensors
        alive at some layer exceeds a memory, a field or 32-bit accumulators; the message names it and the
        remedy.
    """
    if graph.mode != config.requantise:
        raise ModelError(
            f"quantised for {graph.mode} requantisation, configuration {config.name} has {config.requantise}",
            where=f"network {name}",
            remedy=f"quantise it for {config.requantise}, or use a configuration with {graph.mode}",
        )
    _check(graph)
    graph = separate_padding(graph)
    placed = place(graph, config)
    sections: list[Section] = [
        padding_section(placed[tensor], config)
        for tensor in graph.inputs
        if not placed[tensor].buffer.padding.is_empty
    ]
    for operator in graph.operators:
        source, target = placed[operator.input], placed[operator.output]
        sections += SECTIONS[type(operator)](operator, source, target, config)
    return assemble(
        name,
        config,
        sections,
        inputs=[placed[tensor].layout for tensor in graph.inputs],
        outputs=[placed[tensor].layout for tensor in graph.outputs],
        tensors=[entry.layout for entry in placed.values()],
    )


def _check(graph: Graph) -> None:
    """The graph's own invariants: front ends keep them."""
    written = set(graph.inputs)
    for operator in graph.operators:
        assert operator.input in written, f"{operator.name} reads {operator.input} before it is written"
        assert operator.output not in written, f"{operator.name} writes {operator.output} a second time"
        written.add(operator.output)
        source, target = graph.tensors[operator.input].shape, graph.tensors[operator.output].shape
        assert target[1:] == operator.window.output_size(*source[1:]), (
            f"{operator.name} has another output size"
        )
