"""Binary layers of a float network: which weights and tensors are, what may change places with a pool."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from popshift.gen.frontend.findings import Finding
from popshift.gen.frontend.float_graph import (
    BinaryWeight,
    FloatConvolution,
    FloatGraph,
    FloatOperator,
    FloatPool,
    FloatTensor,
    by_input,
    inputs_of,
    reading,
)
from popshift.gen.frontend.levels import reach
from popshift.gen.frontend.raw import BatchNorm, Clamp, RawOperator, Sign
from popshift.gen.graph import Pooling
from popshift.hw.numerics import ACTIVATION_MAX

_LARGEST = np.finfo(np.float32).max


def signs_once(graph: FloatGraph, raw: list[RawOperator]) -> list[RawOperator]:
    """Without the signs of signs, which change nothing."""
    by_output = {operator.output: operator for operator in raw}
    same: dict[str, str] = {}
    for operator in raw:
        before = by_output.get(same.get(operator.input, operator.input))
        if isinstance(operator, Sign) and isinstance(before, Sign) and before.scale == operator.scale:
            same[operator.output] = before.output
    for name in same:
        del graph.tensors[name]
    graph.outputs = [same.get(name, name) for name in graph.outputs]
    graph.dims = {same.get(name, name): dims for name, dims in graph.dims.items()}
    return [reading(operator, same) for operator in raw if operator.output not in same]


def before_pools(graph: FloatGraph, raw: list[RawOperator]) -> list[RawOperator]:
    """Max pool, then batch norm, clamps, and a sign, becomes: all of that first, then the pool.

    All are monotone, so they may change places; and where batch norm turns a channel round, its negative may.
    There the channel is negated, and so are the weights of all layers behind that read it.
    """
    replaced: dict[str, list[RawOperator]] = {}  # by name of the pool
    gone: set[str] = set()
    negated: dict[str, NDArray[np.bool_]] = {}  # by tensor
    for pool in raw:
        if not (isinstance(pool, FloatPool) and pool.operation is Pooling.MAX):
            continue
        chain = _chain(graph, raw, pool.output)
        negate = np.zeros(graph.tensors[pool.output].shape[0], bool)
        for operator in chain:
            if isinstance(operator, BatchNorm):
                negate ^= operator.factor < 0
        if not any(isinstance(operator, BatchNorm | Sign) for operator in chain):
            continue
        if negate.any() and not (_turns(chain) and _only_weights(graph, raw, chain[-1].output)):
            continue
        replaced[pool.name] = _in_front(graph, pool, chain, negate)
        gone |= {operator.name for operator in chain}
        negated[chain[-1].output] = negate
    found: list[RawOperator] = []
    for operator in raw:
        found += replaced.get(operator.name, [] if operator.name in gone else [operator])
    return _with_weights_negated(found, negated)


def _chain(graph: FloatGraph, raw: list[RawOperator], tensor: str) -> list[RawOperator]:
    """What follows a tensor up to a sign, each the only reader of the one before."""
    chain: list[RawOperator] = []
    readers = {operator.input: operator for operator in raw}
    while _readers(graph, raw, tensor) == 1:
        operator = readers.get(tensor)
        if not isinstance(operator, BatchNorm | Clamp | Sign):
            break
        chain.append(operator)
        tensor = operator.output
        if isinstance(operator, Sign):
            break
    return chain


def _turns(chain: Sequence[RawOperator]) -> bool:
    """Whether the chain of a negated channel gives the negated result."""
    return isinstance(chain[-1], Sign) or all(
        operator.low == -operator.high for operator in chain if isinstance(operator, Clamp)
    )


def _only_weights(graph: FloatGraph, raw: list[RawOperator], tensor: str) -> bool:
    """Whether nothing but layers with weights reads a tensor, poolings of it included."""
    readers = [operator for operator in raw if tensor in inputs_of(operator)]
    return tensor not in graph.outputs and all(
        isinstance(operator, FloatConvolution)
        or (isinstance(operator, FloatPool) and _turns_too(graph, raw, operator))
        for operator in readers
    )


def _turns_too(graph: FloatGraph, raw: list[RawOperator], pool: FloatPool) -> bool:
    """Whether a pooling of a negated channel is the negated pooling: an average is, the maximum of bits that
    were negated by another is not.
    """
    return pool.operation is Pooling.AVERAGE and _only_weights(graph, raw, pool.output)


def _in_front(
    graph: FloatGraph, pool: FloatPool, chain: Sequence[RawOperator], negate: NDArray[np.bool_]
) -> list[RawOperator]:
    """The chain on the pool's input; then the pool, which makes what the chain made."""
    found: list[RawOperator] = []
    source, shape = pool.input, graph.tensors[pool.input].shape
    last = chain[-1]
    signs = np.where(negate, -1.0, 1.0)
    for operator in chain:
        output = f"{operator.output}.unpooled"
        moved = dataclasses.replace(operator, input=source, output=output)
        if isinstance(moved, Sign):
            moved = dataclasses.replace(moved, negate=negate)
        elif isinstance(moved, BatchNorm) and not isinstance(last, Sign):
            moved = dataclasses.replace(moved, factor=moved.factor * signs, offset=moved.offset * signs)
            signs = np.ones_like(signs)  # once is enough
        found.append(moved)
        graph.tensors[output] = FloatTensor(output, shape)
        if operator is not last:
            del graph.tensors[operator.output]
        source = output
    del graph.tensors[pool.output]
    return [*found, dataclasses.replace(pool, input=source, output=last.output)]


