"""Physical padding: the room around a tensor that its consumers' windows reach into, and the value that
stands there.

See `firmware_py/layout.py` and `docs/architecture.md`. Convolutions and average pools want the zero point (a
real 0), max pools -128 (which never wins), bits 0. A tensor that would need both gets a copy.
"""

import dataclasses
from dataclasses import dataclass

from popshift.gen.graph import Add, Graph, Operator, Pool, Pooling, Requantisation, Tensor, Window
from popshift.hw import numerics


@dataclass(frozen=True, slots=True)
class Padding:
    """Rows above and below, words between two rows, and what they hold."""

    top: int = 0
    bottom: int = 0
    side: int = 0
    value: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.top or self.bottom or self.side)


def reach(window: Window, shape: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) padding that windows over `shape` really read; strides may skip some."""
    top, _, left, _ = window.padding
    rows, columns = window.output_size(*shape[1:])
    bottom = (rows - 1) * window.stride[0] + window.dilation[0] * (window.kernel[0] - 1) + 1 - top - shape[1]
    right = (
        (columns - 1) * window.stride[1] + window.dilation[1] * (window.kernel[1] - 1) + 1 - left - shape[2]
    )
    return top, max(0, bottom), left, max(0, right)


def value_wanted(operator: Operator, tensor: Tensor) -> int | None:
    """What `operator` needs in the padding of its input `tensor`, or None if it reads none."""
    assert not isinstance(operator, Add), "sums have been fused"
    if operator.input != tensor.name or not any(reach(operator.window, tensor.shape)):
        return None
    if isinstance(operator, Pool) and operator.operation is Pooling.MAX and not tensor.bits:
        return numerics.ACTIVATION_MIN
    return tensor.zero_point


def padding_of(graph: Graph, name: str) -> Padding:
    """The padding that serves every consumer of `name`; they all want one value after `separate_padding`."""
    tensor = graph.tensors[name]
    consumers = [
        consumer
        for consumer in graph.consumers(name)
        if consumer.input == name and not isinstance(consumer, Add)
    ]
    reaches = [reach(consumer.window, tensor.shape) for consumer in consumers]
    values = {value_wanted(consumer, tensor) for consumer in consumers} - {None}
    assert len(values) <= 1, f"consumers of {name} want different padding values"
    top, bottom, left, right = (
        (max(sides) for sides in zip(*reaches, strict=True)) if reaches else (0, 0, 0, 0)
    )
    return Padding(top, bottom, max(left, right), values.pop() or 0) if values else Padding()


def separate_padding(graph: Graph) -> Graph:
    """A graph in which all consumers of a tensor agree on its padding value: padded max pools read from a
    copy where they do not.

    The copy is a max pool of 1 x 1 with factor one, placed in front of the first max pool that needs it.
    """
    operators: list[Operator] = []
    tensors = dict(graph.tensors)
    copies: dict[str, str] = {}
    for operator in graph.operators:
        source = graph.tensors[operator.input]
        wanted = value_wanted(operator, source)
        others = {value_wanted(other, source) for other in graph.consumers(source.name)} - {None}
        if wanted != source.zero_point and wanted is not None and len(others) > 1:
            if source.name not in copies:
                copies[source.name] = _unused_name(tensors, f"{source.name}.copy")
                tensors[copies[source.name]] = dataclasses.replace(source, name=copies[source.name])
                operators.append(_copy(graph, source, copies[source.name]))
            operator = dataclasses.replace(operator, input=copies[source.name])
        operators.append(operator)
    return dataclasses.replace(graph, tensors=tensors, operators=operators)


def _unused_name(taken: dict[str, Tensor], name: str) -> str:
    while name in taken:
        name += "'"
    return name


def _copy(graph: Graph, source: Tensor, name: str) -> Pool:
    return Pool(
        name=name,
        input=source.name,
        output=name,
        window=Window((1, 1)),
        operation=Pooling.MAX,
        requantisation=Requantisation.identity(source.shape[0], graph.mode),
    )
