"""The network as a front end hands it over: convolutions and poolings on float tensors, in execution order.

Batch norm and activations are already folded into them (`popshift.gen.frontend.fusion`), so that every tensor
here becomes one int8 tensor of the integer graph.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from popshift.gen.graph import Factors, Pooling, Window


@dataclass(frozen=True, slots=True)
class Levels:
    """The int8 numbers ``low .. high`` that a network's own quantiser allows: real value = scale * (number -
    zero_point).
    """

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest real value."""
        return self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)

    @property
    def reach(self) -> int:
        """Largest magnitude of a number less the zero point."""
        return max(abs(self.low - self.zero_point), abs(self.high - self.zero_point))

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """The real values of the levels nearest to `x`, ties to even."""
        numbers = (torch.round(x / self.scale) + self.zero_point).clamp(self.low, self.high)
        return (numbers - self.zero_point) * self.scale


@dataclass(frozen=True, slots=True)
class FloatTensor:
    """An activation; ``shape`` is (channels, height, width) without the batch, a vector is (n, 1, 1).
    ``levels``: how the network itself quantises it, if it does.

    A binary tensor holds ``sign`` and ``-sign``; 0 for all others. If it is an input, values from
    ``threshold`` on become ``sign``.
    """

    name: str
    shape: tuple[int, int, int]
    sign: float = 0.0
    threshold: float = 0.0
    levels: Levels | None = None


@dataclass(frozen=True, slots=True)
class FloatFactors:
    """SmartDeal weights: ``weight[m] = scale[m] * factors.weight()[m]``, scale float64 (out channels,)."""

    factors: Factors
    scale: NDArray[np.float64]


Step = Callable[[torch.Tensor], torch.Tensor]
"""What a module does with the elements of a tensor (N, channels, height, width), each by its own: in float32
as the module itself, in float64 more exactly.
"""


@dataclass(frozen=True, slots=True)
class BinaryWeight:
    """Weights of a layer with a binary input, and what the module does behind its sums, number by number.
    Likewise of a layer whose input and weights have levels.

    ``signs``: 1 or -1 (or small integers), int8 (out channels, in channels, kernel height, kernel width);
    ``scale``: of every filter, float32 (out channels,); ``steps``: batch norm and activations, one after the
    other, up to the sign.
    """

    signs: NDArray[np.int8]
    scale: NDArray[np.float32]
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatConvolution:
    """``clamp(bias[m] + sum x * weight, low, high)``. A fully connected layer is one whose kernel covers its
    input.

    ``weight``: (out channels, in channels / groups, kernel height, kernel width); ``bias``: (out channels,);
    ``smartdeal``, ``binary``: the form of the weight, if it has one; ``step``: (out channels,), if every
    weight is a whole multiple of its filter's.

    If ``sign`` is not 0, the output is binary: ``sign`` where the value is not negative, else ``-sign``; the
    other way round in the channels of ``negate``, bool (out channels,). ``whole``: the sums of a layer with a
    binary input fit int8, and leave it as they are.
    """

    name: str
    input: str
    output: str
    window: Window
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    smartdeal: FloatFactors | None = None
    binary: BinaryWeight | None = None
    low: float = -math.inf
    high: float = math.inf
    sign: float = 0.0
    negate: NDArray[np.bool_] | None = None
    whole: bool = False
    groups: int = 1
    step: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatPool:
    """Pooling per channel, then clamp to ``low .. high``.

    MAX: largest value of the window, padding never wins. AVERAGE: sum over the window, padding counting as
    0, over ``divisor``; if ``inside``, over the number of pixels that the window has inside.
    """

    name: str
    input: str
    output: str
    window: Window
    operation: Pooling
    divisor: int = 1
    inside: bool = False
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatAdd:
    """``clamp(input + other, low, high)`` of two tensors of one shape."""

    name: str
    input: str
    other: str
    output: str
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatSign:
    """A binary tensor on its own: ``sign`` where the input is not negative, else ``-sign``."""

    name: str
    input: str
    output: str
    sign: float


FloatOperator = FloatConvolution | FloatPool | FloatAdd | FloatSign


