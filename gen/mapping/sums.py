"""Sums of two tensors: the post unit adds the other tensor to what a convolution writes, so that a sum costs
no pass over the data of its own.
"""

import dataclasses

import numpy as np

from popshift.gen.graph import (
    Add,
    Convolution,
    Factor,
    FusedSum,
    Graph,
    Operator,
    Requantisation,
    Tensor,
    Window,
)
from popshift.hw import numerics
from popshift.hw.config import AcceleratorConfig
from popshift.hw.errors import ModelError
from popshift.hw.isa import Lane
from popshift.hw.numerics import Requantise, quantise_multiplier


def fuse_sums(graph: Graph, config: AcceleratorConfig) -> Graph:
    """A graph without `Add`: each has become part of the convolution that makes one of its inputs, of two the
    one with more weights for a result, behind which the sum hides. If neither is made by one, or the result
    is needed elsewhere too, a 1 x 1 convolution that copies comes in between.

    Raises
    ------
    ModelError: the configuration cannot add tensors.
    """
    operators: list[Operator] = []
    tensors = dict(graph.tensors)
    for operator in graph.operators:
        if not isinstance(operator, Add):
            operators.append(operator)
            continue
        if not config.residual:
            raise ModelError(
                f"configuration {config.name} cannot add two tensors",
                where=f"layer {operator.name}",
                remedy="use a configuration with residual = true (not on iCE40, whose memories cannot do it)",
            )
        if _half(graph.mode) not in (operator.first, operator.second):
            raise ModelError(
                "neither of its factors is one half",
                where=f"layer {operator.name}",
                remedy="make them with popshift.gen.compress.sums.sum_factors",
            )
        producer = _producer(graph, operator, operators, config)
        if producer is None:
            copied = graph.tensors[operator.input]
            result = dataclasses.replace(copied, name=f"{operator.name}.copy")
            producer = _copy(graph, copied, result)
            swapped = False
        else:
            operators.remove(producer)
            result = tensors.pop(producer.output)
            swapped = producer.output == operator.other
        operators.append(_fused(producer, operator, result, swapped=swapped))
    return dataclasses.replace(graph, tensors=tensors, operators=operators)


def _producer(
    graph: Graph, add: Add, operators: list[Operator], config: AcceleratorConfig
) -> Convolution | None:
    """The convolution that makes one of the inputs, for nothing else, and that can be drained so."""
    found = [
        operator
        for operator in operators
        if isinstance(operator, Convolution)
        and operator.output in add.inputs
        and operator.sum is None
        and (operator.factors is None or config.rebuild)
        and operator.output not in graph.outputs
        and len(graph.consumers(operator.output)) == 1
    ]
    if add.input == add.other or not found:
        return None
    return max(found, key=lambda operator: operator.weight[0].size)


def _copy(graph: Graph, source: Tensor, result: Tensor) -> Convolution:
    channels = source.shape[0]
    return Convolution(
        name="copy",
        input=source.name,
        output=result.name,
        window=Window((1, 1)),
        weight=np.eye(channels, dtype=np.int8)[:, :, None, None],
        bias=np.zeros(channels, np.int64),
        requantisation=Requantisation.identity(channels, graph.mode),
    )


def _fused(producer: Convolution, add: Add, result: Tensor, *, swapped: bool) -> Convolution:
    own, of_other = (add.second, add.first) if swapped else (add.first, add.second)
    fused = FusedSum(
        name=add.name,
        result=result,
        other=add.input if swapped else add.other,
        own=own,
        of_other=of_other,
        requantisation=add.requantisation,
    )
    return dataclasses.replace(producer, name=f"{producer.name} + {add.name}", output=add.output, sum=fused)


def _half(mode: Requantise) -> Factor:
    """Of the tensor with the larger scale, as `popshift.gen.compress.sums` has it."""
    return Factor(*quantise_multiplier(0.5, mode))


def scales_result(fused: FusedSum, config: AcceleratorConfig) -> bool:
    """Whether the result is scaled, and the other tensor just halved."""
    return fused.own != _half(config.requantise)


def sum_lanes(fused: FusedSum, other_zero_point: int, config: AcceleratorConfig) -> list[list[Lane]]:
    """The two parameter words in front of the channels': of the tensor that is scaled, and of the sum, which
    also takes the other tensor's zero point away.
    """
    mode, last = config.requantise, fused.requantisation
    zero_points, factor = [fused.result.zero_point, other_zero_point], fused.own
    if not scales_result(fused, config):
        zero_points, factor = zero_points[::-1], fused.of_other
    of_scaled = numerics.raised(0, zero_points[0], mode)
    of_sum = numerics.halved(-zero_points[1], mode)
    words = [
        Lane(of_scaled, factor.multiplier, factor.shift),
        Lane(of_sum, int(last.multiplier[0]), int(last.shift[0])),
    ]
    return [[lane] * config.post_lanes for lane in words]