def _readers(graph: FloatGraph, raw: list[RawOperator], tensor: str) -> int:
    readers = [name for operator in raw for name in inputs_of(operator)]
    return readers.count(tensor) + graph.outputs.count(tensor)


def _with_weights_negated(raw: list[RawOperator], negated: dict[str, NDArray[np.bool_]]) -> list[RawOperator]:
    found: list[RawOperator] = []
    for operator in raw:
        negate = negated.get(operator.input)
        if negate is not None and isinstance(operator, FloatPool):
            negated[operator.output] = negate
        elif negate is not None and isinstance(operator, FloatConvolution):
            weight = np.where(by_input(negate, operator), -operator.weight, operator.weight)
            operator = dataclasses.replace(operator, weight=weight)
        found.append(operator)
    return found


def signs_of_inputs(graph: FloatGraph, raw: list[RawOperator]) -> list[RawOperator]:
    """An input of which only the sign is taken, behind factors, offsets and clamps that all its elements
    share, becomes binary: the host compares it with a threshold.
    """
    gone: dict[str, str] = {}  # the sign's output -> the input
    names: set[str] = set()
    for name in graph.inputs:
        chain = _chain(graph, raw, name)
        if not chain or not isinstance(sign := chain[-1], Sign):
            continue
        threshold = _threshold(chain[:-1])
        if threshold is None:
            continue
        tensor = graph.tensors[name]
        graph.tensors[name] = dataclasses.replace(tensor, sign=sign.scale, threshold=threshold)
        gone[sign.output] = name
        names |= {operator.name for operator in chain}
        for operator in chain:
            del graph.tensors[operator.output]
    return [reading(operator, gone) for operator in raw if operator.name not in names]


def _threshold(chain: Sequence[RawOperator]) -> float | None:
    """The least float32 that the chain does not make negative; None if it is not one for all channels."""
    for operator in chain:
        if isinstance(operator, BatchNorm) and not (
            len({*zip(operator.factor, operator.offset, strict=True)}) == 1 and operator.factor[0] > 0
        ):
            return None

    def positive(number: np.float32) -> bool:
        x = torch.full((1, 1, 1, 1), float(number))
        for operator in chain:
            if isinstance(operator, BatchNorm):
                x = operator.step(x.expand(1, len(operator.factor), 1, 1))[:, :1]
            elif isinstance(operator, Clamp):
                x = x.clamp(operator.low, operator.high)
        return bool(x.item() >= 0)

    low, high = (_ordered(np.float32(limit)) for limit in (-_LARGEST, _LARGEST))
    if positive(_float(low)) or not positive(_float(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if positive(_float(middle)) else (middle, high)
    return float(_float(high))


def _ordered(number: np.float32) -> int:
    """An integer, in the order of floats."""
    bits = int(number.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(ordered: int) -> np.float32:
    magnitude = np.int32(abs(ordered)).view(np.float32)
    return -magnitude if ordered < 0 else magnitude


def unsupported_reader(operator: FloatOperator, source: FloatTensor) -> Finding | None:
    """Why an operator cannot work on the binary tensor `source`; None if it can."""
    if isinstance(operator, FloatConvolution):
        if operator.groups != 1:
            what = f"its input is binary and it has {operator.groups} groups"
            return Finding(operator.name, "convolution", False, what, "use groups = 1 behind a sign")
        if binary_weight(operator) is not None:
            return None
        what = "its input is binary, its weights are not"
        remedy = "give it binary weights (BinaryConv2d, BinaryLinear), or an input that is not a sign"
        return Finding(operator.name, "convolution", False, what, remedy)
    if not isinstance(operator, FloatPool):
        what = "its input is binary, it works on numbers only"
        return Finding(operator.name, "add", False, what, "take the tensor in front of the sign")
    if operator.operation is Pooling.MAX and (operator.low, operator.high) == (-np.inf, np.inf):
        return None
    what = "its input is binary, of which only maxima can be pooled"
    return Finding(operator.name, "pooling", False, what, "pool before the sign")


def binary_weight(operator: FloatConvolution) -> BinaryWeight | None:
    """The weights as signs and one magnitude for each filter; None if they are not of that form."""
    magnitude = np.abs(operator.weight.reshape(len(operator.weight), -1))
    scale = magnitude[:, 0].astype(np.float32)
    if not ((magnitude == magnitude[:, :1]).all() and (scale > 0).all()):
        return None
    signs = np.where(operator.weight > 0, 1, -1).astype(np.int8)
    bias = operator.bias.astype(np.float32)
    steps = () if not bias.any() else (lambda x: x + _per_channel(bias),)
    return BinaryWeight(signs, scale, steps)


def _per_channel(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[:, None, None]


def whole_sums(graph: FloatGraph, operator: FloatOperator) -> FloatOperator:
    """A last layer with a binary input, or with small integers as inputs and weights, if its sums fit int8:
    they become the output, and the host does what follows, number by number, so that nothing is lost.
    """
    if not isinstance(operator, FloatConvolution) or operator.binary is None or operator.sign:
        return operator
    signs, scale, most = operator.binary.signs, operator.binary.scale, reach(graph, operator.input)
    sums = np.abs(signs.reshape(len(signs), -1).astype(int)).sum(axis=1)
    if most is None or sums.max() * most > ACTIVATION_MAX or (scale != scale[0]).any():
        return operator
    if graph.tensors[operator.output].levels is not None:
        return operator
    graph.tails[operator.output] = operator.binary.steps
    return dataclasses.replace(
        operator,
        weight=signs * float(scale[0]),
        bias=np.zeros(len(signs)),
        low=-np.inf,
        high=np.inf,
        whole=True,
    )
