"""The one intermediate form: a graph of integer operators on placed-nowhere-yet int8 tensors.

Front ends and compression produce it, the golden model executes it, the mapper turns it into a program.
Arrays are NumPy; every number in it is exact.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from popshift.firmware_py.tensors import signature
from popshift.hw import numerics
from popshift.hw.config import ACCUMULATOR_WIDTHS
from popshift.hw.numerics import Requantise


@dataclass(frozen=True, slots=True)
class Tensor:
    """An int8 activation tensor: real value = scale * (integer - zero_point).

    ``shape`` is (channels, height, width) without the batch; a vector of n features is (n, 1, 1).

    A binary tensor has ``bits`` channels, each ``scale`` or ``-scale``. It is stored as bytes of eight
    channels (`popshift.firmware_py.bits`): ``shape`` is (bytes, height, width), ``zero_point`` is 0, padding
    is no channel's value but a real 0. If it is an input, real values from ``threshold`` on become ``scale``.
    """

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero_point: int
    bits: int = 0
    threshold: float = 0.0

    @property
    def channels(self) -> int:
        """Of the network's tensor, however it is stored."""
        return self.bits or self.shape[0]


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a convolution or pooling window; each pair is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """(top, bottom, left, right)."""
    dilation: tuple[int, int] = (1, 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output for an input of `height` x `width` (floor, as PyTorch without
        ceil_mode).
        """
        top, bottom, left, right = self.padding
        return (
            (height + top + bottom - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.stride[0] + 1,
            (width + left + right - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.stride[1] + 1,
        )

    def inside(self, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many of its rows each row of windows over `height` x `width` has inside, and of its columns
        each column."""
        top, _, left, _ = self.padding
        places = [
            (np.arange(number) * stride - before)[:, None] + step * np.arange(kernel)
            for number, stride, before, step, kernel in zip(
                self.output_size(height, width),
                self.stride,
                (top, left),
                self.dilation,
                self.kernel,
                strict=True,
            )
        ]
        rows, columns = (
            ((place >= 0) & (place < length)).sum(1)
            for place, length in zip(places, (height, width), strict=True)
        )
        return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Requantisation:
    """From accumulator to output activation (`popshift.hw.numerics.requantise`), per output channel.

    ``multiplier`` and ``shift`` have shape (channels,); the zero point is the output tensor's.
    """

    multiplier: NDArray[np.int64]
    shift: NDArray[np.int64]
    low: int
    high: int

    @classmethod
    def identity(cls, channels: int, mode: Requantise) -> "Requantisation":
        """What passes every int8 value."""
        multiplier, shift = numerics.identity_multiplier(mode)
        return cls(
            multiplier=np.full(channels, multiplier, np.int64),
            shift=np.full(channels, shift, np.int64),
            low=numerics.ACTIVATION_MIN,
            high=numerics.ACTIVATION_MAX,
        )

    def replaced(self, factor: "Factor") -> "Requantisation":
        """With this factor for all channels."""
        multiplier, shift = (
            np.full_like(self.multiplier, factor.multiplier),
            np.full_like(self.shift, factor.shift),
        )
        return replace(self, multiplier=multiplier, shift=shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """A weight in SmartDeal's form: sparse power-of-two coefficients times a small basis, in integers.

    ``weight[m].flat[taps[g, i, s]] = sum over j of coefficients[m, g, i, j] * basis[m, g, j, s]``

    ``coefficients``: int8 (out channels, slices, rows, columns), each 0 or plus or minus 1, 2, 4 … 64;
    ``basis``: int8 (out channels, slices, columns, columns), -127 .. 127; ``taps``: int64 (slices, rows,
    columns), numbers of weights of one filter in row-major order, none twice, or -1 for none. Weights that
    no tap names are 0.
    """

    coefficients: NDArray[np.int8]
    basis: NDArray[np.int8]
    taps: NDArray[np.int64]

    def weight(self, shape: Sequence[int]) -> NDArray[np.int16]:
        """The weights (out channels, …), of magnitude 24,384 at most if there are three columns."""
        matrices = self.coefficients.astype(np.int32) @ self.basis.astype(np.int32)
        weight = np.zeros((shape[0], math.prod(shape[1:])), np.int16)
        used = self.taps >= 0
        weight[:, self.taps[used]] = matrices[:, used]
        return weight.reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """``acc[m] = bias[m] + sum (x - zero_point_in) * weight``, then requantise. A fully connected layer is
    one whose kernel covers its input.

    ``weight``: int8 (out channels, in channels / groups, kernel height, kernel width), or int16 if it is made
    of ``factors``; ``bias``: int64 (out channels,), without the zero-point term, which the mapper folds in.
    Padding stands for the real value 0 (the zero point). Channels in and out are divided into ``groups`` of
    neighbours, each of which works on its own; as many groups as channels: a depthwise convolution.

    If the input is binary, x is 1 or -1 and so is every weight. If the output is, its bits are the signs
    of the requantised values, 1 for those that are not negative.
    """

    name: str
    input: str
    output: str
    window: Window
    weight: NDArray[np.int8] | NDArray[np.int16]
    bias: NDArray[np.int64]
    requantisation: Requantisation
    factors: Factors | None = None
    groups: int = 1
    sum: "FusedSum | None" = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,) if self.sum is None else (self.input, self.sum.other)


class Pooling(StrEnum):
    MAX = "max"
    AVERAGE = "average"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """MAX: ``acc = max(x) - zero_point_in`` (padding never wins); AVERAGE: ``acc = sum(x - zero_point_in)``
    over the whole window, padding counting as real 0 (the divisor is in the requantisation). Then
    requantise.

    ``partial`` (AVERAGE): the factors of windows that have fewer pixels inside, by their number; without
    them padding counts like any pixel.

    ``raw`` (AVERAGE): zero points count for nothing, ``acc = sum(x)`` over the pixels inside, and the output
    is the requantised value itself: rounding is symmetric about the integer 0, as in TensorFlow Lite.

    MAX of a binary tensor: of every bit. Its requantisation, one factor for each byte, is the identity. If
    only the output is binary, its bits are the signs of the requantised values.
    """

    name: str
    input: str
    output: str
    window: Window
    operation: Pooling
    requantisation: Requantisation
    partial: "Mapping[int, Factor]" = field(default_factory=dict)
    raw: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Factor:
    """A real factor as `popshift.hw.numerics.scale` takes it."""

    multiplier: int
    shift: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """The sum of two int8 tensors of one shape, as TensorFlow Lite computes it:
    ``acc = scale(raised(input), first) + scale(raised(other), second)`` with
    ``raised(x) = (x - zero point) << sum_shift``, then requantise, with one factor for all channels.
    """

    name: str
    input: str
    other: str
    output: str
    first: Factor
    second: Factor
    requantisation: Requantisation

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.input, self.other


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedSum:
    """What becomes of a convolution's ``result``, a tensor that exists nowhere: `other` is added to it. Only
    the mapper makes it; ``own`` and ``of_other`` are the factors of the two.
    """

    name: str
    result: Tensor
    other: str
    own: Factor
    of_other: Factor
    requantisation: Requantisation


Operator = Convolution | Pool | Add


@dataclass(kw_only=True)
class Graph:
    """Operators in execution order over named tensors.

    ``mode`` is the requantisation mode every multiplier in the graph was made for; it must be the
    configuration's.
    """

    mode: Requantise
    inputs: list[str]
    outputs: list[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)

    def __repr__(self) -> str:
        ends = [signature([self.tensors[name] for name in names]) for names in (self.inputs, self.outputs)]
        return f"<Graph {' -> '.join(ends)}, {len(self.operators)} operators>"

    def consumers(self, tensor: str) -> list[Operator]:
        """The operators that read `tensor`, in execution order."""
        return [operator for operator in self.operators if tensor in operator.inputs]


def wider_accumulators(width: int) -> str:
    """What else helps a layer whose sums do not fit `width` bits: an addition to a remedy."""
    _, widest = ACCUMULATOR_WIDTHS
    return "" if width == widest else f", or a configuration with accumulator_width = {widest}"
