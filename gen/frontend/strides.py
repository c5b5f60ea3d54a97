"""Copies of every n-th pixel, which strided slices become: they move into what follows."""

import dataclasses

from popshift.gen.frontend.float_graph import FloatConvolution, FloatGraph, FloatPool, inputs_of
from popshift.gen.frontend.raw import RawOperator
from popshift.gen.graph import Pooling, Window


def strided_copy(name: str, source: str, stride: tuple[int, int]) -> FloatPool:
    """Every n-th pixel of `source`: (N, C, H, W) to (N, C, ceil(H / stride[0]), ceil(W / stride[1]))."""
    window = Window((1, 1), stride)
    return FloatPool(name=name, input=source, output=name, window=window, operation=Pooling.MAX)


def without_strided_copies(graph: FloatGraph, raw: list[RawOperator]) -> list[RawOperator]:
    """A copy that only another copy, or a 1 x 1 convolution, reads gives its stride to that one."""
    readers = [name for operator in raw for name in inputs_of(operator)] + graph.outputs
    copies: dict[str, FloatPool] = {}  # by output
    found: list[RawOperator] = []
    for operator in raw:
        copy = copies.get(operator.input)
        if copy is not None and readers.count(operator.input) == 1 and _takes_stride(operator):
            assert isinstance(operator, FloatConvolution | FloatPool)
            down, across = (a * b for a, b in zip(copy.window.stride, operator.window.stride, strict=True))
            window = dataclasses.replace(operator.window, stride=(down, across))
            found.remove(copy)
            del graph.tensors[operator.input]
            operator = dataclasses.replace(operator, input=copy.input, window=window)
        if _is_copy(operator):
            assert isinstance(operator, FloatPool)
            copies[operator.output] = operator
        found.append(operator)
    return found


def _is_copy(operator: RawOperator) -> bool:
    return (
        isinstance(operator, FloatPool)
        and operator.operation is Pooling.MAX
        and operator.window == Window((1, 1), operator.window.stride)
        and (operator.low, operator.high) == (-float("inf"), float("inf"))
    )


def _takes_stride(operator: RawOperator) -> bool:
    """Whether it reads one pixel for each of its own, without padding."""
    if isinstance(operator, FloatConvolution):
        return operator.window == Window((1, 1), operator.window.stride)
    return _is_copy(operator)