def inputs_of(operator: Any) -> tuple[str, ...]:
    """The tensors that an operator reads."""
    return (operator.input, operator.other) if isinstance(operator, FloatAdd) else (operator.input,)


def reading(operator: Any, names: Mapping[str, str]) -> Any:
    """The operator with some of its inputs under another name."""
    changes = {"input": names.get(operator.input, operator.input)}
    if isinstance(operator, FloatAdd):
        changes["other"] = names.get(operator.other, operator.other)
    return dataclasses.replace(operator, **changes)


def by_input(values: NDArray[Any], layer: FloatConvolution) -> NDArray[Any]:
    """One value for each input channel as the layer's weights see them: (out, in / groups, 1, 1)."""
    of_groups = values.reshape(layer.groups, -1)
    return np.repeat(of_groups, len(layer.weight) // layer.groups, axis=0)[:, :, None, None]


@dataclass(kw_only=True)
class FloatGraph:
    """Operators in execution order over named tensors.

    Attributes
    ----------
    inputs, outputs: names of tensors.
    tensors, operators: the network.
    dims: shape per sample, as the user's module has it, of every input and output (``(10,)`` where the tensor
        here is ``(10, 1, 1)``); same elements in the same row-major order.
    tails: what the host does with an output of whole numbers, one step after the other.
    notes: what the user should know about the import (an operator left to the host).
    """

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: dict[str, FloatTensor] = field(default_factory=dict)
    operators: list[FloatOperator] = field(default_factory=list)
    dims: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tails: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def evaluate(graph: FloatGraph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every tensor of the network for one batch, in float64.

    Parameters
    ----------
    graph: with one input.
    x: (N, channels, height, width) of that input, any float dtype.

    Returns
    -------
    tensor name -> float64 (N, channels, height, width), the input included.
    """
    first = graph.tensors[graph.inputs[0]]
    x = x.to(torch.float64)
    x = x if first.levels is None else first.levels.nearest(x)
    values = {first.name: _either(x >= first.threshold, first.sign) if first.sign else x}
    for operator in graph.operators:
        source = values[operator.input]
        if isinstance(operator, FloatConvolution):
            raw = _convolve(operator, source).clamp(operator.low, operator.high)
            values[operator.output] = _signs(operator, raw) if operator.sign else raw
        elif isinstance(operator, FloatAdd):
            values[operator.output] = (source + values[operator.other]).clamp(operator.low, operator.high)
        elif isinstance(operator, FloatSign):
            values[operator.output] = _either(source >= 0, operator.sign)
        else:
            values[operator.output] = _pool(operator, source).clamp(operator.low, operator.high)
        if (levels := graph.tensors[operator.output].levels) is not None:
            values[operator.output] = levels.nearest(values[operator.output])
    return values


def _signs(operator: FloatConvolution, raw: torch.Tensor) -> torch.Tensor:
    positive = raw >= 0
    if operator.negate is not None:
        positive = positive ^ torch.from_numpy(operator.negate)[:, None, None]
    return _either(positive, operator.sign)


def _either(positive: torch.Tensor, value: float) -> torch.Tensor:
    return torch.where(positive, value, -value).to(torch.float64)


def _padded(window: Window, x: torch.Tensor, value: float) -> torch.Tensor:
    top, bottom, left, right = window.padding
    return functional.pad(x, (left, right, top, bottom), value=value)


def _convolve(operator: FloatConvolution, x: torch.Tensor) -> torch.Tensor:
    weight, bias = torch.from_numpy(operator.weight), torch.from_numpy(operator.bias)
    window = operator.window
    return functional.conv2d(
        _padded(window, x, 0.0),
        weight,
        bias,
        stride=window.stride,
        dilation=window.dilation,
        groups=operator.groups,
    )


def _pool(operator: FloatPool, x: torch.Tensor) -> torch.Tensor:
    window = operator.window
    if operator.operation is Pooling.MAX:
        x = _padded(window, x, -math.inf)
        return functional.max_pool2d(x, window.kernel, window.stride, dilation=window.dilation)
    sums = functional.avg_pool2d(_padded(window, x, 0.0), window.kernel, window.stride, divisor_override=1)
    if operator.inside:
        return sums / torch.from_numpy(np.outer(*window.inside(*x.shape[2:])))
    return sums / operator.divisor
