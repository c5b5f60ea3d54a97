"""A network that comes in integers already: nothing is left to quantise."""

from dataclasses import dataclass, field

from popshift.gen.graph import Graph
from popshift.gen.host_tail import HostTail


@dataclass(kw_only=True)
class IntegerNetwork:
    """What an integer front end hands over.

    Attributes
    ----------
    graph: the network.
    dims: shape per sample, channels last, of every input and output as the model's file has it; elements in
        row-major (height, width, channel) order of the tensor, whose own shape is (channels, height, width).
    tails: what the host computes from an output, by its name in the graph.
    notes: what the user should know about the import.
    """

    graph: Graph
    dims: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tails: dict[str, HostTail] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
