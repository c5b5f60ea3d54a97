"""Quantisers that a network brings along (QONNX): their levels become those of the tensors they read."""

import dataclasses

import numpy as np
import torch

from popshift.gen.frontend.findings import Finding
from popshift.gen.frontend.float_graph import (
    BinaryWeight,
    FloatConvolution,
    FloatGraph,
    FloatOperator,
    FloatPool,
    FloatSign,
    Levels,
    inputs_of,
    reading,
)
from popshift.gen.frontend.raw import BatchNorm, Clamp, Quantiser, RawOperator
from popshift.gen.graph import Pooling, Window
from popshift.hw.numerics import ACTIVATION_MAX, ACTIVATION_MIN

_WHOLE = 1e-6


def levels_of_inputs(graph: FloatGraph, raw: list[RawOperator]) -> list[RawOperator]:
    """An input that is only quantised, behind factors and offsets that all its elements share, gets these
    levels; of the quantiser a clamp is left, unless its levels are all that there are.
    """
    found = list(raw)
    renamed: dict[str, str] = {}
    for name in graph.inputs:
        chain = _chain(graph, raw, name)
        if not chain or not isinstance(last := chain[-1], Quantiser):
            continue
        factor, offset = 1.0, 0.0
        for norm in chain[:-1]:
            assert isinstance(norm, BatchNorm)
            factor, offset = factor * norm.factor[0], offset * norm.factor[0] + norm.offset[0]
        levels = last.levels
        zero_point = levels.zero_point + offset / levels.scale
        if factor <= 0 or abs(zero_point - round(zero_point)) > _WHOLE or abs(zero_point) > -ACTIVATION_MIN:
            continue
        levels = dataclasses.replace(levels, scale=float(levels.scale / factor), zero_point=round(zero_point))
        whole = dataclasses.replace(levels, low=ACTIVATION_MIN, high=ACTIVATION_MAX)
        graph.tensors[name] = dataclasses.replace(graph.tensors[name], levels=whole)
        new = _behind(graph, last, name, levels, factor, offset)
        if not new:
            renamed[last.output] = name
            del graph.tensors[last.output]
        for operator in chain[:-1]:
            del graph.tensors[operator.output]
        gone = {operator.name for operator in chain}
        found = [*new, *(operator for operator in found if operator.name not in gone)]
    return [reading(operator, renamed) for operator in found]


def _behind(
    graph: FloatGraph, quantiser: Quantiser, source: str, levels: Levels, factor: float, offset: float
) -> list[RawOperator]:
    """What is left of the quantiser of an input that has its levels now: a clamp, then the factor and offset
    that were in front of it; each only if it changes anything, or if the quantiser is the whole network.
    """
    own, found = graph.tensors[quantiser.output], []
    plain = (factor, offset) == (1.0, 0.0)
    everything = (levels.low, levels.high) == (ACTIVATION_MIN, ACTIVATION_MAX)
    if not everything or quantiser.output in graph.outputs:
        name = quantiser.output if plain else f"{quantiser.output}.levels"
        low, high = levels.limits
        found.append(Clamp(name=quantiser.name, input=source, output=name, low=low, high=high))
        graph.tensors[name] = dataclasses.replace(own, name=name, levels=levels)
        source = name
    if not plain:
        channels = own.shape[0]
        norm = BatchNorm(
            name=f"{quantiser.name}.scale",
            input=source,
            output=quantiser.output,
            factor=np.full(channels, factor),
            offset=np.full(channels, offset),
            step=lambda x: x * factor + offset,
        )
        found.append(norm)
    return found


def _chain(graph: FloatGraph, raw: list[RawOperator], tensor: str) -> list[RawOperator]:
    """Batch norms with one factor for all, then a quantiser, each the only reader of the one before."""
    chain: list[RawOperator] = []
    while True:
        readers = [operator for operator in raw if tensor in inputs_of(operator)]
        if len(readers) != 1 or tensor in graph.outputs:
            return chain
        (operator,) = readers
        uniform = (
            isinstance(operator, BatchNorm)
            and len({*zip(operator.factor, operator.offset, strict=True)}) == 1
        )
        if not uniform and not isinstance(operator, Quantiser):
            return chain
        chain.append(operator)
        if isinstance(operator, Quantiser):
            return chain
        tensor = operator.output


def fold_quantiser(
    graph: FloatGraph, quantiser: Quantiser, producer: FloatOperator | None, alone: bool, source: str
) -> tuple[FloatOperator, Finding]:
    """The producer with the quantiser's levels, or a copy that has them."""
    tensor = graph.tensors[source]
    if (
        producer is not None
        and not isinstance(producer, FloatSign)
        and alone
        and tensor.levels is None
        and not tensor.sign
    ):
        least, most = quantiser.levels.limits
        low, high = (min(max(limit, least), most) for limit in (producer.low, producer.high))
        graph.tensors[source] = dataclasses.replace(tensor, levels=quantiser.levels)
        told = Finding(quantiser.name, "quantiser", True, f"fused into {producer.name}")
        return dataclasses.replace(producer, low=low, high=high), told
    low, high = quantiser.levels.limits
    own = graph.tensors[quantiser.output]
    graph.tensors[quantiser.output] = dataclasses.replace(own, levels=quantiser.levels)
    copy = FloatPool(
        name=quantiser.name,
        input=source,
        output=quantiser.output,
        window=Window((1, 1)),
        operation=Pooling.MAX,
        low=low,
        high=high,
    )
    return copy, Finding(quantiser.name, "quantiser", True, "runs on its own as a 1 x 1 max pooling")


def integer_weight(operator: FloatConvolution) -> BinaryWeight | None:
    """The weights as whole multiples of a step for each filter; None if they are not of that form."""
    if operator.step is None or operator.groups != 1:
        return None
    numbers = np.rint(operator.weight / operator.step[:, None, None, None])
    if np.abs(numbers).max() > ACTIVATION_MAX:
        return None
    bias = torch.from_numpy(operator.bias)[:, None, None]
    steps = () if not operator.bias.any() else (lambda x: x + bias.to(x.dtype),)
    return BinaryWeight(numbers.astype(np.int8), operator.step.astype(np.float32), steps)


def reach(graph: FloatGraph, tensor: str) -> int | None:
    """Largest magnitude of what a layer multiplies its weights with; None if the tensor has no levels."""
    found = graph.tensors[tensor]
    if found.sign:
        return 1
    return None if found.levels is None else found.levels.reach
