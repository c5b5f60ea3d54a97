"""TensorFlow Lite's int8 softmax, integer by integer: what its host code computes in gemmlowp's fixed point.

A number with i integer bits is an int64 here that stands for ``raw * 2**(i - 31)``. The polynomial and the
constants are gemmlowp's (https://github.com/google/gemmlowp, fixedpoint/fixedpoint.h, Apache-2.0).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popshift.hw import numerics
from popshift.hw.numerics import Rounding

Raw = NDArray[np.int64]

SCALE, ZERO_POINT = 1 / 256, -128
"""Of its output, always."""
_ONE = (1 << 31) - 1
"""Of a number without integer bits."""
_DIFFERENCE_BITS = 5
_SUM_BITS = 12
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(-1/4), exp(-1/2), exp(-1) … exp(-16), without integer bits."""


def softmax(values: NDArray[np.int8], scale: float, beta: float = 1.0) -> NDArray[np.int8]:
    """The softmax over the last axis of ``beta * scale * values``, with `SCALE` and `ZERO_POINT`."""
    differences = values.astype(np.int64) - values.max(-1, keepdims=True)
    multiplier, left = _multiplier(beta * scale)
    least = -math.floor(((1 << _DIFFERENCE_BITS) - 1) * (1 << (31 - _DIFFERENCE_BITS)) / (1 << left))
    counted = differences >= least
    rescaled = _times(np.where(counted, differences, 0) << left, np.int64(multiplier))
    powers = np.where(counted, _exponential(rescaled), 0)
    sums = _halved(powers, _SUM_BITS).sum(-1, keepdims=True)
    zeros = 32 - np.frexp(sums.astype(np.float64))[1].astype(np.int64)
    reciprocal = _reciprocal_of_one_plus((sums << zeros) - (1 << 31))
    results = _halved(_times(reciprocal, powers), _SUM_BITS - zeros + 31 - numerics.ACTIVATION_BITS)
    integers = np.where(counted, results, 0) + ZERO_POINT
    return integers.clip(numerics.ACTIVATION_MIN, numerics.ACTIVATION_MAX).astype(np.int8)


def _multiplier(real: float) -> tuple[int, int]:
    """(multiplier in units of 2**-31, left shift) of a difference's factor."""
    factor = min(real * (1 << (31 - _DIFFERENCE_BITS)), (1 << 31) - 1.0)
    mantissa, exponent = math.frexp(factor)
    multiplier = math.floor(mantissa * (1 << 31) + 0.5)
    return (multiplier >> 1, exponent + 1) if multiplier == 1 << 31 else (multiplier, exponent)


def _times(x: Any, y: Any) -> Any:
    """The product; integer bits add up."""
    return numerics.rounding_shift(x * y, 31, Rounding.UP)


def _halved(x: Any, times: Any) -> Any:
    return numerics.rounding_shift(x, times, Rounding.AWAY)


def _doubled(x: Raw, times: int) -> Raw:
    return (x << times).clip(-_ONE - 1, _ONE)


def _exponential(x: Raw) -> Raw:
    """Without integer bits, of numbers up to 0 with `_DIFFERENCE_BITS`."""
    fraction = 31 - _DIFFERENCE_BITS
    quarter = 1 << (fraction - 2)
    part = (x & (quarter - 1)) - quarter
    result = _exponential_above_minus_a_quarter(_doubled(part, _DIFFERENCE_BITS))
    for bit, power in enumerate(_EXPONENTIALS, start=fraction - 2):
        result = np.where((part - x) & (1 << bit), _times(result, np.int64(power)), result)
    return np.where(x == 0, _ONE, result)


def _exponential_above_minus_a_quarter(x: Raw) -> Raw:
    """Taylor polynomial about -1/8."""
    at_eighth, third = np.int64(1895147668), np.int64(715827883)
    x = x + (1 << 28)
    square = _times(x, x)
    cube, fourth = _times(square, x), _times(square, square)
    tail = _halved(_times(_halved(fourth, 2) + cube, third) + square, 1)
    return at_eighth + _times(at_eighth, x + tail)


def _reciprocal_of_one_plus(x: Raw) -> Raw:
    """Newton and Raphson, three times, for numbers of 0 .. 1."""
    half = (x + _ONE + 1) >> 1
    found = 1515870810 + _times(half, np.int64(-1010580540))
    for _ in range(3):
        found = found + _doubled(_times(found, (1 << 29) - _times(half, found)), 2)
    return _doubled(found, 1)
