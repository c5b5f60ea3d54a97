"""The golden model: what every integer of a network must be, computed by PyTorch.

Sums of products are float64 matrix products of integers: every partial sum stays below 2**53 in magnitude (a
product is at most 255 * 24,384, accumulators are proved to fit 32 bits), so float64 holds each exactly, in
whatever order a library adds them. An explicit im2col keeps out algorithms that compute with fractions
(Winograd). Everything behind the accumulator is `popshift.hw.numerics` on int64.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from popshift.firmware_py.bits import pack_signs, unpack_signs
from popshift.firmware_py.tensors import quantise_inputs
from popshift.gen.graph import (
    Add,
    Convolution,
    Graph,
    Operator,
    Pool,
    Pooling,
    Requantisation,
    Tensor,
    Window,
)
from popshift.hw import numerics

_CHUNK_BYTES = 128 << 20
"""Most memory that the im2col matrix of one batch chunk may take."""


def run(graph: Graph, values: NDArray[Any] | torch.Tensor | Mapping[str, Any]) -> dict[str, NDArray[np.int8]]:
    """Every tensor of the network, for a batch.

    Parameters
    ----------
    values: for the network's input: int8 (N, channels, height, width), or the same in floating point,
        quantised as the driver does it; (N, features) serves for a vector. A mapping by name if there are
        several inputs.

    Returns
    -------
    tensor name -> int8 (N, channels, height, width), inputs included.

    Raises
    ------
    InputError: wrong shape or dtype, NaN or infinity.
    """
    given = values.numpy(force=True) if isinstance(values, torch.Tensor) else values
    inputs = quantise_inputs([graph.tensors[name] for name in graph.inputs], given)
    count = len(inputs[graph.inputs[0]])
    step = max(1, _CHUNK_BYTES // max([1, *(_im2col_bytes(graph, operator) for operator in graph.operators)]))
    chunks = [
        _run_chunk(graph, {name: array[start : start + step] for name, array in inputs.items()})
        for start in range(0, count, step)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _im2col_bytes(graph: Graph, operator: Operator) -> int:
    if isinstance(operator, Add):
        return 0
    source, result = graph.tensors[operator.input], graph.tensors[operator.output]
    return 8 * source.channels * math.prod(operator.window.kernel) * math.prod(result.shape[1:])


def _run_chunk(graph: Graph, inputs: dict[str, NDArray[np.int8]]) -> dict[str, NDArray[np.int8]]:
    values = dict(inputs)
    for operator in graph.operators:
        source, result = graph.tensors[operator.input], graph.tensors[operator.output]
        stored = values[operator.input]
        if isinstance(operator, Add):
            acc = _add(operator, values, graph)
        elif isinstance(operator, Convolution):
            numbers = unpack_signs(stored, source.bits, axis=1) if source.bits else stored
            acc = _convolve(operator, torch.from_numpy(numbers).to(torch.float64), source)
        else:
            acc = _pool(operator, torch.from_numpy(stored).to(torch.float64), source)
        raw = isinstance(operator, Pool) and operator.raw
        zero_point = 0 if raw else result.zero_point
        found = _requantise(operator.requantisation, acc, zero_point, graph)
        if isinstance(operator, Pool) and operator.partial:
            inside = np.outer(*operator.window.inside(*source.shape[1:])).ravel()
            for count, factor in operator.partial.items():
                one = operator.requantisation.replaced(factor)
                found[..., inside == count] = _requantise(one, acc[..., inside == count], zero_point, graph)
        if (result.bits and not source.bits) or (result.bits and isinstance(operator, Convolution)):
            found = pack_signs(found, axis=1)
        values[operator.output] = found.reshape(-1, *result.shape)
    return values


def _im2col(window: Window, x: torch.Tensor, padding: float) -> torch.Tensor:
    """(N, channels, taps, pixels)."""
    top, bottom, left, right = window.padding
    padded = functional.pad(x, (left, right, top, bottom), value=padding)
    columns = functional.unfold(padded, window.kernel, dilation=window.dilation, stride=window.stride)
    return columns.reshape(x.shape[0], x.shape[1], math.prod(window.kernel), -1)


def _convolve(operator: Convolution, x: torch.Tensor, source: Tensor) -> torch.Tensor:
    columns = _im2col(operator.window, x - source.zero_point, 0)
    images, channels, taps, pixels = columns.shape
    terms = channels // operator.groups * taps
    weight = torch.from_numpy(operator.weight.astype(np.float64)).reshape(operator.groups, -1, terms)
    matrix = columns.reshape(images, operator.groups, terms, pixels).permute(1, 2, 0, 3)
    sums = weight @ matrix.reshape(operator.groups, terms, -1)
    sums = sums.reshape(-1, images, pixels).transpose(0, 1)
    return sums.to(torch.int64) + torch.from_numpy(operator.bias)[:, None]


def _add(operator: Add, values: Mapping[str, NDArray[np.int8]], graph: Graph) -> torch.Tensor:
    """int64 (N, channels, pixels)."""
    acc = torch.zeros((), dtype=torch.int64)
    for name, factor in zip(operator.inputs, (operator.first, operator.second), strict=True):
        x = torch.from_numpy(values[name]).to(torch.int64).flatten(2)
        raised = numerics.raised(x, graph.tensors[name].zero_point, graph.mode)
        acc = acc + numerics.scale(raised, factor.multiplier, factor.shift, graph.mode)
    return acc


def _pool(operator: Pool, x: torch.Tensor, source: Tensor) -> torch.Tensor:
    if source.bits:
        folded = _or(_im2col(operator.window, x, 0))
    elif operator.operation is Pooling.MAX:
        folded = _im2col(operator.window, x, numerics.ACTIVATION_MIN).amax(2) - source.zero_point
    else:
        folded = _im2col(operator.window, x if operator.raw else x - source.zero_point, 0).sum(2)
    return folded.to(torch.int64)


def _or(columns: torch.Tensor) -> torch.Tensor:
    """Bitwise or of the bytes (N, channels, taps, pixels) of each window."""
    taps = columns.to(torch.int8).unbind(2)
    return functools.reduce(torch.bitwise_or, taps)


def _requantise(r: Requantisation, acc: torch.Tensor, zero_point: int, graph: Graph) -> NDArray[np.int8]:
    """`acc`: int64 (N, channels, pixels)."""
    activations = numerics.requantise(
        acc,
        torch.from_numpy(r.multiplier)[:, None],
        torch.from_numpy(r.shift)[:, None],
        zero_point=zero_point,
        low=r.low,
        high=r.high,
        mode=graph.mode,
    )
    return activations.to(torch.int8).numpy()
