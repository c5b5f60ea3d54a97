"""The mapper's entry: one `Graph` in, one `Program` out."""

import itertools
from collections.abc import Callable
from dataclasses import replace

from popshift.firmware_py.program import Program
from popshift.gen.graph import Add, Convolution, Graph, Operator, Pool
from popshift.gen.mapping.assemble import assemble
from popshift.gen.mapping.beside import with_channel_unit
from popshift.gen.mapping.convolution import convolution_sections
from popshift.gen.mapping.depthwise import depthwise_ways
from popshift.gen.mapping.order import orders
from popshift.gen.mapping.padding import separate_padding
from popshift.gen.mapping.placement import Placed, place
from popshift.gen.mapping.pool import padding_section, pool_sections
from popshift.gen.mapping.sections import Section
from popshift.gen.mapping.sums import fuse_sums
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.sim.cycles import predicted_cycles

SECTIONS: dict[type, Callable[..., list[Section]]] = {
    Convolution: convolution_sections,
    Pool: pool_sections,
}
"""What makes the sections of an operator: called with the operator, its inputs' places, its output's, and the
configuration.
"""


def prepared(graph: Graph, config: AcceleratorConfig) -> Graph:
    """The graph as it is placed and mapped: with the operators that the hardware has.

    Raises
    ------
    ModelError: the configuration lacks one.
    """
    return separate_padding(fuse_sums(graph, config))


def map_graph(graph: Graph, config: AcceleratorConfig, *, name: str = "network") -> Program:
    """Map a network onto an accelerator.

    Every operator becomes one layer of the program, in the order of `popshift.gen.mapping.order` that takes
    the fewest segments (a program of one keeps its weights on the board), then the fewest cycles; in front of
    them come the padding of inputs and, where two consumers of a tensor want different padding, a copy. The
    same graph and configuration give the same program, byte for byte.

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
    programs, refused = [], []
    for ordered in orders(prepared(graph, config)):
        for beside in (False, True) if config.depthwise else (False,):
            try:
                programs.append(_mapped(ordered, config, name, beside))
            except ModelError as error:
                refused.append(error)
    if not programs:
        raise refused[0]
    return min(programs, key=lambda program: (len(program.segments), predicted_cycles(program)))


def _mapped(graph: Graph, config: AcceleratorConfig, name: str, beside: bool) -> Program:
    """The program for layers in this order; `beside`: with depthwise layers beside the layer in front."""
    placed = place(graph, config, beside=beside)
    paddings: list[Section] = [
        replace(padding_section(placed[tensor], config), writes=[placed[tensor].words])
        for tensor in graph.inputs
        if not placed[tensor].buffer.padding.is_empty
    ]

    def where(operator: Operator) -> tuple[list[Placed], Placed]:
        return [placed[name] for name in operator.inputs], placed[operator.output]

    def located(operator: Operator, sections: list[Section]) -> list[Section]:
        sources, target = where(operator)
        reads, writes = [source.words for source in sources], [target.words]
        return [replace(section, reads=reads, writes=writes) for section in sections]

    layers = [
        located(operator, SECTIONS[type(operator)](operator, *where(operator), config))
        for operator in graph.operators
    ]
    for number, operator in enumerate(graph.operators if beside else []):
        if not isinstance(operator, Convolution):
            continue
        (source, *_), target = where(operator)
        ways = [located(operator, found) for found in depthwise_ways(operator, source, target, config)]
        front, by_planes = graph.operators[max(0, number - 1)], list[Section]()
        if ways and isinstance(front, Convolution) and front.output == operator.input:
            by_planes = convolution_sections(front, *where(front), config, whole=True)
        layers = with_channel_unit(layers, number, located(front, by_planes), ways, config)
    return assemble(
        name,
        config,
        [*paddings, *itertools.chain(*layers)],
        inputs=[placed[tensor].layout for tensor in graph.inputs],
        outputs=[placed[tensor].layout for tensor in graph.outputs],
        tensors=[entry.layout for entry in placed.values()],
    )


def _check(graph: Graph) -> None:
    """The graph's own invariants: front ends keep them."""
    written = set(graph.inputs)
    for operator in graph.operators:
        for name in operator.inputs:
            assert name in written, f"{operator.name} reads {name} before it is written"
        assert operator.output not in written, f"{operator.name} writes {operator.output} a second time"
        written.add(operator.output)
        source, target = graph.tensors[operator.input].shape, graph.tensors[operator.output].shape
        if isinstance(operator, Add):
            assert source == target == graph.tensors[operator.other].shape, f"{operator.name}: other shapes"
            continue
        assert target[1:] == operator.window.output_size(*source[1:]), (
            f"{operator.name} has another output size"
        )
